"""A joystick on the graph: ``sensor_msgs/Joy`` and joint states in, ``takeover`` out."""

from __future__ import annotations

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import JointState, Joy

from async_mbrl.control.settings import TakeoverSettings
from async_mbrl.control.takeover import SILENT_S
from async_mbrl.control.teleop import Hand, Teleop
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.transition import StepKind
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import subscribe
from async_mbrl.ros.diagnostics import Diagnostics, Growth, Part
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.lifecycle import ManagedNode
from async_mbrl.ros.publishers import publishers
from async_mbrl.ros.takeover_intake import TAKEOVER_TOPIC, takeover_to_message

JOY_TOPIC = 'joy'
_OVER = (msg.RunStatus.DONE, msg.RunStatus.FAILED)


class TeleopBridge:
    """Carries messages for a :class:`Teleop`; :meth:`go_on` begins."""

    def __init__(self, node: ManagedNode, settings: TakeoverSettings, robot: RobotConfig,
                 policy_rate_hz: float, factor: float) -> None:
        """Join the graph.

        Args:
            node: owner.
            settings: buttons, axes and rate.
            robot: what is moved.
            policy_rate_hz: rate of actions, Hz, robot time.
            factor: real-time factor.

        Raises:
            ConfigError: the settings do not fit the robot.
        """
        self._node = node
        self._clock = RobotClock(factor)
        self._teleop = Teleop(settings, robot, policy_rate_hz, SILENT_S * max(1.0, factor))
        self._reader = JointStateReader(robot.state_names)
        self._paused = True
        self._sent = self._refused = 0
        self._last_reason = self._trouble = ''
        self._growth = Growth()
        self.ended = False
        """Whether the run is over."""
        self._joy = subscribe(node, Joy, JOY_TOPIC, self._on_joy, qos.FRESH)
        self._states = node.create_subscription(
            JointState, robot.joint_states_topic, self._on_joint_state, qos.FRESH,
            callback_group=PolledGroup(), raw=True)
        subscribe(node, msg.ControlStep, 'control_steps', self._on_step, qos.FRESH)
        subscribe(node, msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._publisher = node.create_publisher(msg.Takeover, TAKEOVER_TOPIC, qos.TAKEOVER)
        Diagnostics(node, self.part, node.events.part)
        node.create_timer(1.0 / (max(settings.rate_hz, policy_rate_hz) * factor), self._send,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    def go_on(self) -> None:
        """Send what the joystick asks for from now on."""
        self._paused = False

    def pause(self) -> None:
        """Send nothing, for now; a takeover that goes on falls silent."""
        self._paused = True

    def part(self) -> Part:
        """Say what the joystick does, for ``/diagnostics``."""
        refused = self._growth.of('refused', self._refused)
        return Part('joystick', f'deadman button: {self._teleop.hand.value}', {
            'deadman button': self._teleop.hand.value, 'actions sent': self._sent,
            'refused': self._refused, 'last refusal': self._last_reason},
            warnings=(self._teleop.trouble,
                      f'{refused} refused: {self._last_reason}' if refused else ''))

    def _on_joy(self, message: Joy) -> None:
        others = publishers(self._node, self._joy.topic_name)
        try:
            if len(others) > 1:     # a button of one must not be let go by another
                raise ValueError(f'{", ".join(others)} publish it; one joystick is believed')
            self._teleop.joy(message.axes, message.buttons, self._clock.now())
        except ValueError as error:
            self._refused += 1
            self._last_reason = str(error)
            self._node.get_logger().warning(f'joystick refused: {error}',
                                            throttle_duration_sec=1.0)

    def _on_joint_state(self, data: bytes) -> None:
        try:
            joints = self._reader.take(data)
        except JointStateError as error:
            self._node.get_logger().warning(f'joint states refused: {error}',
                                            throttle_duration_sec=1.0)
            return
        if joints is not None:
            # Copies: the reader gives views of the bytes.
            self._teleop.measured(np.array(joints[0]), np.array(joints[1]), self._clock.now())

    def _on_step(self, message: msg.ControlStep) -> None:
        self._teleop.running = message.kind == StepKind.STEP

    def _on_run_status(self, message: msg.RunStatus) -> None:
        self.ended = message.phase in _OVER

    def _send(self) -> None:
        taken = self._states.handle.take_message(JointState, True)
        if taken is not None:
            self._on_joint_state(taken[0])
        # An end that nobody hears would be lost.
        if self._paused or not self._publisher.get_subscription_count():
            return
        asked = self._teleop.next(self._clock.now())
        if self._teleop.trouble != self._trouble:
            self._trouble = self._teleop.trouble
            if self._trouble:
                self._node.get_logger().error(
                    f'{self._trouble}: nothing is sent until the deadman button was let go')
        if asked is None:
            return
        message = takeover_to_message(asked.action)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._sent += self._teleop.hand is Hand.HELD
