"""The ROS side of a simulated driver: cheap enough for 500 messages a second each way."""

from __future__ import annotations

import array

import numpy as np
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

# Real drivers publish joint states reliably, so both kinds of subscribers match.
DRIVER_STATE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5,
                           reliability=ReliabilityPolicy.RELIABLE)
# Deeper than the driver of an arm needs, because here every command is counted and judged.
DRIVER_COMMAND = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100,
                             reliability=ReliabilityPolicy.RELIABLE)


class PolledGroup(CallbackGroup):
    """A callback group that no executor serves: its subscriptions are polled instead.

    Taking a message that has arrived costs microseconds; waking an executor for each of 500
    commands a second costs a good part of a core.
    """

    def can_execute(self, entity: object) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: object) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: object) -> None:
        """Nothing began."""


class JointStatePublisher:
    """Publish joint states from one message that is filled in place."""

    def __init__(self, node: Node, topic: str, names: tuple[str, ...]) -> None:
        """Create the publisher."""
        self._publisher = node.create_publisher(JointState, topic, DRIVER_STATE)
        self._message = JointState(name=list(names))
        fields = []
        for field in ('position', 'velocity', 'effort'):
            setattr(self._message, field, array.array('d', [0.0] * len(names)))
            # The message keeps an array of its own: views must be of that one.
            fields.append(np.frombuffer(getattr(self._message, field)))
        self._position, self._velocity, self._effort = fields

    def publish(self, stamp_ns: int, position: np.ndarray, velocity: np.ndarray,
                effort: np.ndarray) -> None:
        """Publish positions, rad, velocities, rad/s, and torques, N m."""
        stamp = self._message.header.stamp
        stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        self._position[:] = position
        self._velocity[:] = velocity
        self._effort[:] = effort
        self._publisher.publish(self._message)
