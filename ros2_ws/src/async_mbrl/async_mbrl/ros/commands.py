"""Commands to a driver, in the form that it takes, published from bytes."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from async_mbrl.core.robot import RobotConfig
from async_mbrl.ros import qos

DRY_RUN_TOPIC = 'commands_dry_run'
EARLY = 0.25
"""A streamed point may come this share of its period early: ticks are not exact."""


class CommandPublisher:
    """Publish commands as the driver of a robot takes them; see ``robot.command_adapter``.

    Serialised, all commands to one driver are the same bytes around the numbers: five times cheaper
    than from message objects. In a dry run they go to :data:`DRY_RUN_TOPIC`, and nothing at all to
    the driver.
    """

    def __init__(self, node: Node, robot: RobotConfig, dry_run: bool) -> None:
        """Create the publisher.

        Args:
            node: owner.
            robot: tells the topic, the form and the order of joints.
            dry_run: whether nothing may reach the driver.
        """
        names = robot.command_joint_names or robot.joint_names
        order = [robot.joint_names.index(name) for name in names]
        self._order = None if order == sorted(order) else np.array(order)
        streamed = robot.command_adapter == 'joint_trajectory'
        self._period_s = 1.0 / robot.trajectory_rate_hz if streamed else 0.0
        self._next_s = 0.0
        self._late: bytes | None = None
        kind: Any = JointTrajectory if streamed else Float64MultiArray
        self._make: Callable[[bytes], Any] = _forward
        if streamed:
            self._make = _trajectory(names, robot.trajectory_horizon_s)
        self.publisher: Publisher = node.create_publisher(
            kind, DRY_RUN_TOPIC if dry_run else robot.commands_topic, qos.COMMAND)
        """The publisher itself."""
        probe = np.arange(1.0, robot.joints + 1.0).tobytes()
        before, found, self._after = serialize_message(self._make(probe)).partition(probe)
        self._before = before if found else b''

    def publish(self, command: bytes) -> None:
        """Publish a command given as doubles, one a joint of the robot.

        One that comes too early for the rate of streaming is kept for :meth:`flush`.
        """
        if self._period_s:
            now_s = time.monotonic()
            if now_s < self._next_s - EARLY * self._period_s:
                self._late = command
                return
            behind = now_s - self._next_s > self._period_s
            self._next_s = (now_s if behind else self._next_s) + self._period_s
            self._late = None
        self._send(command)

    def flush(self) -> None:
        """Publish the newest command if the rate has kept it back: no other will follow it."""
        if self._late is not None:
            self._send(self._late)
            self._late = None

    def _send(self, command: bytes) -> None:
        if self._order is not None:
            command = np.frombuffer(command)[self._order].tobytes()
        if self._before:
            self.publisher.publish(self._before + command + self._after)
        else:       # of a middleware that serialises otherwise
            self.publisher.publish(self._make(command))


def _forward(command: bytes) -> Float64MultiArray:
    return Float64MultiArray(data=array.array('d', command))


def _trajectory(names: tuple[str, ...], horizon_s: float) -> Callable[[bytes], JointTrajectory]:
    """Give what makes a trajectory of one point, begun at once: that is what stamp 0 means."""
    seconds, nanoseconds = divmod(round(horizon_s * 1e9), 1_000_000_000)
    horizon = Duration(sec=seconds, nanosec=nanoseconds)

    def make(command: bytes) -> JointTrajectory:
        return JointTrajectory(joint_names=list(names), points=[JointTrajectoryPoint(
            positions=array.array('d', command), time_from_start=horizon)])

    return make
