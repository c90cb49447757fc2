"""Plans on their way to the controller: believed from the planner alone, whole and within range."""

from __future__ import annotations

from typing import Any

import intake_rig
import numpy as np
import pytest
from async_mbrl_interfaces import msg
from rclpy.serialization import serialize_message

from async_mbrl.core.plan import MOST_STEPS, Plan
from async_mbrl.core.snapshot import Version
from async_mbrl.ros.plan_intake import PlanIntake, plan_from_message, plan_to_message
from async_mbrl.ros.publishers import UNKNOWN

ACTIONS = np.array([[0.1, -0.2], [0.3, 1.0], [-1.0, 0.0]], np.float32)
PLAN = Plan(7, 5, 11, ACTIONS)


class Stand(intake_rig.Stand):
    """Keeps the plans that were handed over, too."""

    def __init__(self) -> None:
        super().__init__('planned_actions', 'planner')
        self.plans: list[Plan] = []

    def put_plan(self, plan: Plan) -> None:
        self.plans.append(plan)

    def count(self, _name: str) -> int:
        return 3


def message(**changes: Any) -> msg.PlannedActions:
    made = plan_to_message(PLAN, Version(2, 9), 0.03)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_plan_arrives_as_it_was() -> None:
    stand = Stand()
    intake = PlanIntake(stand, 2, stand)
    stand.receive(serialize_message(message()))
    (found,) = stand.plans
    assert (found.command_number, found.episode, found.step) == (7, 5, 11)
    np.testing.assert_array_equal(found.actions, ACTIONS)
    assert (intake.taken, intake.refused) == (1, 0)
    assert message().planning_ms == pytest.approx(30.0)
    assert message().model_version == msg.SnapshotVersion(incarnation=2, counter=9)


@pytest.mark.parametrize(('actions', 'reason'), [
    ([], '0 numbers'), ([0.1] * 3, '3 numbers'), ([0.0] * 2 * (MOST_STEPS + 1), 'fit'),
    ([0.1, float('nan')], 'not finite'), ([0.1, float('inf')], 'not finite'),
    ([0.1, 1.1], 'beyond')])
def test_what_is_no_plan_is_refused_and_counted(actions: list[float], reason: str) -> None:
    stand = Stand()
    intake = PlanIntake(stand, 2, stand)
    stand.receive(serialize_message(message(actions=actions)))
    assert not stand.plans
    assert intake.refused == 1
    assert reason in intake.last_reason and reason in stand.said[-1]
    assert reason in intake.part().warnings[0]


def test_what_is_too_large_or_no_message_is_refused_unread() -> None:
    stand = Stand()
    intake = PlanIntake(stand, 2, stand)
    stand.receive(serialize_message(message(actions=[0.0] * 100_000)))
    assert 'at most' in intake.last_reason
    stand.receive(b'nonsense')
    assert 'no message' in intake.last_reason
    assert intake.refused == 2 and not stand.plans


def test_nobody_is_believed_while_another_node_may_publish_plans() -> None:
    stand = Stand()
    intake = PlanIntake(stand, 2, stand)
    stand.names = ['planner', 'intruder']
    stand.receive(serialize_message(message()))
    assert not stand.plans and intake.refused == 1
    assert 'intruder' in intake.last_reason
    stand.names = [UNKNOWN]         # not discovered yet: neither taken nor held against it
    stand.receive(serialize_message(message()))
    assert not stand.plans and intake.refused == 1
    stand.names = ['planner']
    stand.receive(serialize_message(message()))
    assert len(stand.plans) == 1


def test_actions_survive_the_message() -> None:
    np.testing.assert_array_equal(plan_from_message(message(), 2).actions, ACTIONS)
