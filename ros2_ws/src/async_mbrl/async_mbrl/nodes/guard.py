"""Stops the arm when the controller falls silent; a process of its own, and as small as can be."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass

from async_mbrl_interfaces.msg import SafetyStatus
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from async_mbrl.control.watchdog import GuardSettings, Heartbeat, Watchdog
from async_mbrl.core.config import param
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros import qos
from async_mbrl.ros.commands import CommandPublisher
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import note_stops, run_node

PRIORITY = 45
REPORT_PERIOD_S = 0.5
LOOK_PERIOD_S = 0.004
"""Polling is cheaper than an executor that wakes for each heartbeat, and as prompt."""

LOOKS_PER_SPIN = 25

PARTING_S = 1.5
"""Asked to stop, guard waits so long for an armed controller to end before it leaves."""


@dataclass(frozen=True)
class GuardConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    guard: GuardSettings = param('when and how guard acts')


class Guard(Node):
    """The guard as a ROS node."""

    def __init__(self) -> None:
        """Read the parameters; nothing is sent before the first active heartbeat."""
        super().__init__('guard')
        config = config_from_parameters(self, GuardConfig)
        robot = config.robot
        self._period_s = 1.0 / config.guard.rate_hz
        self._watchdog = Watchdog(config.guard.timeout_s)
        self._safe: bytes | None = bytes(8 * robot.joints)
        self._reported: tuple[bool, bool] | None = None
        self._next_report_s = self._next_command_s = 0.0
        self._commands = CommandPublisher(self, robot.commands_topic, robot.joints)
        self._status = self.create_publisher(SafetyStatus, 'guard_status', qos.STATUS)
        self._heartbeats = self.create_subscription(
            SafetyStatus, 'safety_status', _polled, qos.FRESH, callback_group=PolledGroup())
        self._joint_states: Subscription | None = None
        if robot.command_interface == 'position':
            self._safe = None
            self._reader = JointStateReader(robot.joint_names)
            self._joint_states = self.create_subscription(
                JointState, robot.joint_states_topic, _polled, qos.FRESH,
                callback_group=PolledGroup(), raw=True)

    def _listen(self, now_s: float) -> None:
        while (taken := self._heartbeats.handle.take_message(SafetyStatus, False)) is not None:
            if taken[0].source == 'controller':
                self._watchdog.heartbeat(Heartbeat(taken[0].state), now_s)

    def _follow(self) -> None:
        """Keep the newest measured position: the place to hold once the controller is lost."""
        assert self._joint_states is not None
        taken = self._joint_states.handle.take_message(JointState, True)
        try:
            joints = None if taken is None else self._reader.take(taken[0])
        except JointStateError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        if joints is not None:
            self._safe = joints[0].tobytes()

    def look(self) -> None:
        """Listen to the controller, and send the safe command if that is due."""
        now_s = time.monotonic()
        self._listen(now_s)
        acting = self._watchdog.check(now_s)
        if self._joint_states is not None and not acting:
            self._follow()
        if acting and self._safe is not None and now_s >= self._next_command_s:
            self._next_command_s = now_s + self._period_s
            self._commands.publish(self._safe)
        if (acting, self._watchdog.armed) != self._reported or now_s >= self._next_report_s:
            self._report(acting, now_s)

    def part(self) -> None:
        """Watch on until the controller has ended; if it does not, leave the safe command."""
        end_s = time.monotonic() + PARTING_S
        while self._watchdog.armed and time.monotonic() < end_s:
            time.sleep(LOOK_PERIOD_S)
            self.look()
        if self._watchdog.armed and self._safe is not None:
            self._commands.publish(self._safe)
            self._commands.publisher.wait_for_all_acked(Duration(seconds=0.2))

    def _report(self, acting: bool, now_s: float) -> None:
        self._next_report_s = now_s + REPORT_PERIOD_S
        reason = ''
        if acting:
            reason = f'the controller has been silent for {self._watchdog.silence_s(now_s):.3f} s'
        if acting and not (self._reported and self._reported[0]):
            self.get_logger().error(f'{reason}; sending the safe command')
        self._reported = (acting, self._watchdog.armed)
        state = (SafetyStatus.ACTIVE if acting or self._watchdog.armed else SafetyStatus.IDLE)
        message = SafetyStatus(source='guard', state=SafetyStatus.FAULT if acting else state,
                               interventions=self._watchdog.trips, reason=reason)
        message.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(message)


def _polled(_message: object) -> None:
    """Stand where a callback is wanted; these subscriptions are polled."""


def spin(node: Node) -> None:
    """Watch until asked to stop, and then until the controller has ended."""
    assert isinstance(node, Guard)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    looks = 0
    stops = note_stops()
    while not stops:
        time.sleep(LOOK_PERIOD_S)
        node.look()
        looks += 1
        if looks % LOOKS_PER_SPIN == 0:
            executor.spin_once(timeout_sec=0.0)     # parameter services
    node.part()


def main() -> None:
    """Run the guard."""
    use_fifo(PRIORITY)
    sys.exit(run_node(Guard, spin))


if __name__ == '__main__':
    main()
