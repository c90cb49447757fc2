"""How a benchmark body is controlled: efforts within bounds, starts by its simulator."""

from __future__ import annotations

import math

import arm7
import bodies
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.control.body import EffortClip
from async_mbrl.control.core import ControlCore
from async_mbrl.control.plausibility import Plausibility
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.core.transition import CommandKind, EpisodeCommand, StepKind

ROBOT = bodies.robot('half_cheetah')
MOST = np.array(ROBOT.action_scale)
PERIOD_S = 1.0 / ROBOT.control_rate_hz


class Rig:
    """A control loop without a simulator: joint states are what the test says."""

    def __init__(self, action: float = 0.5) -> None:
        self.task = bodies.task('half_cheetah')
        self.core = ControlCore(ROBOT, self.task, arm7.NETWORK)
        self.core.set_policy(PolicyParameters.from_snapshot(
            arm7.constant_policy(self.task, np.full(6, action))))
        self.ticks = 0
        self.state = np.zeros(18)

    def tick(self, count: int = 1) -> list[np.ndarray | None]:
        sent = []
        for _ in range(count):
            time_s = self.ticks * PERIOD_S
            command = self.core.tick(time_s, self.state[:9], self.state[9:], time_s)
            sent.append(None if command is None else command.copy())
            self.ticks += 1
        return sent

    def order(self, start: np.ndarray, duration_s: float = 0.1) -> None:
        self.core.command(EpisodeCommand(
            CommandKind.RUN_EPISODE, number=1, start_pose=start, move_duration_s=duration_s,
            steps=4))


@given(st.lists(st.floats(), min_size=6, max_size=6))
def test_efforts_are_within_those_of_the_motors(asked):
    clip = EffortClip(ROBOT)
    command = np.array(asked)
    sent = clip.apply(command, np.zeros(9), np.zeros(9))
    assert (np.abs(sent) <= MOST).all()
    if np.isfinite(command).all():
        assert sent == pytest.approx([min(max(value, -most), most) for value, most in zip(
            asked, MOST, strict=True)])
        assert clip.non_finite == 0
    else:
        assert not sent.any() and clip.non_finite == 1
    assert clip.intervened == (sent.tolist() != asked)
    assert clip.counts['interventions'] == clip.intervened
    assert not clip.safe().any() and clip.at_safe


def test_states_that_are_not_finite_give_no_effort():
    clip = EffortClip(ROBOT)
    assert not clip.apply(MOST, np.full(9, math.nan), np.zeros(9)).any()
    assert clip.non_finite == 1 and clip.counts['interventions_finite'] == 1


def test_nothing_is_sent_until_the_reset_is_over():
    rig = Rig()
    rig.tick(3)
    start = rig.task.sample_start(np.random.default_rng(0))
    rig.order(start)
    assert rig.tick() == [None]
    assert rig.core.wanted_state() == pytest.approx(start)
    assert rig.core.wanted_state() is None      # asked for once
    assert rig.core.state == 'moving'
    rig.state = start
    assert rig.tick(9) == [None] * 9
    (sent,) = rig.tick()
    assert sent == pytest.approx(0.5 * MOST)
    kinds = [event.kind for event in rig.core.drain()]
    assert kinds == [StepKind.MOVE_DONE, StepKind.STEP]
    rig.tick(4 * 5)
    assert [event.kind for event in rig.core.drain()] == [StepKind.STEP] * 3 + [StepKind.END]
    assert rig.core.state == 'holding'
    assert not rig.tick()[0].any()      # nothing holds it: no effort


def test_a_body_that_is_not_where_it_shall_be_is_given_up():
    rig = Rig()
    rig.tick(3)
    start = np.zeros(18)
    start[1] = 0.5
    rig.order(start)
    assert rig.tick(15) == [None] * 15
    assert not rig.tick()[0].any()
    (event,) = rig.core.drain()
    assert event.kind == StepKind.ABORTED
    assert 'a position is 0.500 away' in event.reason


def test_an_emergency_stop_takes_the_effort_away():
    rig = Rig()
    rig.tick(3)
    rig.order(np.zeros(18))
    rig.tick(11)
    assert rig.tick()[0].any()
    rig.core.set_cause('emergency_stop', True, 'test')
    assert not rig.tick()[0].any()
    assert rig.core.state == 'estop'


def test_stale_states_take_the_effort_away():
    rig = Rig()
    rig.tick(3)
    rig.order(np.zeros(18))
    rig.tick(12)
    now_s = rig.ticks * PERIOD_S
    sent = rig.core.tick(now_s, rig.state[:9], rig.state[9:], now_s - 0.2)
    assert not sent.any()
    assert rig.core.drain()[-1].reason.startswith('joint states are stale')


def test_a_body_may_jump():
    judge = Plausibility(ROBOT.most_speed)
    for number, place in enumerate((0.0, 5.0, -5.0, 0.0)):
        assert judge.flaw(0.01 * number, 10_000_000 * (number + 1), np.full(9, place)) == ''
    assert judge.flaw(0.05, 10_000_000, np.zeros(9))       # from the past
