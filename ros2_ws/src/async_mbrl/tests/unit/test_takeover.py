"""A person who takes over: when they act, what is marked, and what a silence leads to."""

from __future__ import annotations

from collections.abc import Callable

import control_rig
import numpy as np
import pytest
from filter_rig import INTERFACES, Checks, SimpleArm
from hypothesis import given, settings
from hypothesis import strategies as st

from async_mbrl.control.core import ControlCore
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.control.takeover import (
    LOST,
    SILENT_S,
    Takeover,
    TakeoverRecord,
    TakeoverState,
    unheard,
)
from async_mbrl.core.plan import Plan
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import NOT_NOW, ControlStep, Mode, StepKind

ROBOT = control_rig.make_robot()
TASK = control_rig.make_reach(ROBOT)
MEAN = 0.05
"""What the policy does everywhere, its noise aside."""
PERIOD_S = 1.0 / ROBOT.control_rate_hz


def asking(value: float, time_s: float) -> Takeover:
    return Takeover(time_s, np.full(ROBOT.joints, value, np.float32))


def ended(time_s: float) -> Takeover:
    return Takeover(time_s, None)


class Bench:
    """A control loop on a plant, in lockstep, and a person who says something at each tick."""

    def __init__(self, says: Callable[[float], Takeover | None]) -> None:
        self.core = ControlCore(ROBOT, TASK, control_rig.NETWORK)
        self.core.set_policy(PolicyParameters.from_snapshot(
            control_rig.make_snapshot(TASK, bias=MEAN, std=0.01)))
        self.plant = control_rig.InertiaPlant(ROBOT)
        self.says = says
        self.ticks = 0
        self.number = 0
        self.events: list[ControlStep] = []

    @property
    def now_s(self) -> float:
        return self.ticks * PERIOD_S

    def order(self, steps: int = 6, mode: Mode = Mode.LEARNING) -> None:
        self.core.command(control_rig.episode(
            ROBOT, self.number, steps=steps, mode=mode, move_duration_s=0.0,
            start_pose=np.zeros(0)))
        self.number += 1

    def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s / PERIOD_S)):
            said = self.says(self.now_s)
            if said is not None:
                self.core.set_takeover(said)
            sent = self.core.tick(self.now_s, self.plant.position, self.plant.velocity, self.now_s)
            self.events += self.core.drain()
            self.plant.step(sent, PERIOD_S)
            self.ticks += 1

    def steps(self) -> list[ControlStep]:
        return [event for event in self.events if event.kind == StepKind.STEP]

    def last(self) -> ControlStep:
        return self.events[-1]


def between(begin_s: float, end_s: float, value: float) -> Callable[[float], Takeover | None]:
    """Somebody who takes over for a time, and then gives the robot back."""
    def says(time_s: float) -> Takeover | None:
        if begin_s <= time_s < end_s:
            return asking(value, time_s)
        return ended(time_s) if end_s <= time_s < end_s + PERIOD_S else None
    return says


def test_a_person_acts_while_in_charge_and_their_steps_are_marked() -> None:
    bench = Bench(between(0.15, 0.35, -0.1))
    bench.order()
    bench.run(0.7)
    assert bench.last().kind == StepKind.END
    steps = bench.steps()
    assert [step.takeover for step in steps] == [False, False, True, True, False, False]
    for step in steps:
        if step.takeover:
            np.testing.assert_array_equal(step.action_requested,
                                          np.full(ROBOT.joints, -0.1, np.float32))
            assert (step.log_probability, step.exploration_std) == (0.0, 0.0)
        else:
            assert step.action_requested == pytest.approx(MEAN, abs=0.06)
            assert step.log_probability != 0.0 and step.exploration_std > 0.0
    assert steps[3].previous_action_applied == pytest.approx(-0.1, abs=0.02)
    assert all(step.policy_version == Version(1, 0) for step in steps)
    assert bench.core.takeover_steps == 2


def test_the_newest_action_counts() -> None:
    bench = Bench(lambda time_s: asking(0.001 * round(time_s / PERIOD_S), time_s))
    bench.order(steps=3)
    bench.run(0.35)
    assert [step.action_requested[0] for step in bench.steps()] == pytest.approx([0.0, 0.05, 0.1])


def test_a_person_goes_before_a_plan() -> None:
    bench = Bench(between(0.15, 0.25, -0.1))
    bench.order(steps=4)
    bench.run(0.05)
    bench.core.set_plan(Plan(0, 0, 1, np.full((3, ROBOT.joints), 0.2, np.float32)))
    bench.run(0.45)
    assert [step.action_requested[0] for step in bench.steps()][1:] == pytest.approx(
        [0.2, -0.1, 0.2])
    assert [step.takeover for step in bench.steps()] == [False, False, True, False]


def test_one_who_falls_silent_ends_the_episode_and_none_begins_before_the_end_is_said() -> None:
    silent_from_s, end_s = 0.2, float('inf')

    def says(time_s: float) -> Takeover | None:
        if time_s >= end_s:
            return ended(time_s)
        return asking(0.1, time_s) if time_s <= silent_from_s else None

    bench = Bench(says)
    bench.order(steps=100)
    bench.run(silent_from_s + SILENT_S)
    assert bench.core.state == 'running'
    bench.run(0.01)
    assert (bench.core.state, bench.last().kind) == ('holding', StepKind.ABORTED)
    assert bench.core.takeover_lost
    assert bench.last().reason == LOST and LOST.startswith(NOT_NOW)
    assert all(step.takeover for step in bench.steps())
    held = bench.plant.position
    bench.run(1.0)
    np.testing.assert_allclose(bench.plant.position, held, atol=0.05)

    bench.order()
    bench.run(0.01)
    assert (bench.core.state, bench.last().reason) == ('holding', LOST)
    silent_from_s = float('inf')        # they are heard again, but have not let go
    bench.run(0.5)
    bench.order()
    bench.run(0.01)
    assert (bench.core.state, bench.last().reason) == ('holding', LOST)
    end_s = bench.now_s
    bench.run(0.01)
    bench.order()
    bench.run(0.05)
    assert bench.core.state == 'running' and not bench.steps()[-1].takeover
    assert not bench.core.takeover_lost


def test_one_who_falls_silent_between_episodes_is_not_followed_by_the_policy_either() -> None:
    bench = Bench(lambda time_s: asking(0.1, time_s) if time_s < 0.2 else None)
    bench.run(0.6)
    assert bench.core.takeover_lost, 'though no episode asked for it'
    bench.order()
    bench.run(0.01)
    assert bench.last().reason == LOST and not bench.steps()
    bench.order(mode=Mode.EVALUATION)
    bench.run(0.05)
    assert bench.core.state == 'idle' and not bench.steps(), 'the arm is held, as LOST says'
    assert (bench.last().mode, bench.last().reason) == (Mode.EVALUATION, LOST)


def test_one_who_was_never_understood_holds_the_arm_until_the_end_is_said() -> None:
    bench = Bench(lambda time_s: unheard(ROBOT.joints) if 0.2 <= time_s < 0.2 + PERIOD_S else None)
    bench.order(steps=100)
    bench.run(0.25)
    assert (bench.core.state, bench.last().reason) == ('holding', LOST)
    assert not any(step.takeover for step in bench.steps())
    bench.core.set_takeover(asking(0.1, bench.now_s))
    bench.order()
    bench.run(0.05)
    assert (bench.core.state, bench.last().reason) == ('holding', LOST)
    bench.core.set_takeover(ended(bench.now_s))
    bench.order()
    bench.run(0.05)
    assert bench.core.state == 'running'


def test_a_takeover_sets_nothing_in_motion() -> None:
    bench = Bench(lambda time_s: asking(1.0, time_s))
    bench.run(0.5)
    assert bench.core.state == 'idle' and not bench.events
    bench.order(steps=2)
    bench.run(0.5)
    assert bench.core.state == 'holding'
    held = bench.plant.position
    bench.run(0.5)
    assert len(bench.steps()) == 2
    np.testing.assert_allclose(bench.plant.position, held, atol=0.05)


def test_stops_go_before_a_takeover() -> None:
    bench = Bench(lambda time_s: asking(0.1, time_s))
    bench.order(steps=100)
    bench.run(0.15)
    bench.core.set_cause('emergency_stop', True, 'pressed')
    bench.run(0.5)
    assert bench.core.state == 'estop' and len(bench.steps()) == 2
    bench.order()
    bench.run(0.1)
    assert bench.last().reason.startswith('emergency stop')


def test_an_evaluation_is_not_taken_over_nor_ended_by_a_silence() -> None:
    bench = Bench(lambda time_s: asking(-0.5, time_s) if time_s < 0.2 else None)
    bench.order(steps=6, mode=Mode.EVALUATION)
    bench.run(0.7)
    assert bench.last().kind == StepKind.END
    assert [step.action_requested[0] for step in bench.steps()] == pytest.approx([MEAN] * 6)
    assert not any(step.takeover for step in bench.steps())
    assert (bench.core.takeover_steps, bench.core.takeovers_ignored) == (0, 6)
    bench.order(steps=6, mode=Mode.EVALUATION)
    bench.run(0.05)
    assert bench.last().reason == LOST


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), interface=st.sampled_from(INTERFACES))
def test_whatever_is_asked_for_the_limits_hold(seed: int, interface: str) -> None:
    rng = np.random.default_rng(seed)
    # Far more than the arm can do, so that only the filter keeps it within.
    greatest = [10.0 * float(bound) for bound in
                control_rig.make_robot(command_interface=interface).command_bounds[1]]
    robot = control_rig.make_robot(command_interface=interface, action_scale=greatest)
    core = ControlCore(robot, control_rig.make_reach(robot), control_rig.NETWORK)
    core.set_policy(PolicyParameters.from_snapshot(control_rig.make_snapshot(TASK)))
    core.command(control_rig.episode(robot, steps=20, move_duration_s=0.0, start_pose=np.zeros(0)))
    arm, checks = SimpleArm(robot, np.array(robot.home), np.zeros(robot.joints)), Checks(robot)
    checks.begin(np.array(robot.home) if interface == 'position' else np.zeros(robot.joints))
    action = np.zeros(robot.joints, np.float32)
    for tick in range(4 * core.ticks_per_step):
        time_s = tick / robot.control_rate_hz
        if rng.random() < 0.2:
            action = rng.choice([-1.0, 0.0, 1.0, rng.uniform(-1, 1)], robot.joints).astype('f4')
        core.set_takeover(Takeover(time_s, None if rng.random() < 0.05 else action))
        sent = core.tick(time_s, arm.position, arm.velocity, time_s)
        if sent is not None:
            checks.take(sent)
            arm.step(sent)
    assert core.takeover_steps > 0
    assert not checks.counts, dict(checks.counts)


@given(received_s=st.floats(allow_nan=False), size=st.integers(1, 20), active=st.booleans(),
       seed=st.integers(0, 1000))
def test_a_takeover_survives_its_record(received_s: float, size: int, active: bool,
                                        seed: int) -> None:
    action = np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)
    record = TakeoverRecord(size)
    packed = record.pack(Takeover(received_s, action if active else None))
    assert len(packed) <= record.size
    found = record.unpack(packed)
    assert found.received_s == received_s
    assert (found.action is None) != active
    if found.action is not None:
        np.testing.assert_array_equal(found.action, action)


def test_an_action_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match='shape'):
        TakeoverRecord(3).pack(Takeover(0.0, np.zeros(4, np.float32)))


def test_a_silence_between_two_messages_counts_though_nobody_looked() -> None:
    state = TakeoverState()
    state.take(asking(0.1, 1.0))
    state.take(asking(0.1, 1.0 + SILENT_S + 0.01))
    assert state.lost(1.3)
    state.take(ended(1.4))
    assert not state.lost(9.0) and state.action is None
