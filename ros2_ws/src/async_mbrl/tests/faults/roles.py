"""The parts that a rig plays itself: robot_interface and policy learner, by real messages."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from async_mbrl.core.host import host_id
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_to_message, snapshot_to_messages
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    StreamPublisher,
    StreamSubscriber,
)
from faults.processes import begin

STEPS = 12
MOVE_S = 0.8
START_RANGE_RAD = 0.05
STATUS_PERIOD_S = 0.25


class RobotInterfacePlayer:
    """Orders one episode after the other, as robot_interface does, and tells where the run is.

    To be made, used and closed in the thread that serves its callbacks; :meth:`leave` in any.
    The process that it names as its own is a child that only sleeps, so that it can be killed.
    """

    def __init__(self, context: Any, executor: Any, robot: RobotConfig, goal_size: int,
                 rng: np.random.Generator) -> None:
        """Join the graph; orders begin with :meth:`order`."""
        self.node = Node('robot_interface', context=context, enable_rosout=False)
        self.session = time.time_ns()
        self.steps: list[msg.ControlStep] = []
        """Control steps of this session, in order."""
        self.paused = True
        """No order follows the end of an episode."""
        self.child = subprocess.Popen(['sleep', '100000'], preexec_fn=begin)
        self._executor, self._robot, self._goal_size, self._rng = executor, robot, goal_size, rng
        self._status = self.node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
        self._orders = StreamPublisher(self.node, EPISODE_COMMANDS, session=self.session)
        self._stream = StreamSubscriber(self.node, CONTROL_STEPS, self._on_step)
        self._controller = self.node.create_subscription(
            msg.ControllerStatus, 'controller_status', self._on_controller, qos.STATUS)
        self._timer = self.node.create_timer(STATUS_PERIOD_S, self.publish_status,
                                             clock=Clock(clock_type=ClockType.STEADY_TIME))
        executor.add_node(self.node)

    @property
    def next_order(self) -> int:
        """Number of the next order."""
        return self._orders.next_number

    @property
    def next_step(self) -> int:
        """Control steps with a number below this have come."""
        return self._stream.next_number

    def publish_status(self) -> None:
        """Say where the run is."""
        message = msg.RunStatus(
            session=self.session, run_id='faults', task='reach', robot=self._robot.name,
            algorithm='me_ppo', phase=msg.RunStatus.LEARNING, mode='learn', host=host_id(),
            process=self.child.pid, next_episode_command=self._orders.next_number,
            next_control_step=self._stream.next_number)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self._status.publish(message)

    def order(self, *, lost: bool = False) -> None:
        """Order an episode; a lost order is one whose message nobody gets."""
        number = self._orders.next_number
        start = np.array(self._robot.home) + self._rng.uniform(
            -START_RANGE_RAD, START_RANGE_RAD, self._robot.joints)
        message = command_to_message(EpisodeCommand(
            CommandKind.RUN_EPISODE, number=number, episode=number, mode=Mode.LEARNING,
            start_pose=start, move_duration_s=MOVE_S, goal=np.zeros(self._goal_size, np.float32),
            steps=STEPS, seed=number), self.session, self.node.get_clock().now().to_msg())
        if not lost:
            self._orders.publish(message)
            return
        publisher = self._orders._publisher  # the only way to number a message and not send it
        try:
            self._orders._publisher = _Nowhere()
            self._orders.publish(message)
        finally:
            self._orders._publisher = publisher

    def leave(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Fall silent and kill the child; give when, ns."""
        self.paused = True
        self._timer.cancel()
        now_ns = time.time_ns()
        self.child.send_signal(how)
        return now_ns

    def close(self) -> None:
        """Leave the graph."""
        self.leave()
        self.child.wait()
        self._executor.remove_node(self.node)
        self.node.destroy_node()

    def _on_controller(self, message: msg.ControllerStatus) -> None:
        self._stream.announce(message.next_control_step, message.session)

    def _on_step(self, message: msg.ControlStep, _recovered: bool) -> None:
        self.steps.append(message)
        over = message.kind in (msg.ControlStep.END, msg.ControlStep.ABORTED)
        last = message.command_number + 1 == self._orders.next_number
        if over and last and not self.paused:
            self.order()


class _Nowhere:
    """A publisher whose messages are all lost."""

    def publish(self, _message: object) -> None:
        """Lose it."""


class PolicyLearnerPlayer:
    """Publishes policies of constant action, each of which can be told on the wire."""

    def __init__(self, node: Node, task: Any, network: PolicyNetworkConfig,
                 scale: np.ndarray, rng: np.random.Generator) -> None:
        """Publish nothing yet; heartbeats begin at once."""
        self.publisher_id = 'first'
        self.version = Version(1, 0)
        """Of the last verified snapshot."""
        self.verified: set[tuple[int, int]] = set()
        """Versions that may act."""
        self.wanted = np.zeros_like(scale)
        """Command that the last verified policy asks for, N m."""
        self.silent = False
        self._node, self._task, self._network = node, task, network
        self._scale, self._rng = scale, rng
        self.policies = node.create_publisher(msg.ParameterSnapshot, 'policy_parameters',
                                              qos.snapshots(4))
        self._status = node.create_publisher(msg.LearnerStatus, 'learner_status', qos.STATUS)
        node.create_timer(0.5, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def draw(self) -> np.ndarray:
        """Draw an action that no joint can be at rest with."""
        size = len(self._scale)
        return self._rng.uniform(0.25, 0.5, size) * self._rng.choice([-1.0, 1.0], size)

    def snapshot(self, version: Version, action: np.ndarray,
                 network: PolicyNetworkConfig | None = None) -> Snapshot:
        """Give a policy whose mean is always ``action``."""
        network = network or self._network
        architecture = policy_architecture(network, self._task)
        sizes = architecture['sizes']
        tensors = {'state_mean': np.zeros(self._task.state_size, np.float32),
                   'state_std': np.ones(self._task.state_size, np.float32)}
        for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            tensors[f'layer{layer}.weight'] = np.zeros((outputs, inputs), np.float32)
            tensors[f'layer{layer}.bias'] = np.zeros(outputs, np.float32)
        tensors[f'layer{len(sizes) - 2}.bias'] = np.asarray(action, np.float32)
        return Snapshot('policy', version, architecture, tensors)

    def send(self, snapshot: Snapshot,
             spoil: Callable[[msg.ParameterSnapshot], None] | None = None) -> None:
        """Publish a snapshot, however spoilt it may be."""
        stamp = self._node.get_clock().now().to_msg()
        for message in snapshot_to_messages(snapshot, self.publisher_id, stamp):
            if spoil is not None:
                spoil(message)
            self.policies.publish(message)

    def publish(self, version: Version | None = None) -> None:
        """Publish a verified policy with an action of its own."""
        self.version = version or Version(self.version.incarnation, self.version.counter + 1)
        action = self.draw()
        self.verified.add((self.version.incarnation, self.version.counter))
        self.wanted = action * self._scale
        self.send(self.snapshot(self.version, action))

    def restart(self) -> None:
        """Come back as a learner does: another session, a higher incarnation."""
        self.publisher_id = f'start-{self.version.incarnation + 1}'
        self.publish(Version(self.version.incarnation + 1, 0))

    def _beat(self) -> None:
        if not self.silent:
            message = msg.LearnerStatus(name='policy_learner', session=self.publisher_id,
                                        state=msg.LearnerStatus.LEARNING)
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._status.publish(message)
