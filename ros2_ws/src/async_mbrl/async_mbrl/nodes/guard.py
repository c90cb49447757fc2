"""Stops the arm when the controller dies or falls silent; a process of its own, as small as can be.

It also has our controllers deactivated where there is a controller_manager: when the controller has
died, and some time after an emergency stop.
"""

from __future__ import annotations

import gc
import select
import sys
import time
from dataclasses import dataclass

from async_mbrl_interfaces.msg import SafetyStatus
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from async_mbrl.control.plausibility import Plausibility
from async_mbrl.control.watchdog import GuardSettings, Heartbeat, Watchdog
from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.host import ProcessWatch
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import STATUS_BYTES, MessageError, unpack
from async_mbrl.ros.commands import CommandPublisher
from async_mbrl.ros.controller_manager import Release
from async_mbrl.ros.diagnostics import Diagnostics, Part
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.emergency_stop import EmergencyStopTopic
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import note_stops

PRIORITY = 45
REPORT_PERIOD_S = 0.5
LOOK_PERIOD_S = 0.004
"""Polling is cheaper than an executor that wakes for each heartbeat, and as prompt."""

LOOKS_PER_SPIN = 12

PARTING_S = 1.5
"""Asked to stop, guard waits so long for an armed controller to end before it leaves."""

BRAKING_S = 0.5
"""Time that the controller is given to brake the arm in, after an emergency stop."""

LOST_S = 1.0
"""A controller whose processes cannot be seen from here counts as dead after such a silence."""


@dataclass(frozen=True)
class GuardConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    guard: GuardSettings = param('when and how guard acts')


class Guard(ManagedNode):
    """The guard as a ROS node.

    It cannot be deactivated while the controller moves or holds the arm. In a dry run it watches
    and reports as ever, and sends nothing.
    """

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they are missing or do not fit each other.
        """
        super().__init__('guard')
        self._config = config_from_parameters(self, GuardConfig)
        self._watchdog = Watchdog(self._config.guard.timeout_s)
        self._processes = ProcessWatch()
        self._configured = self._watching = self._parted = False

    # ---- hooks ----

    def configure(self) -> None:
        """Create publishers and subscriptions, and listen from now on."""
        robot, dry_run = self._config.robot, self._config.run.dry_run
        self._period_s = 1.0 / self._config.guard.rate_hz
        self._safe: bytes | None = bytes(8 * robot.joints)
        self._reported: tuple[bool, bool] | None = None
        self._next_report_s = self._next_command_s = 0.0
        self._estop = self._stopping = self._lost = False
        self._commands = None if dry_run else CommandPublisher(self, robot, dry_run=False)
        self._release = None if dry_run else Release(self, robot)
        self._status = self.create_publisher(SafetyStatus, 'guard_status', qos.STATUS)
        self._heartbeats = self.create_subscription(
            SafetyStatus, 'safety_status', _polled, qos.HEARTBEAT, callback_group=PolledGroup(),
            raw=True)
        self._emergency_stop = EmergencyStopTopic(self)
        self._joint_states: Subscription | None = None
        if robot.command_interface == 'position':
            self._safe = None
            self._reader = JointStateReader(robot.joint_names)
            self._plausibility = Plausibility(robot.most_speed)
            self._joint_states = self.create_subscription(
                JointState, robot.joint_states_topic, _polled, qos.FRESH,
                callback_group=PolledGroup(), raw=True)
        Diagnostics(self, self._part, self.events.part, hardware=robot.name)
        self._configured = True

    def activate(self) -> None:
        """Watch."""
        self._watching = True

    def deactivate(self) -> None:
        """Watch no more.

        Raises:
            ConfigError: the controller moves or holds the arm.
        """
        if self._watchdog.armed and not self._parted:
            raise ConfigError('guard watches while the controller has the arm; deactivate or stop '
                              'the controller first')
        self._watching = False

    def cleanup(self) -> None:
        """Leave the safe command if the controller has the arm still, and listen no more."""
        self._leave()
        self._configured = self._watching = False

    def on_failure(self) -> None:
        """Leave the safe command."""
        self._leave()

    # ---- watching ----

    def wait(self) -> None:
        """Wait until it is time to look, or a process of the controller has died."""
        select.select(self._processes.descriptors, (), (), LOOK_PERIOD_S)

    def look(self) -> None:
        """Listen to the controller, and send the safe command if that is due."""
        if not self._configured:
            return
        now_s = time.monotonic()
        self._listen(now_s)
        dead = bool(self._processes.check())
        acting = self._watchdog.check(now_s, dead) and self._watching
        if self._joint_states is not None and not acting:
            self._follow(now_s)
        if acting and now_s >= self._next_command_s:
            self._next_command_s = now_s + self._period_s
            self._send_safe()
        if (acting, self._watchdog.armed) != self._reported or now_s >= self._next_report_s:
            self._report(acting, now_s)
        if self._watching:
            self._let_go(now_s, acting and dead)

    def _listen(self, now_s: float) -> None:
        while (taken := self._heartbeats.handle.take_message(SafetyStatus, True)) is not None:
            try:
                message = unpack(taken[0], SafetyStatus, STATUS_BYTES)
                state = Heartbeat(message.state)
            except (MessageError, ValueError) as error:
                self.get_logger().warning(f'safety_status: refused: {error}',
                                          throttle_duration_sec=1.0)
                continue
            if message.source == 'controller':
                sender = message.host, *message.processes[:1]
                if not self._watchdog.heeds(state, sender):
                    self.get_logger().error(
                        'safety_status: another controller is there, and is not heeded',
                        throttle_duration_sec=1.0)
                    continue
                if not self._processes.watch(message.host, tuple(message.processes)):
                    self.get_logger().warning('safety_status: processes '
                                              f'{list(message.processes)} cannot be watched',
                                              once=True)
                    continue
                self._watchdog.heartbeat(state, now_s, sender)
                self._estop = state == Heartbeat.ESTOP
        if self._emergency_stop.poll():
            self._estop = True      # until the controller, if there is one, says otherwise

    def _follow(self, now_s: float) -> None:
        """Keep the newest measured position: the place to hold once the controller is lost."""
        assert self._joint_states is not None
        taken = self._joint_states.handle.take_message(JointState, True)
        try:
            joints = None if taken is None else self._reader.take(taken[0])
        except JointStateError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        if joints is None or self._plausibility.flaw(now_s, self._reader.stamp_ns, joints[0]):
            return
        if not self._plausibility.reason:
            self._safe = joints[0].tobytes()

    def _send_safe(self) -> None:
        if self._commands is not None and self._safe is not None:
            self._commands.publish(self._safe)

    def _let_go(self, now_s: float, dead: bool) -> None:
        """Have our controllers deactivated where that is due."""
        release = self._release
        if release is None:
            return
        lost = dead or (self._watchdog.acting and not self._processes.watching
                        and self._watchdog.silence_s(now_s) > LOST_S)
        stopping = self._estop or self._emergency_stop.pressed
        if lost and not self._lost or stopping and not self._stopping:
            release.ask(now_s, 0.0 if self._watchdog.acting else BRAKING_S)
        elif not (lost or stopping) and (self._lost or self._stopping):
            release.cancel()
        self._lost, self._stopping = lost, stopping
        release.poll(now_s)

    def part(self) -> None:
        """Watch on until the controller has ended; if it does not, leave the safe command."""
        end_s = time.monotonic() + PARTING_S
        while self._watching and self._watchdog.armed and time.monotonic() < end_s:
            self.wait()
            self.look()
        self._leave()
        self._parted = True

    def _leave(self) -> None:
        """Send the safe command, for good, if the controller has the arm still."""
        if self._watching and self._watchdog.armed and self._commands is not None:
            self._send_safe()
            self._commands.flush()
            self._commands.publisher.wait_for_all_acked(Duration(seconds=0.2))

    # ---- reporting ----

    def _reason(self, acting: bool, now_s: float) -> str:
        if not acting:
            return ''
        if self._processes.dead:
            dead = ', '.join(map(str, self._processes.dead))
            return f'a process of the controller has died: {dead}'
        return f'the controller has been silent for {self._watchdog.silence_s(now_s):.3f} s'

    def _report(self, acting: bool, now_s: float) -> None:
        self._next_report_s = now_s + REPORT_PERIOD_S
        reason = self._reason(acting, now_s)
        if acting and not (self._reported and self._reported[0]):
            what = 'nothing is sent: a dry run' if self._commands is None else (
                'sending the safe command')
            self.get_logger().error(f'{reason}; {what}')
        self._reported = (acting, self._watchdog.armed)
        state = (SafetyStatus.ACTIVE if acting or self._watchdog.armed else SafetyStatus.IDLE)
        message = SafetyStatus(source='guard', state=SafetyStatus.FAULT if acting else state,
                               interventions=self._watchdog.trips, reason=reason)
        message.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(message)

    def _part(self) -> Part:
        now_s = time.monotonic()
        armed, acting = self._watchdog.armed, self._watchdog.acting and self._watching
        return Part(
            'watch', 'armed' if armed else 'not armed: the controller has sent nothing', {
                'armed': armed, 'acting': acting, 'trips': self._watchdog.trips,
                'processes watched': len(self._processes.descriptors),
                'emergency stop': self._stopping,
                'silence (ms)': 1e3 * self._watchdog.silence_s(now_s) if armed else 0.0},
            warnings=('' if self._watching else 'not active: nothing is watched',
                      '' if self._processes.watching or not armed else
                      'the controller runs on another machine: only its silence is seen'),
            errors=(self._reason(acting, now_s),))


def _polled(_message: object) -> None:
    """Stand where a callback is wanted; these subscriptions are polled."""


def spin(node: ManagedNode) -> None:
    """Watch until asked to stop, and then until the controller has ended."""
    assert isinstance(node, Guard)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    looks = 0
    stops = note_stops()
    while not stops and not node.finalized:
        node.wait()
        node.look()
        looks += 1
        if looks % LOOKS_PER_SPIN == 0:
            executor.spin_once(timeout_sec=0.0)     # services, diagnostics
    node.part()


def main() -> None:
    """Run the guard."""
    use_fifo(PRIORITY)
    sys.exit(run_managed(Guard, spin))


if __name__ == '__main__':
    main()
