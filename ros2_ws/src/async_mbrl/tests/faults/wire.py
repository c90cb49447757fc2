"""The wire between driver and controller: joint states pass through here, commands are recorded."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from async_mbrl.core.robot import RobotConfig
from async_mbrl.ros.driver import DRIVER_COMMAND, DRIVER_STATE, PolledGroup
from async_mbrl.ros.joint_states import JointStateReader
from faults.judge import Command, beyond_limits

DRIVER_STATES = 'driver_joint_states'
"""Where the driver of the rig publishes: its joint states reach the graph through the wire."""

PERIOD_S = 0.001
PRIORITY = 46
"""Above the driver: the wire is no part of what is measured."""

KEPT = 6000
"""Commands and states kept, ten seconds and more."""

Alteration = Callable[[JointState], JointState | None]


class Wire:
    """Carries joint states from the driver to the graph, and listens to commands and true motion.

    A thread of its own polls.
    """

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Begin to carry."""
        self.broken = False
        """Joint states are not carried."""
        self.alteration: Alteration | None = None
        """What becomes of each joint state meanwhile; None from it drops the message."""
        self.commands: collections.deque[Command] = collections.deque(maxlen=KEPT)
        self.speeds: collections.deque[tuple[int, float]] = collections.deque(maxlen=KEPT)
        """Time, ns, and true speed of the fastest joint, rad/s."""
        self.beyond = 0
        """Commands beyond the limits so far."""
        self._robot = robot
        self._velocity = np.zeros(robot.joints)
        self._reader, self._truth_reader = (JointStateReader(robot.joint_names) for _ in range(2))
        self._bytes = 8 * robot.joints

        def polled(kind: type, topic: str, depth: QoSProfile, raw: bool = True) -> object:
            return node.create_subscription(kind, topic, lambda _message: None, depth,
                                            callback_group=PolledGroup(), raw=raw)

        self._driver = polled(JointState, DRIVER_STATES, DRIVER_STATE)
        self._truth = polled(JointState, 'ground_truth/joint_states', QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE))
        self._heard = polled(Float64MultiArray, robot.commands_topic, DRIVER_COMMAND)
        self._states = node.create_publisher(JointState, robot.joint_states_topic, DRIVER_STATE)
        self.stall_s = 0.0
        """Longest time that this thread was held up since that was last set to 0, s."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='wire', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._thread.join(1.0)

    def since(self, time_ns: int, before_s: float = 0.05) -> list[Command]:
        """Give the commands received from a moment on, and those shortly before."""
        commands = list(self.commands)
        from_ns = time_ns - before_s * 1e9
        first = next((i for i, c in enumerate(commands) if c.received_ns > from_ns), len(commands))
        # The one in force at the moment belongs to it, however old it is.
        return commands[max(0, first - 1):]

    def speed(self) -> float:
        """Give the newest true speed of the fastest joint, rad/s."""
        return self.speeds[-1][1] if self.speeds else 0.0

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._closing:
            next_s = max(next_s + PERIOD_S, time.monotonic())
            time.sleep(max(0.0, next_s - time.monotonic()))
            self.stall_s = max(self.stall_s, time.monotonic() - next_s)
            self._carry()
            self._listen()

    def _carry(self) -> None:
        while (taken := self._driver.handle.take_message(JointState, True)) is not None:
            data = taken[0]
            joints = self._reader.take(data)
            if joints is not None:
                self._velocity = np.array(joints[1])
            if self.broken:
                continue
            if self.alteration is None:
                self._states.publish(data)
            else:
                message = self.alteration(deserialize_message(data, JointState))
                if message is not None:
                    self._states.publish(message)

    def _listen(self) -> None:
        while (taken := self._heard.handle.take_message(Float64MultiArray, True)) is not None:
            data, info = taken
            command = Command(info['received_timestamp'] or time.time_ns(),
                              np.frombuffer(data[-self._bytes:]), self._velocity)
            self.commands.append(command)
            self.beyond += beyond_limits(command, self._robot)
        while (taken := self._truth.handle.take_message(JointState, True)) is not None:
            joints = self._truth_reader.take(taken[0])
            if joints is not None:
                self.speeds.append((time.time_ns(), float(np.abs(joints[1]).max())))
