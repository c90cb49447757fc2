"""How large messages may be and what shape they must have: what is beyond is refused unread.

Subscriptions take messages serialised and look at their size before anything is made of them. What
is no message at all is refused in the same way, wherever it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from async_mbrl.core.transition import CommandKind, Mode, StepKind

STATUS_BYTES = 64 * 1024
"""Most bytes of a status."""

FIXED_BYTES = 1024
"""Room for the fields of a message of a stream that do not grow with the task."""

REASON_CHARACTERS = 2048
"""Longest reason of a control step."""


_PLAIN_CDR = (b'\x00\x00', b'\x00\x01')


class MessageError(ValueError):
    """A message is refused; the text says what is wrong with it."""


def unpack(data: bytes, kind: type, maximum_bytes: int) -> Any:
    """Deserialise a message.

    Raises:
        MessageError: it is larger than ``maximum_bytes``, or not a message of this kind.
    """
    if len(data) > maximum_bytes:
        raise MessageError(f'a message of {len(data)} bytes, at most {maximum_bytes} are taken')
    if data[:2] not in _PLAIN_CDR:
        raise MessageError(f'{len(data)} bytes that are no message')
    try:
        return deserialize_message(data, kind)
    except RuntimeError:    # what rmw raises; its text is long and says no more
        raise MessageError(f'{len(data)} bytes that are no {kind.__name__}') from None


def subscribe(node: Node, kind: type, topic: str, callback: Callable[[Any], None],
              profile: QoSProfile, *, maximum_bytes: int = STATUS_BYTES,
              **options: Any) -> Subscription:
    """Subscribe to what has at most so many bytes; other messages are dropped and reported."""
    def take(data: bytes) -> None:
        try:
            message = unpack(data, kind, maximum_bytes)
        except MessageError as error:
            node.get_logger().warning(f'{topic}: refused {error}', throttle_duration_sec=1.0)
            return
        callback(message)

    return node.create_subscription(kind, topic, take, profile, raw=True, **options)


@dataclass(frozen=True)
class StreamBounds:
    """Sizes of what the streams of a task carry.

    Attributes:
        observation: numbers of an observation.
        action: numbers of an action, one a joint.
        goal: numbers of a goal.
        start: numbers of what an episode starts from.
    """

    observation: int
    action: int
    goal: int
    start: int

    @classmethod
    def of(cls, task: Any) -> StreamBounds:
        """Give those of a task (see :mod:`async_mbrl.tasks`)."""
        return cls(task.observation_size, task.action_size, task.goal_size, task.start_size)

    def most_bytes(self, kind: type) -> int:
        """Give the most bytes that a message of a stream has."""
        if kind is msg.Transition:
            return FIXED_BYTES + 8 * (self.observation + self.action)
        if kind is msg.ControlStep:
            return FIXED_BYTES + 4 * REASON_CHARACTERS + 4 * (self.observation + 2 * self.action)
        # Commands of a wrong size must reach the controller, which refuses them by name.
        return FIXED_BYTES + 4 * (8 * self.start + 4 * self.goal)

    def flaw(self, message: Any) -> str:
        """Say what is wrong with a message of a stream; empty if nothing is."""
        if isinstance(message, msg.Transition):
            return self._transition_flaw(message)
        if isinstance(message, msg.ControlStep):
            return self._step_flaw(message)
        return _choice_flaw(message.kind, CommandKind, 'kind') or _choice_flaw(
            message.mode, Mode, 'mode')

    def _transition_flaw(self, message: msg.Transition) -> str:
        for name, size in (('observation', self.observation),
                           ('action_requested', self.action), ('action_applied', self.action),
                           ('next_observation', self.observation)):
            flaw = _numbers_flaw(message, name, size)
            if flaw:
                return flaw
        return '' if math.isfinite(message.reward) else f'reward {message.reward} is not finite'

    def _step_flaw(self, message: msg.ControlStep) -> str:
        flaw = _choice_flaw(message.kind, StepKind, 'kind') or _choice_flaw(
            message.mode, Mode, 'mode')
        if flaw:
            return flaw
        observed = message.kind in (StepKind.STEP, StepKind.END)
        acted = message.kind == StepKind.STEP
        for name, size, needed in (
                ('observation', self.observation, observed),
                ('action_requested', self.action, acted),
                ('previous_action_applied', self.action,
                 observed and (message.step > 0 or not acted))):
            if needed or len(getattr(message, name)):
                flaw = _numbers_flaw(message, name, size)
                if flaw:
                    return flaw
        if len(message.reason) > REASON_CHARACTERS:
            return f'reason has {len(message.reason)} characters, at most {REASON_CHARACTERS}'
        return ''


def _numbers_flaw(message: Any, name: str, size: int) -> str:
    values = getattr(message, name)
    if len(values) != size:
        return f'{name} has {len(values)} numbers, not {size}'
    return '' if np.isfinite(np.asarray(values)).all() else f'{name} is not finite'


def _choice_flaw(value: int, choices: type, name: str) -> str:
    try:
        choices(value)
    except ValueError:
        return f'{name} {value} is unknown'
    return ''
