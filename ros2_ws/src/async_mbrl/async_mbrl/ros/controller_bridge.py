"""Between the topics and the mailboxes of the control loop, which lives in a process of its own.

Threads: one goes with the loop, taking the newest joint state shortly before each of its ticks and
publishing what it sends right after; the executor's takes orders in; one decodes policies
(:mod:`async_mbrl.ros.policy_intake`). Joint states are polled because waking an executor for each
of them costs several times more of a core.
"""

from __future__ import annotations

import collections
import dataclasses
import select
import threading
import time
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState

from async_mbrl.control.core import FAULT, IDLE
from async_mbrl.control.process import LoopProcess
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.transition import Mode, StepKind
from async_mbrl.ros import qos
from async_mbrl.ros.commands import CommandPublisher
from async_mbrl.ros.controller_report import ControllerReport
from async_mbrl.ros.convert import command_from_message, step_to_message
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.policy_intake import PolicyIntake
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
STOP_TIMEOUT_S = 1.0


class LoopDied(RuntimeError):
    """The process of the control loop has ended without being asked to."""


class ControllerBridge:
    """Everything of the controller that speaks ROS."""

    def __init__(self, node: Node, robot: RobotConfig, task: Any, network: PolicyNetworkConfig,
                 loop: LoopProcess, factor: float) -> None:
        """Create publishers, subscriptions and threads.

        Args:
            node: owner.
            robot: the robot.
            task: the task (see :mod:`async_mbrl.tasks`).
            network: shape of the policy.
            loop: the control loop, started.
            factor: real-time factor.
        """
        self._node = node
        self._loop = loop
        self._clock = RobotClock(factor)
        self._session = time.time_ns()
        self._died = ''
        self._closing = False
        self._reader = JointStateReader(robot.joint_names)
        self._faulted_joints = False
        self._position = np.zeros(robot.joints)
        self._interface = robot.command_interface
        self._ticks_told = -1
        self._policy_published_ns: collections.OrderedDict[Any, int] = collections.OrderedDict()
        self._commands = CommandPublisher(node, robot.commands_topic, robot.joints)
        self._safety = node.create_publisher(msg.SafetyStatus, 'safety_status', qos.FRESH)
        self._steps = StreamPublisher(node, CONTROL_STEPS, session=self._session)
        self._orders = StreamSubscriber(node, EPISODE_COMMANDS, self._on_order)
        self._run_status = node.create_subscription(
            msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._intake = PolicyIntake(node, task, network, loop)
        self._report = ControllerReport(node, robot, loop, self._intake, self._session)
        self._period_s = 1.0 / (robot.control_rate_hz * factor)
        self._joint_states = node.create_subscription(
            JointState, robot.joint_states_topic, self._on_joint_state, qos.FRESH,
            callback_group=PolledGroup(), raw=True)
        # Status must go on while simulated time stands still.
        self._timer = node.create_timer(REPORT_PERIOD_S, self._publish_report,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._thread = threading.Thread(target=self._serve, name='commands', daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See to it that the loop lives.

        Raises:
            LoopDied: it does not.
        """
        if self._died:
            raise LoopDied(self._died)

    def close(self) -> None:
        """End the loop, the safe command being the last that is sent, and say so."""
        self._closing = True
        self._loop.ask_to_stop()
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.join(STOP_TIMEOUT_S)
        self._intake.close()
        # Heartbeats are best effort: said more than once, so that guard does not miss the last.
        for _ in range(LAST_HEARTBEATS):
            self._publish_safety(
                msg.SafetyStatus.FAULT if self._died else msg.SafetyStatus.SHUTDOWN, self._died)
            time.sleep(0.25 * HEARTBEAT_PERIOD_S)
        for publisher in (self._commands.publisher, self._safety):
            publisher.wait_for_all_acked(Duration(seconds=0.2))

    # ---- towards the loop ----

    def _on_joint_state(self, data: bytes) -> None:
        now_s = self._clock.now()
        try:
            joints = self._reader.take(data)
        except JointStateError as error:
            if not self._faulted_joints:
                self._faulted_joints = True
                self._node.get_logger().error(str(error))
                self._loop.fail(str(error))
            return
        if joints is None:
            self._node.get_logger().warning('joint states that are not finite were dropped',
                                            throttle_duration_sec=1.0)
            return
        self._report.state_received(now_s)
        self._position = joints[0]
        self._loop.put_state(now_s, *joints)

    def _take_joint_state(self) -> None:
        taken = self._joint_states.handle.take_message(JointState, True)
        if taken is not None:
            self._on_joint_state(taken[0])

    def _on_order(self, message: msg.EpisodeCommand, _recovered: bool) -> None:
        try:
            self._loop.put_order(command_from_message(message))
        except ValueError as error:
            self._node.get_logger().error(f'episode command {message.number} refused: {error}')

    def _on_run_status(self, message: msg.RunStatus) -> None:
        if message.next_episode_command:
            self._orders.announce(message.next_episode_command, message.session)

    def _publish_report(self) -> None:
        self._report.publish(self._steps.next_number, self._orders.next_number)

    # ---- with the loop, in a thread of its own ----

    def _serve(self) -> None:
        loop, period_s = self._loop, self._period_s
        wake = [loop.wake]
        next_heartbeat_s = 0.0
        while True:
            # The loop's deadlines are the whole multiples of its period on the steady clock.
            remaining_s = (1.0 - LEAD) * period_s - time.monotonic() % period_s
            woken, _, _ = select.select(wake, (), (), max(0.0, remaining_s))
            if not woken:
                self._take_joint_state()
                select.select(wake, (), (), 2.0 * LEAD * period_s)
            loop.clear_wake()
            ended = bool(loop.count('ended'))
            command = loop.newest_command()
            if command is not None:
                self._commands.publish(command)
            self._publish_events()
            if ended and self._closing:
                return
            now_s = time.monotonic()
            if now_s >= next_heartbeat_s:
                next_heartbeat_s = now_s + HEARTBEAT_PERIOD_S
                status = loop.exit_status
                if status is not None:
                    self._on_death(status)
                    return
                self._beat()

    def _publish_events(self) -> None:
        while (adoption := self._loop.next_adoption()) is not None:
            self._policy_published_ns[adoption.version] = adoption.publish_time_ns
            while len(self._policy_published_ns) > 100:
                self._policy_published_ns.popitem(last=False)
            self._report.policy_adopted(adoption)
        while (step := self._loop.next_step()) is not None:
            age_s = self._clock.now() - step.time_s
            stamp_s = self._node.get_clock().now().nanoseconds * 1e-9 - age_s
            self._steps.publish(step_to_message(dataclasses.replace(step, time_s=max(0.0, stamp_s)),
                                                self._steps.next_number, self._session))
            published_ns = self._policy_published_ns.get(step.policy_version)
            if step.kind == StepKind.STEP and step.mode == Mode.LEARNING and published_ns:
                self._report.policy_acted((time.time_ns() - published_ns) * 1e-9)

    def _beat(self) -> None:
        ticks = self._loop.count('ticks')
        if ticks == self._ticks_told:
            return          # a loop that hangs does not count on, and must be missed
        self._ticks_told = ticks
        state = self._loop.state
        if state == FAULT:
            self._publish_safety(msg.SafetyStatus.FAULT, self._loop.fault)
        else:
            self._publish_safety(
                msg.SafetyStatus.IDLE if state == IDLE else msg.SafetyStatus.ACTIVE)

    def _publish_safety(self, state: int, reason: str = '') -> None:
        message = msg.SafetyStatus(
            source='controller', state=state, ticks=self._loop.count('ticks'),
            interventions=self._loop.count('interventions'), reason=reason)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._safety.publish(message)

    def _on_death(self, status: int) -> None:
        """Send the safe command in the loop's place; guard goes on with it."""
        if self._loop.count('active'):
            safe = self._position if self._interface == 'position' else np.zeros_like(
                self._position)
            self._commands.publish(safe.tobytes())
        self._died = f'the control loop ended with status {status}'
        self._node.get_logger().fatal(self._died)
