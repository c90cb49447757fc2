"""Planned actions in the control loop: which are followed, and what acts where none are."""

from __future__ import annotations

import dataclasses

import control_rig
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.control.core import ControlCore
from async_mbrl.control.plan_record import OLDEST_S, PlanRecord
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.core.plan import MOST_STEPS, Plan
from async_mbrl.core.transition import ControlStep, Mode, StepKind

ROBOT = control_rig.make_robot()
TASK = control_rig.make_reach(ROBOT)
MEAN = 0.25
"""What the policy does everywhere."""


def plan(step: int, *values: float, command: int = 3, episode: int = 3) -> Plan:
    return Plan(command, episode, step,
                np.array([[value] * ROBOT.joints for value in values], np.float32))


def asked(plans: dict[int, Plan], steps: int = 4, mode: Mode = Mode.EVALUATION,
          before: Plan | None = None) -> tuple[list[float], list[ControlStep], ControlCore]:
    """Run an episode; plans are handed over after the step that they are named by.

    Returns:
        The first component of each action asked for, the steps, and the control loop.
    """
    core = ControlCore(ROBOT, TASK, control_rig.NETWORK)
    core.set_policy(PolicyParameters.from_snapshot(
        control_rig.make_snapshot(TASK, bias=MEAN, std=0.1)))
    if before is not None:
        core.set_plan(before)
    command = control_rig.episode(ROBOT, 3, steps=steps, mode=mode, move_duration_s=0.0,
                                  start_pose=np.zeros(0))
    plant, tick, seen = control_rig.InertiaPlant(ROBOT), 0, []
    core.command(command)
    while True:
        time_s = tick / ROBOT.control_rate_hz
        sent = core.tick(time_s, plant.position, plant.velocity, time_s)
        for event in core.drain():
            assert event.kind != StepKind.ABORTED, event.reason
            if event.kind == StepKind.END:
                return [float(step.action_requested[0]) for step in seen], seen, core
            if event.kind == StepKind.STEP:
                seen.append(event)
                if event.step in plans:
                    core.set_plan(plans[event.step])
        plant.step(sent, 1.0 / ROBOT.control_rate_hz)
        tick += 1


def test_the_newest_plan_is_followed_and_then_the_policy() -> None:
    found, _, core = asked({0: plan(1, 0.1, 0.2), 1: plan(2, -0.3)})
    assert found == pytest.approx([MEAN, 0.1, -0.3, MEAN])
    assert core.planned_steps == 2


def test_a_late_plan_gives_the_action_for_the_step_at_hand() -> None:
    assert asked({1: plan(1, 0.1, 0.2, 0.3)})[0] == pytest.approx([MEAN, MEAN, 0.2, 0.3])


def test_plans_of_other_orders_and_episodes_are_not_followed() -> None:
    for other in (plan(1, 0.1, 0.1, 0.1, command=2), plan(1, 0.1, 0.1, 0.1, episode=4)):
        assert asked({0: other})[0] == pytest.approx([MEAN] * 4)
    assert asked({}, before=plan(0, 0.1, 0.1, 0.1, 0.1))[0] == pytest.approx([MEAN] * 4)


def test_a_plan_grows_too_old() -> None:
    most = round(OLDEST_S * TASK.config.policy_rate_hz)
    found, _, core = asked({0: plan(1, *[0.1] * MOST_STEPS)}, steps=most + 5)
    assert found == pytest.approx([MEAN, *[0.1] * (most + 1), *[MEAN] * 3])
    assert core.planned_steps == most + 1


def test_only_what_the_policy_draws_has_a_density() -> None:
    _, steps, _ = asked({0: plan(1, 0.1, 0.2)}, mode=Mode.LEARNING)
    assert [step.log_probability == 0.0 for step in steps] == [False, True, True, False]
    assert [step.exploration_std == 0.0 for step in steps] == [False, True, True, False]


def test_a_planned_action_passes_the_filter() -> None:
    weak = dataclasses.replace(ROBOT.limits, effort=tuple(
        0.5 * most for most in ROBOT.limits.effort))
    assert max(ROBOT.action_scale) > 0.0
    core = ControlCore(dataclasses.replace(ROBOT, limits=weak, action_scale=ROBOT.limits.effort),
                       TASK, control_rig.NETWORK)
    core.set_policy(PolicyParameters.from_snapshot(control_rig.make_snapshot(TASK)))
    core.command(control_rig.episode(ROBOT, 3, steps=4, move_duration_s=0.0,
                                     start_pose=np.zeros(0)))
    position, velocity = np.array(ROBOT.home), np.zeros(ROBOT.joints)
    core.tick(0.0, position, velocity, 0.0)
    core.set_plan(plan(1, *[1.0] * 3))
    for tick in range(1, 3 * core.ticks_per_step):
        sent = core.tick(tick / ROBOT.control_rate_hz, position, velocity,
                         tick / ROBOT.control_rate_hz)
        assert sent is not None
        assert (np.abs(sent) <= np.array(weak.effort) + 1e-9).all()
    assert core.planned_steps == 2
    assert core.counts['interventions_magnitude'] > 0


@given(command=st.integers(0, 2**64 - 1), episode=st.integers(0, 2**32 - 1),
       step=st.integers(0, 2**32 - 1), steps=st.integers(1, MOST_STEPS),
       size=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_plan_survives_its_record(command: int, episode: int, step: int, steps: int, size: int,
                                    seed: int) -> None:
    actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, size)).astype(np.float32)
    record = PlanRecord(size)
    packed = record.pack(Plan(command, episode, step, actions))
    assert len(packed) <= record.size
    found = record.unpack(packed)
    assert (found.command_number, found.episode, found.step) == (command, episode, step)
    np.testing.assert_array_equal(found.actions, actions)


@pytest.mark.parametrize('shape', [(MOST_STEPS + 1, 7), (3, 6), (7,)])
def test_a_plan_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='shape'):
        PlanRecord(7).pack(Plan(0, 0, 0, np.zeros(shape, np.float32)))
