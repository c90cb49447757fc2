"""Offline episodes run the control code of the live loop against the plant."""

from __future__ import annotations

import dataclasses

import arm7
import numpy as np
import pytest

from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import StepKind
from async_mbrl.simulation.offline import evaluate, evaluation_commands, make_offline_arm
from async_mbrl.tasks import make_task

ROBOT = arm7.robot()
TASK = arm7.task(episode_steps=5)
BUILT = make_task(TASK, ROBOT)
STILL = arm7.constant_policy(BUILT, np.zeros(7))


def _arm(snapshot=STILL, plant=None):
    return make_offline_arm(snapshot, ROBOT, plant or arm7.plant(), BUILT, arm7.NETWORK,
                            np.random.default_rng(0))


def test_an_episode_gives_its_events_and_ends_where_the_last_observation_was_taken():
    arm = _arm(arm7.constant_policy(BUILT, np.full(7, 0.3)), arm7.ideal_plant())
    command = evaluation_commands(BUILT, STILL, 1, seed=0)[0]
    events = arm.run(command, teleport=True)
    assert [event.kind for event in events] == (
        [StepKind.MOVE_DONE] + [StepKind.STEP] * 5 + [StepKind.END])
    times = np.array([event.time_s for event in events[1:]])
    assert np.diff(times) == pytest.approx(np.full(5, 0.1))
    last = events[-1].observation
    assert last[BUILT.position] == pytest.approx(arm.physics.position, abs=1e-6)
    assert last[BUILT.tool] == pytest.approx(arm.physics.tool_points(), abs=1e-6)
    assert events[-1].previous_action_applied == pytest.approx(np.full(7, 0.3), abs=1e-5)
    assert np.abs(arm.physics.position - command.start_pose).max() > 0.01


def test_a_move_without_teleport_reaches_the_start_pose():
    arm = _arm()
    start = np.array(ROBOT.home) + 0.2
    command = dataclasses.replace(evaluation_commands(BUILT, STILL, 1, seed=0)[0],
                                  start_pose=start, move_duration_s=2.0)
    events = arm.run(command)
    assert events[0].kind == StepKind.MOVE_DONE
    assert events[1].observation[BUILT.position] == pytest.approx(start, abs=0.03)
    assert events[-1].kind == StepKind.END


def test_evaluation_repeats_with_its_seed_and_judges_by_true_positions():
    first = evaluate(STILL, ROBOT, arm7.plant(), TASK, arm7.NETWORK, 3, seed=1)
    again = evaluate(STILL, ROBOT, arm7.plant(), TASK, arm7.NETWORK, 3, seed=1)
    other = evaluate(STILL, ROBOT, arm7.plant(), TASK, arm7.NETWORK, 3, seed=2)
    assert (first.distances == again.distances).all()
    assert (first.returns == again.returns).all()
    assert (first.distances != other.distances).all()
    assert first.success_rate == 0.0
    assert first.aborts == ()
    near = arm7.task(episode_steps=2, goal_half_range=(0.0,) * 7, start_half_range=(0.0,) * 7)
    result = evaluate(STILL, ROBOT, arm7.plant(), near, arm7.NETWORK, 2, seed=0)
    assert result.success_rate == 1.0
    assert result.episodes == 2


def test_an_episode_of_another_policy_is_aborted():
    command = evaluation_commands(BUILT, dataclasses.replace(STILL, version=Version(9, 9)), 1,
                                  seed=0)[0]
    events = _arm().run(command, teleport=True)
    assert events[-1].kind == StepKind.ABORTED
    assert '9.9' in events[-1].reason


def test_rates_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match='control_rate_hz'):
        _arm(plant=arm7.plant(physics_rate_hz=750.0, state_rate_hz=750.0))


@pytest.mark.parametrize('interface', ['velocity', 'position'])
def test_an_arm_that_was_put_elsewhere_begins_there_whatever_was_sent_before(interface):
    robot = dataclasses.replace(ROBOT, command_interface=interface)
    policy = arm7.constant_policy(BUILT, np.full(7, 0.2))
    result = evaluate(policy, robot, arm7.ideal_plant(),
                      dataclasses.replace(TASK, start_half_range=(0.2,) * 7), arm7.NETWORK, 4,
                      seed=0)
    assert not result.aborts
