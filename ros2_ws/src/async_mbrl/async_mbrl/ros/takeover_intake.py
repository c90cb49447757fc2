"""What a person asks for, from its topic to the control loop, verified on the way."""

from __future__ import annotations

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.control.process import LoopProcess
from async_mbrl.control.takeover import Takeover, unheard
from async_mbrl.core.clock import RobotClock
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import FIXED_BYTES, MessageError, unpack
from async_mbrl.ros.convert import floats
from async_mbrl.ros.diagnostics import Growth, Part
from async_mbrl.ros.publishers import full_name, publishers, unknown

TAKEOVER_TOPIC = 'takeover'


def takeover_to_message(action: np.ndarray | None) -> msg.Takeover:
    """Give the message that asks for an action (action_size,), or ends a takeover; stamp left 0."""
    return msg.Takeover(active=action is not None,
                        action=floats(()) if action is None else floats(action))


def action_from_message(message: msg.Takeover, action_size: int) -> np.ndarray | None:
    """Give the action (action_size,) that is asked for; None where the takeover is over.

    Raises:
        MessageError: it is of another size, or not finite, or beyond [-1, 1].
    """
    if not message.active:
        return None
    action = np.array(message.action, np.float32)
    if action.shape != (action_size,):
        raise MessageError(f'an action of {len(action)} numbers, not {action_size}')
    if not np.isfinite(action).all():
        raise MessageError('the action is not finite')
    if np.abs(action).max() > 1.0:
        raise MessageError(f'an action of {np.abs(action).max():g}, beyond [-1, 1]')
    return action


class TakeoverIntake:
    """Receive, verify and hand over what the one node asks for that may take over.

    What is refused holds the arm, as a takeover that fell silent does, unless it says that nobody
    is in charge: somebody may think to act, be it from the first message on, and no policy must act
    instead. Which of several publishers has sent a message cannot be told, so none is believed
    while there is a second one; it holds the arm only if the one that may take over is among them.
    """

    def __init__(self, node: Node, action_size: int, publisher: str, loop: LoopProcess,
                 factor: float) -> None:
        """Subscribe to ``takeover``.

        Args:
            node: owner.
            action_size: numbers of an action.
            publisher: name of the node, in the namespace of the owner, that may take over.
            loop: the control loop.
            factor: real-time factor.
        """
        self._node = node
        self._action_size = action_size
        self._publisher = full_name(node, publisher)
        self._loop = loop
        self._clock = RobotClock(factor)
        self._growth = Growth()
        self._active = False
        self._ignored = 0
        self.refused = 0
        """Messages refused so far."""
        self.last_reason = ''
        """Why the last refused one was refused."""
        self._most_bytes = FIXED_BYTES + 4 * action_size
        self._topic = node.create_subscription(
            msg.Takeover, TAKEOVER_TOPIC, self._on_takeover, qos.TAKEOVER, raw=True).topic_name
        node.get_logger().info(f'{self._publisher} may take over on {self._topic}')

    def part(self) -> Part:
        """Say who acts, for ``/diagnostics``."""
        steps, ignored = (self._loop.count(name) for name in ('takeover_steps',
                                                               'takeovers_ignored'))
        refused = self._growth.of('refused', self.refused)
        there = self._publisher in publishers(self._node, self._topic)
        lost = self._loop.count('takeover_lost') > 0
        return Part('takeover', 'a person is in charge' if self._active else 'the policy acts', {
            'may take over': self._publisher, 'steps taken over': steps,
            'steps of evaluations not taken over': ignored, 'refused': self.refused,
            'last refusal': self.last_reason},
            warnings=('held: the takeover fell silent, or was refused' if lost else '',
                      '' if there else f'{self._publisher} is not there: nobody can take over',
                      f'{refused} refused: {self.last_reason}' if refused else '',
                      'an evaluation is not taken over' if self._growth.of('ignored', ignored)
                      else ''))

    def _on_takeover(self, data: bytes) -> None:
        received_s = self._clock.now()
        found = publishers(self._node, self._topic)
        others = [name for name in found if name != self._publisher]
        if unknown(others):     # discovery is not through yet; the next message comes soon
            return
        active = True       # as long as nothing else is known
        try:
            message = unpack(data, msg.Takeover, self._most_bytes)
            active = message.active
            if self._publisher not in found and not others:
                raise MessageError(f'{self._publisher} does not publish it, nor does anybody that '
                                   'is known')
            if others:
                raise MessageError(f'{", ".join(others)} may publish it, too; only '
                                   f'{self._publisher} is believed, and alone')
            if len(found) > 1:
                raise MessageError(f'{self._publisher} is there {len(found)} times')
            action = action_from_message(message, self._action_size)
        except MessageError as error:
            self.refused += 1
            self.last_reason = str(error)
            self._node.get_logger().warning(f'takeover refused: {error}',
                                            throttle_duration_sec=1.0)
            if active and self._publisher in found:
                self._loop.put_takeover(unheard(self._action_size))
            return
        self._loop.put_takeover(Takeover(received_s, action))
        self._tell(action is not None)

    def _tell(self, active: bool) -> None:
        log, ignored = self._node.get_logger(), self._loop.count('takeovers_ignored')
        if active != self._active:
            self._active = active
            log.info(f'{self._publisher} takes over' if active else 'the policy acts again')
        if ignored > self._ignored:
            self._ignored = ignored
            log.warning('an evaluation is not taken over: its policy is judged',
                        throttle_duration_sec=1.0)
