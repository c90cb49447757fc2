"""Asking a simulator for the state in which an episode of a benchmark body starts.

The wish is a joint state: positions and velocities by name. It is not answered: whether the body
is there shows in the joint states that follow, and the control loop looks at those.
"""

from __future__ import annotations

import array

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState

from async_mbrl.core.robot import BenchmarkConfig
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import MessageError, unpack
from async_mbrl.ros.driver import PolledGroup

TOPIC = 'reset_state'

_MOST_BYTES = 64 * 1024


class ResetPublisher:
    """Ask for states."""

    def __init__(self, node: Node, robot: BenchmarkConfig) -> None:
        """Create the publisher."""
        self._names = list(robot.state_names)
        self._publisher = node.create_publisher(JointState, TOPIC, qos.COMMAND)

    def publish(self, state: np.ndarray) -> None:
        """Ask for a state (2 * states,), positions, then velocities."""
        count = len(self._names)
        self._publisher.publish(JointState(
            name=self._names, position=array.array('d', state[:count]),
            velocity=array.array('d', state[count:])))


class ResetIntake:
    """Take wishes for a state, by polling."""

    def __init__(self, node: Node, robot: BenchmarkConfig) -> None:
        """Subscribe."""
        self._log = node.get_logger()
        self._names = list(robot.state_names)
        self.refused = 0
        """Wishes that could not be granted."""
        self._subscription = node.create_subscription(
            JointState, TOPIC, _polled, qos.COMMAND, raw=True, callback_group=PolledGroup())

    def poll(self) -> np.ndarray | None:
        """Give the newest state (2 * states,) that was asked for since the last time, if any."""
        newest = None
        while (taken := self._subscription.handle.take_message(JointState, True)) is not None:
            newest = taken[0]
        if newest is None:
            return None
        try:
            message = unpack(newest, JointState, _MOST_BYTES)
        except MessageError as error:
            return self._refuse(str(error))
        state = np.concatenate([message.position, message.velocity])
        if (list(message.name) != self._names or state.size != 2 * len(self._names)
                or len(message.position) != len(self._names) or not np.isfinite(state).all()):
            return self._refuse(
                f'{list(message.name)} with {len(message.position)} positions and '
                f'{len(message.velocity)} velocities; expected finite ones of {self._names}')
        return state

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._log.error(f'{TOPIC}: refused: {why}')


def _polled(_message: object) -> None:
    """Stand where a callback is wanted; the subscription is polled."""
