"""Between the topics and the mailboxes of the control loop, which lives in a process of its own.

Threads: one goes with the loop, taking the newest joint state shortly before each of its ticks,
publishing what it sends right after, and seeing at once what dies; the executor's takes orders in;
one decodes policies (:mod:`async_mbrl.ros.policy_intake`). Joint states are polled because waking
an executor for each of them costs several times more of a core.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import select
import threading
import time
import traceback
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState

from async_mbrl.control.core import IDLE, STALL_S
from async_mbrl.control.motion import Motion
from async_mbrl.control.move import AT_REST_RAD_S
from async_mbrl.control.plausibility import Plausibility
from async_mbrl.control.process import LoopProcess
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.host import host_id
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import BenchmarkConfig, RobotConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand, Mode, StepKind
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import StreamBounds, subscribe
from async_mbrl.ros.commands import CommandPublisher
from async_mbrl.ros.controller_report import ControllerReport
from async_mbrl.ros.controller_watch import ControllerWatch, WatchOptions
from async_mbrl.ros.convert import command_from_message, step_to_message, to_seconds
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.policy_intake import PolicyIntake
from async_mbrl.ros.state_reset import ResetPublisher
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    StreamPublisher,
    StreamSubscriber,
)

HEARTBEAT_PERIOD_S = 0.02
LAST_HEARTBEATS = 3
REPORT_PERIOD_S = 0.5
LEAD = 0.25
"""Joint states are taken this share of a period before a tick."""
STOP_TIMEOUT_S = 1.5
"""The loop takes 1 s at most to brake the arm and to come down to the safe command."""
LAST_COMMANDS_S = 0.1
BRAKING_S = 0.5
"""The arm is given so long to come to rest when it is let go."""

JOINT_NAMES, JOINT_STATES = 'joint_names', 'joint_states'
"""Causes of a fault."""
FOREIGN_S = 1.0
"""Joint states of another robot are a fault if no right ones come within this time."""

SAFETY_STATES = {Motion.FAULT: msg.SafetyStatus.FAULT, Motion.ESTOP: msg.SafetyStatus.ESTOP}
MOST_RECOVERY_S = 1.5
"""An order that arrives later, having been asked for again, is obeyed no more. Twice what asking
takes, wall time."""


class LoopDied(RuntimeError):
    """The control loop, or a thread between it and the topics, has ended without being asked to."""


class ControllerBridge:
    """Everything of the controller that speaks ROS to the nodes of the graph."""

    def __init__(self, node: Node, robot: RobotConfig, task: Any, network: PolicyNetworkConfig,
                 loop: LoopProcess, factor: float, options: WatchOptions) -> None:
        """Create publishers, subscriptions and threads.

        Args:
            node: owner.
            robot: the robot.
            task: the task (see :mod:`async_mbrl.tasks`).
            network: shape of the policy.
            loop: the control loop, started.
            factor: real-time factor.
            options: what is watched.
        """
        self._node = node
        self._loop = loop
        self._clock = RobotClock(factor)
        self._session = time.time_ns()
        self._died = ''
        self._closing = False
        self._reader = JointStateReader(robot.state_names)
        self._plausibility = Plausibility(robot.most_speed)
        self._joints_known = False
        self._wrong_since_s = float('inf')
        self._factor = factor
        self._orders_end: tuple[int, int] = (0, 0)
        self._passed_over: collections.deque[EpisodeCommand] = collections.deque(maxlen=1)
        self.measured: tuple[float, np.ndarray, np.ndarray] | None = None
        """Newest joint state: when it was received, robot time, s; (states,) rad; (states,)
        rad/s."""
        self._joints = robot.joints
        self._interface = robot.command_interface
        self._ticks_told = 0
        self._guard_armed = False
        self._host = host_id()
        self._policy_adopted_s: collections.OrderedDict[Version, float] = (
            collections.OrderedDict())
        self._commands = CommandPublisher(node, robot, options.dry_run)
        self._resets = (ResetPublisher(node, robot)
                        if isinstance(robot, BenchmarkConfig) and not options.dry_run else None)
        self._safety = node.create_publisher(msg.SafetyStatus, 'safety_status', qos.HEARTBEAT)
        self._steps = StreamPublisher(node, CONTROL_STEPS, session=self._session)
        self._orders = StreamSubscriber(node, EPISODE_COMMANDS, self._on_order,
                                        bounds=StreamBounds.of(task))
        subscribe(node, msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._intake = PolicyIntake(node, task, network, loop)
        self.report = ControllerReport(node, robot, loop, self._intake, self._session,
                                       options.dry_run)
        """What the controller tells about itself."""
        self.watch = ControllerWatch(node, self._commands.publisher.topic_name, options, loop,
                                     self._intake, self.report, self._session)
        """What it watches besides joint states."""
        self._period_s = 1.0 / (robot.control_rate_hz * factor)
        self._joint_states = node.create_subscription(
            JointState, robot.joint_states_topic, self._on_joint_state, qos.FRESH,
            callback_group=PolledGroup(), raw=True)
        # Status must go on while simulated time stands still.
        node.create_timer(REPORT_PERIOD_S, self.publish_report,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._thread = threading.Thread(target=self._run, name='commands', daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See to it that the loop lives, and the threads that serve it.

        Raises:
            LoopDied: one does not.
        """
        reason = self._died or self._intake.failure
        if reason:
            raise LoopDied(reason)

    def brake(self) -> None:
        """Give up what runs, take no orders any more, and wait for the arm to come to rest."""
        self._loop.enable(False)
        give_up_s = time.monotonic() + BRAKING_S
        while self._loop.count('active') and time.monotonic() < give_up_s:
            time.sleep(0.01)
            measured = self.measured
            if (self._loop.motion is not Motion.RUNNING and measured is not None
                    and float(np.abs(measured[2]).max()) < AT_REST_RAD_S):
                return

    def close(self, reason: str = '') -> None:
        """End the loop, the safe command being the last that is sent, and say how that went.

        Args:
            reason: why the controller has failed, for guard, which goes on then; empty if it has
                not.
        """
        if self._closing:
            return
        self._closing = True
        # Guard must know that the loop is about to end before it does.
        self._last_heartbeats(*self._safety_state())
        self._loop.ask_to_stop()
        end_s = time.monotonic() + STOP_TIMEOUT_S
        self._thread.join(STOP_TIMEOUT_S)
        status = self._loop.join(max(0.0, end_s - time.monotonic()))
        # It may have been held up, with the loop's last commands in hand.
        self._thread.join(LAST_COMMANDS_S)
        self._intake.close()
        reason = self._died or self._intake.failure or reason
        if status != 0 or not self._loop.count('ended') or self._thread.is_alive():
            reason = reason or f'the control loop did not end as asked (status {status})'
            self._send_safe()
        self._commands.flush()
        self._last_heartbeats(
            msg.SafetyStatus.FAULT if reason else msg.SafetyStatus.SHUTDOWN, reason)
        for publisher in (self._commands.publisher, self._safety):
            publisher.wait_for_all_acked(Duration(seconds=0.2))
        if not self._thread.is_alive():
            self.watch.close()
            self._loop.close()

    def _last_heartbeats(self, state: int, reason: str) -> None:
        """Publish what guard must not miss: heartbeats are best effort."""
        for _ in range(LAST_HEARTBEATS):
            self._publish_safety(state, reason)
            time.sleep(0.25 * HEARTBEAT_PERIOD_S)

    def publish_report(self) -> None:
        """Publish the status now."""
        self.report.publish(self._steps.next_number, self._orders.next_number)

    # ---- towards the loop ----

    def _on_joint_state(self, data: bytes, age_s: float = 0.0) -> None:
        """Take a joint state that the middleware received a wall time ago."""
        received_s = self._clock.now() - age_s * self._factor
        try:
            joints = self._reader.take(data)
        except JointStateError as error:
            self._on_wrong_joints(str(error))
            return
        if joints is None:
            self._drop_state('they are not finite')
            return
        if not self._joints_known:
            self._joints_known = True
            self._loop.set_cause(JOINT_NAMES, False)
        flaw = self._plausibility.flaw(received_s, self._reader.stamp_ns, joints[0])
        reason = self._plausibility.reason
        self._loop.set_cause(JOINT_STATES, bool(reason), reason)
        if flaw:
            self._drop_state(flaw)
            return
        self.report.state_received()
        self.measured = (received_s, *joints)
        self._loop.put_state(received_s, *joints)

    def _on_wrong_joints(self, reason: str) -> None:
        """Fail where the robot is another one.

        If right ones came before, or soon do, it is only somebody else who publishes too.
        """
        now_s = time.monotonic()
        self._wrong_since_s = min(self._wrong_since_s, now_s)
        if not self._joints_known and now_s - self._wrong_since_s >= FOREIGN_S:
            self._loop.set_cause(JOINT_NAMES, True, reason)
        self._drop_state(reason)

    def _drop_state(self, reason: str) -> None:
        # If no others come, staleness stops the arm.
        self.report.state_dropped(reason)
        self._node.get_logger().warning(f'joint states were dropped: {reason}',
                                        throttle_duration_sec=1.0)

    def _take_joint_state(self) -> None:
        taken = self._joint_states.handle.take_message(JointState, True)
        if taken is None:
            return
        data, info = taken
        received_ns = info['received_timestamp']
        age_ns = time.time_ns() - received_ns if received_ns else 0
        self._on_joint_state(data, 1e-9 * max(0, age_ns))

    def _on_order(self, message: msg.EpisodeCommand, _recovered: bool) -> None:
        try:
            command = command_from_message(message)
            if self._orders.recovering and self._is_past(message):
                self._node.get_logger().warning(
                    f'episode command {message.number} comes too late and is not obeyed',
                    throttle_duration_sec=1.0)
                self._passed_over.append(command)
                return
            self._loop.put_order(command)
        except ValueError as error:
            self._node.get_logger().error(f'episode command {message.number} refused: {error}')

    def _is_past(self, message: msg.EpisodeCommand) -> bool:
        """Whether an order that comes late is one of before: this may have been restarted."""
        if message.kind != CommandKind.RUN_EPISODE and self._loop.state != IDLE:
            return False        # to stop is never too late
        session, end = self._orders_end
        superseded = session == message.session and message.number + 1 < end
        age_s = 1e-9 * self._node.get_clock().now().nanoseconds - to_seconds(message.header.stamp)
        return superseded or abs(age_s) > MOST_RECOVERY_S * max(1.0, self._factor)

    def _on_run_status(self, message: msg.RunStatus) -> None:
        self.watch.run_status(message)
        if message.next_episode_command:
            self._orders_end = (message.session, message.next_episode_command)
            self._orders.announce(message.next_episode_command, message.session)

    # ---- with the loop, in a thread of its own ----

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self._node.get_logger().error(traceback.format_exc())
            self._die(f'commands are not published any more: {error!r}')

    def _serve(self) -> None:
        loop, period_s = self._loop, self._period_s
        # Readable when the loop has died.
        life = os.pidfd_open(loop.pid)
        next_heartbeat_s = 0.0
        stall_s = max(STALL_S, 2.5 * period_s)
        served_s, not_before_s = time.monotonic(), float('-inf')
        try:
            while True:
                wake = [loop.wake, life, *self.watch.descriptors]
                # The loop's deadlines are the whole multiples of its period on the steady clock.
                remaining_s = (1.0 - LEAD) * period_s - time.monotonic() % period_s
                woken, _, _ = select.select(wake, (), (), max(0.0, remaining_s))
                late = bool(woken)
                if not late:
                    self._take_joint_state()
                    woken, _, _ = select.select(wake, (), (), 2.0 * LEAD * period_s)
                urgent = any(descriptor != loop.wake for descriptor in woken)
                loop.clear_wake()
                now_s = time.monotonic()
                if now_s - served_s > stall_s:
                    # Commands did not reach the arm, and guard may have stopped it: what the loop
                    # has come to meanwhile must not reach it either. A tick that is due after it
                    # was asked to has begun anew.
                    loop.restart()
                    not_before_s = self._clock.now()
                served_s = now_s
                ended = bool(loop.count('ended'))
                command = loop.newest_command()
                if command is not None and (ended or command[0] > not_before_s):
                    self._send(command[1])
                if self._resets is not None and (state := loop.wanted_state()) is not None:
                    self._resets.publish(state)
                if late:        # the tick was: the next one must not go without
                    self._take_joint_state()
                self._publish_events()
                if ended and self._closing:
                    return
                now_s = time.monotonic()
                if urgent or now_s >= next_heartbeat_s:
                    status = loop.exit_status
                    if status is not None and not (self._closing and loop.count('ended')):
                        self._die(f'the control loop ended with status {status}')
                        return
                    self.watch.look()
                if now_s >= next_heartbeat_s:
                    next_heartbeat_s = now_s + HEARTBEAT_PERIOD_S
                    self._beat()
        finally:
            os.close(life)

    def _publish_events(self) -> None:
        while (adoption := self._loop.next_adoption()) is not None:
            now_s = time.monotonic()
            self._policy_adopted_s[adoption.version] = now_s
            while len(self._policy_adopted_s) > 100:
                self._policy_adopted_s.popitem(last=False)
            self.report.policy_adopted(adoption, now_s)
        while (step := self._loop.next_step()) is not None:
            self._publish_step(step)
            adopted_s = self._policy_adopted_s.get(step.policy_version)
            if step.kind == StepKind.STEP and step.mode == Mode.LEARNING and adopted_s is not None:
                self.report.policy_acted(time.monotonic() - adopted_s)
        command = None
        with contextlib.suppress(IndexError):       # none since the last time
            command = self._passed_over.popleft()
        if command is not None and command.kind == CommandKind.RUN_EPISODE:
            # Of several only the last can be waited for.
            self._publish_step(ControlStep(
                StepKind.ABORTED, self._clock.now(), command.number, command.episode, 0,
                command.mode, reason='the command came too late'))

    def _publish_step(self, step: ControlStep) -> None:
        age_s = self._clock.now() - step.time_s
        stamp_s = self._node.get_clock().now().nanoseconds * 1e-9 - age_s
        self._steps.publish(step_to_message(dataclasses.replace(step, time_s=max(0.0, stamp_s)),
                                            self._steps.next_number, self._session))

    def _send(self, command: bytes) -> None:
        """Publish a command of the loop; guard is told before the first of a sequence."""
        if not self._guard_armed:
            self._publish_safety(msg.SafetyStatus.ACTIVE)
        self._commands.publish(command)

    def _beat(self) -> None:
        ticks = self._loop.count('ticks')
        if ticks == self._ticks_told:
            return          # a loop that hangs does not count on, and must be missed
        self._ticks_told = ticks
        self._publish_safety(*self._safety_state())

    def _safety_state(self) -> tuple[int, str]:
        motion = self._loop.motion
        if motion in SAFETY_STATES:
            return SAFETY_STATES[motion], self._loop.fault
        sending = motion in (Motion.RUNNING, Motion.HOLDING)
        return (msg.SafetyStatus.ACTIVE if sending else msg.SafetyStatus.IDLE), ''

    def _publish_safety(self, state: int, reason: str = '') -> None:
        message = msg.SafetyStatus(
            source='controller', state=state, ticks=self._loop.count('ticks'),
            interventions=self._loop.count('interventions'), reason=reason, host=self._host,
            processes=[os.getpid()] if self._closing else [os.getpid(), self._loop.pid])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._safety.publish(message)
        if state == msg.SafetyStatus.ACTIVE:
            self._guard_armed = True
        elif state in (msg.SafetyStatus.IDLE, msg.SafetyStatus.SHUTDOWN):
            self._guard_armed = False

    def _die(self, reason: str) -> None:
        """Have the node end, the safe command sent first; guard goes on with it."""
        self._died = reason
        self._node.get_logger().fatal(reason)
        self._send_safe()

    def _send_safe(self) -> None:
        """Send the safe command in the loop's place."""
        if not self._loop.count('active') or self.measured is None:
            return
        position = self.measured[1]
        safe = position if self._interface == 'position' else np.zeros(self._joints)
        self._commands.publish(safe.tobytes())
        self._commands.flush()
