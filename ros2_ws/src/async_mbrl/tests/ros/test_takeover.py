"""Takeovers on their way to the controller: from the one node that may, whole, within range."""

from __future__ import annotations

import math
from typing import Any

import intake_rig
import numpy as np
import pytest
from async_mbrl_interfaces import msg
from rclpy.serialization import serialize_message

from async_mbrl.control.takeover import Takeover, TakeoverRecord
from async_mbrl.ros.publishers import UNKNOWN
from async_mbrl.ros.takeover_intake import TakeoverIntake, takeover_to_message

ACTION = np.array([0.5, -1.0], np.float32)


class Stand(intake_rig.Stand):
    """Keeps the takeovers that were handed over, too."""

    def __init__(self) -> None:
        super().__init__('takeover', 'teleop')
        self.taken: list[Takeover] = []
        self.held = 0
        self.counts = {'takeovers_ignored': 0, 'takeover_steps': 3, 'takeover_lost': 0}

    def put_takeover(self, takeover: Takeover) -> None:
        if takeover.received_s == -math.inf:
            TakeoverRecord(2).pack(takeover)
            self.held += 1
        else:
            self.taken.append(takeover)

    def count(self, name: str) -> int:
        return self.counts[name]


@pytest.fixture
def stand() -> Stand:
    return Stand()


@pytest.fixture
def intake(stand: Stand) -> TakeoverIntake:
    return TakeoverIntake(stand, 2, 'teleop', stand, 1.0)


def message(**changes: Any) -> bytes:
    made = takeover_to_message(ACTION)
    for name, value in changes.items():
        setattr(made, name, value)
    return bytes(serialize_message(made))


def test_an_action_and_the_end_arrive_with_the_time_of_receipt(stand: Stand,
                                                               intake: TakeoverIntake) -> None:
    stand.receive(message())
    stand.receive(bytes(serialize_message(takeover_to_message(None))))
    first, last = stand.taken
    np.testing.assert_array_equal(first.action, ACTION)
    assert last.action is None and 0.0 <= last.received_s - first.received_s < 5.0
    assert stand.said[-2:] == ['/teleop takes over', 'the policy acts again']
    assert intake.refused == 0 and intake.part().text == 'the policy acts'


@pytest.mark.parametrize(('action', 'reason'), [
    ([], '0 numbers'), ([0.1], '1 numbers'), ([0.1] * 3, '3 numbers'),
    ([0.1, float('nan')], 'not finite'), ([0.1, float('-inf')], 'not finite'),
    ([0.1, -1.01], 'beyond')])
def test_what_cannot_be_acted_is_refused_and_counted(stand: Stand, intake: TakeoverIntake,
                                                     action: list[float], reason: str) -> None:
    stand.receive(message(action=action))
    assert not stand.taken and intake.refused == 1
    assert stand.held == 1, 'somebody who thinks to be in charge must not see the policy act'
    assert reason in intake.last_reason and reason in stand.said[-1]
    assert any(reason in warning for warning in intake.part().warnings)


def test_what_is_too_large_or_no_message_is_refused_unread(stand: Stand,
                                                           intake: TakeoverIntake) -> None:
    stand.receive(message(action=[0.0] * 100_000))
    assert 'at most' in intake.last_reason
    stand.receive(b'nonsense')
    assert 'no message' in intake.last_reason
    assert intake.refused == 2 and not stand.taken
    assert stand.held == 2, 'it may be somebody who wants to act'


def test_nobody_is_believed_beside_another(stand: Stand, intake: TakeoverIntake) -> None:
    for names, reason, held in ((['teleop', 'intruder'], 'intruder', 1),
                                (['intruder'], 'intruder', 1),      # it alone holds no arm
                                (['teleop', 'teleop'], 'there 2 times', 2)):
        stand.names = names
        stand.receive(message())
        assert not stand.taken and reason in intake.last_reason
        assert stand.held == held
    assert intake.refused == 3
    stand.receive(message(active=False))
    assert not stand.taken and (intake.refused, stand.held) == (4, 2)
    stand.names = ['teleop', UNKNOWN]   # not discovered yet: neither taken nor held against it
    stand.receive(message())
    assert not stand.taken and (intake.refused, stand.held) == (4, 2)
    stand.names = ['teleop']
    stand.receive(message())
    assert len(stand.taken) == 1


def test_nobody_is_believed_who_is_not_there(stand: Stand, intake: TakeoverIntake) -> None:
    stand.names = []
    stand.receive(message())
    assert not stand.taken and (intake.refused, stand.held) == (1, 0)
    assert '/teleop does not publish it' in intake.last_reason
    stand.receive(message(active=False))
    assert not stand.taken and intake.refused == 2


def test_diagnostics_say_whether_somebody_can_take_over_and_whether_the_arm_is_held(
        stand: Stand, intake: TakeoverIntake) -> None:
    def told() -> str:
        return str(intake.part().to_message('controller', 'arm').message)

    stand.receive(message())
    assert told() == 'a person is in charge'
    stand.counts['takeover_lost'] = 1
    assert told() == 'held: the takeover fell silent, or was refused'
    stand.counts['takeover_lost'] = 0
    stand.receive(message(active=False))
    assert told() == 'the policy acts'
    stand.names = ['intruder']
    assert told() == '/teleop is not there: nobody can take over'


def test_an_evaluation_that_is_not_taken_over_is_told(stand: Stand,
                                                      intake: TakeoverIntake) -> None:
    stand.counts['takeovers_ignored'] = 4
    stand.receive(message())
    assert 'an evaluation is not taken over' in stand.said[-1]
    assert 'an evaluation is not taken over' in intake.part().warnings
    assert msg.Takeover().active is False
