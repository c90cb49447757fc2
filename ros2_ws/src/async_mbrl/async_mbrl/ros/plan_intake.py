"""Plans from their topic to the control loop, verified on the way."""

from __future__ import annotations

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.control.process import LoopProcess
from async_mbrl.core.plan import MOST_STEPS, Plan
from async_mbrl.core.snapshot import Version
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import FIXED_BYTES, MessageError, unpack
from async_mbrl.ros.convert import floats, version_to_message
from async_mbrl.ros.diagnostics import Growth, Part
from async_mbrl.ros.publishers import strangers, unknown

TOPIC = 'planned_actions'
PLANNER = 'planner'


def plan_to_message(plan: Plan, model_version: Version, planning_s: float) -> msg.PlannedActions:
    """Give the message of a plan, its stamp left 0."""
    return msg.PlannedActions(
        command_number=plan.command_number, episode=plan.episode, step=plan.step,
        actions=floats(plan.actions.ravel()), model_version=version_to_message(model_version),
        planning_ms=1e3 * planning_s)


def plan_from_message(message: msg.PlannedActions, action_size: int) -> Plan:
    """Give the plan of a message.

    Raises:
        MessageError: it has no actions, or too many, or not whole ones, or one is not finite or
            beyond [-1, 1].
    """
    steps, rest = divmod(len(message.actions), action_size)
    if rest or not 1 <= steps <= MOST_STEPS:
        raise MessageError(f'{len(message.actions)} numbers, where from 1 to {MOST_STEPS} actions '
                           f'of {action_size} fit')
    actions = np.array(message.actions, np.float32).reshape(steps, action_size)
    if not np.isfinite(actions).all():
        raise MessageError('an action is not finite')
    if np.abs(actions).max() > 1.0:
        raise MessageError(f'an action of {np.abs(actions).max():g}, beyond [-1, 1]')
    return Plan(message.command_number, message.episode, message.step, actions)


class PlanIntake:
    """Receive, verify and hand over plans; the control loop looks whether they are for its episode.

    Plans are small, and worth nothing soon: all is done in the callback.
    """

    def __init__(self, node: Node, action_size: int, loop: LoopProcess) -> None:
        """Subscribe to ``planned_actions``."""
        self._node = node
        self._action_size = action_size
        self._loop = loop
        self._growth = Growth()
        self.taken = 0
        """Plans handed over so far."""
        self.refused = 0
        """Plans refused so far."""
        self.last_reason = ''
        """Why the last refused one was refused."""
        self._most_bytes = FIXED_BYTES + 4 * MOST_STEPS * action_size
        self._topic = node.create_subscription(
            msg.PlannedActions, TOPIC, self._on_plan, qos.FRESH, raw=True).topic_name

    def part(self) -> Part:
        """Say what was planned and followed, for ``/diagnostics``."""
        followed = self._loop.count('planned_steps')
        refused = self._growth.of('refused', self.refused)
        return Part('plans', f'{followed} steps were acted as planned', {
            'planned steps': followed, 'taken': self.taken, 'refused': self.refused,
            'last refusal': self.last_reason},
            warnings=(f'{refused} refused: {self.last_reason}' if refused else '',))

    def _on_plan(self, data: bytes) -> None:
        others = strangers(self._node, self._topic, PLANNER)
        if unknown(others):     # discovery is not through yet; the next plan comes soon
            return
        try:
            if others:          # which of them sent it cannot be told
                raise MessageError(f'{", ".join(others)} may publish plans, too; only {PLANNER} of '
                                   'this graph is believed')
            plan = plan_from_message(unpack(data, msg.PlannedActions, self._most_bytes),
                                     self._action_size)
        except MessageError as error:
            self.refused += 1
            self.last_reason = str(error)
            self._node.get_logger().warning(f'plan refused: {error}', throttle_duration_sec=1.0)
            return
        self._loop.put_plan(plan)
        self.taken += 1
