"""Plans on their way to the control loop, and how long one may be followed."""

from __future__ import annotations

import struct

import numpy as np

from async_mbrl.core.plan import MOST_STEPS, Plan

OLDEST_S = 0.5
"""A plan is not followed any more once its first action was due this long ago, robot time."""


class PlanRecord:
    """Bytes of a plan."""

    _head = struct.Struct('<QIII')

    def __init__(self, action_size: int) -> None:
        """Leave room for the most actions that a plan may have."""
        self._action = action_size
        self.size = self._head.size + 4 * MOST_STEPS * action_size
        """Most bytes of a record."""

    def pack(self, plan: Plan) -> bytes:
        """Give the bytes of a plan.

        Raises:
            ValueError: its actions are of another size, or too many.
        """
        shape = plan.actions.shape
        if len(shape) != 2 or shape[1] != self._action or shape[0] > MOST_STEPS:
            raise ValueError(f'a plan with actions of shape {shape}, where at most '
                             f'{(MOST_STEPS, self._action)} fit')
        return self._head.pack(plan.command_number, plan.episode, plan.step, shape[0]) + (
            np.ascontiguousarray(plan.actions, '<f4').tobytes())

    def unpack(self, record: bytes) -> Plan:
        """Give the plan of bytes."""
        command_number, episode, step, steps = self._head.unpack_from(record)
        actions = np.frombuffer(record, '<f4', steps * self._action, self._head.size)
        return Plan(command_number, episode, step, actions.reshape(steps, self._action))
