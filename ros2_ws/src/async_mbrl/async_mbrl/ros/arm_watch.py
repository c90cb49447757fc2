"""The arm as robot_interface sees it: where it is, and whether it or its controller is in trouble.

Joint states and heartbeats of the controller come hundreds of times a second, but are looked at 25
times: they are polled, which leaves the executor alone.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.node import Node
from sensor_msgs.msg import JointState

from async_mbrl.core.host import ProcessWatch
from async_mbrl.core.robot import RobotConfig
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import STATUS_BYTES, MessageError, unpack
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.joint_states import JointStateError, JointStateReader

PERIOD_S = 0.04
STALE_S = 0.5
"""Age at which joint states do not count as coming."""

TRUTH_AGE_NS = 100_000_000
"""Age at which a true position no longer tells where an episode ended."""


class ArmWatch:
    """Poll joint states and the heartbeat of the controller."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Subscribe."""
        self._log = node.get_logger()
        self._topic = robot.joint_states_topic
        self._reader = JointStateReader(robot.state_names)
        group = PolledGroup()
        self._joint_states = node.create_subscription(
            JointState, self._topic, _polled, qos.FRESH, raw=True, callback_group=group)
        self._heartbeats = node.create_subscription(
            msg.SafetyStatus, 'safety_status', _polled, qos.FRESH, raw=True,
            callback_group=group)
        self._truth = node.create_subscription(
            JointState, 'ground_truth/joint_states', _polled, qos.FRESH, raw=True,
            callback_group=group)
        self._truth_reader = JointStateReader(robot.state_names)
        self._processes = ProcessWatch()
        self._heard_s = -np.inf
        self._wrong = ''
        self._ended = False
        self.position: np.ndarray | None = None
        """Newest measured joints (n,), rad; None as long as none have come, or if they stopped."""
        self.velocity: np.ndarray | None = None
        """Their speeds (n,), rad/s."""
        self.fresh = False
        """Whether joint states came since the last poll but one."""

    def poll(self) -> None:
        """Take what came last."""
        now_s = time.monotonic()
        while (taken := self._joint_states.handle.take_message(JointState, True)) is not None:
            self._take(taken[0], now_s)
        self.fresh = now_s - self._heard_s < 2.0 * PERIOD_S
        if now_s - self._heard_s > STALE_S:
            self.position = self.velocity = None
        while (taken := self._heartbeats.handle.take_message(msg.SafetyStatus, True)) is not None:
            self._beat(taken[0])

    @property
    def missing(self) -> str:
        """What is missing of the joint states; empty if they come."""
        if self.position is not None:
            return ''
        return f'joint states on {self._topic} ({self._wrong or "none come"})'

    @property
    def controller_died(self) -> tuple[int, ...]:
        """Processes of the controller that have died, those of one that ended in order aside."""
        return () if self._ended else self._processes.check()

    def true_position(self) -> np.ndarray | None:
        """Give the true joints (n,), rad, where a simulation tells them; None elsewhere."""
        newest = None
        while (taken := self._truth.handle.take_message(JointState, True)) is not None:
            newest = taken
        if newest is None or time.time_ns() - newest[1]['received_timestamp'] > TRUTH_AGE_NS:
            return None
        try:
            joints = self._truth_reader.take(newest[0])
        except JointStateError:
            return None
        return None if joints is None else np.array(joints[0])

    def close(self) -> None:
        """Watch no more."""
        self._processes.close()

    def _take(self, data: bytes, now_s: float) -> None:
        try:
            joints = self._reader.take(data)
        except JointStateError as error:
            self._wrong = str(error)
            return
        if joints is not None:
            self._wrong, self._heard_s = '', now_s
            self.position, self.velocity = np.array(joints[0]), np.array(joints[1])

    def _beat(self, data: bytes) -> None:
        try:
            message = unpack(data, msg.SafetyStatus, STATUS_BYTES)
        except MessageError:       # the controller's guard says so; its death is all we look for
            return
        if message.source == 'controller':
            processes = tuple(message.processes)
            if self._processes.watch(message.host, processes):
                self._ended = message.state == msg.SafetyStatus.SHUTDOWN
            else:
                self._log.warning(f'safety_status: processes {processes} cannot be watched',
                                  once=True)


def _polled(_message: Any) -> None:
    """Stand where a callback is wanted; these subscriptions are polled."""
