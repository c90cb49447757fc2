"""Between the topics and the collector: what is heard goes in, commands and transitions come out.

Everything happens in the callbacks of one thread, so that journal, collector and topics agree at
every moment: a record is appended to the journal, then the collector is told, then it is published.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import CollectionConfig, Collector, hold
from async_mbrl.collection.journal import JournalError, RecordKind
from async_mbrl.collection.metrics import MetricsFile, metrics_record
from async_mbrl.collection.phases import (
    ControllerView,
    LearnerView,
    Phase,
    RunSequence,
    Surroundings,
)
from async_mbrl.collection.summary import RunFacts, build_summary, write_summary
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.core.transition import (
    CommandKind,
    EpisodeCommand,
    Mode,
    StepKind,
    Transition,
)
from async_mbrl.ros import qos
from async_mbrl.ros.convert import (
    command_to_message,
    step_from_message,
    transition_to_message,
    version_from_message,
)
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.run_journal import RunJournal, hear, note_action
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    TRANSITIONS,
    StreamPublisher,
    StreamSubscriber,
)

TICK_S = 0.25
STATUS_TICKS = 2
METRICS_TICKS = 4
JOINT_STATE_AGE_S = 0.5
"""Age at which joint states do not count as coming, before the run has begun."""
TRUTH_AGE_S = 0.1
"""Age at which a true position no longer tells where an episode ended."""


class RobotInterfaceBridge:
    """Everything of robot_interface that speaks ROS."""

    def __init__(self, node: Node, run: RunSettings, robot: RobotConfig, task: Any,
                 config: CollectionConfig) -> None:
        """Open the run folder, take up what it holds, and begin to wait for the others.

        Raises:
            ConfigError: the run folder is of another task or robot, or in use.
            JournalError: the journal is damaged or cannot be written.
        """
        self.folder = RunFolder(Path(run.run_dir))
        self._node = node
        self._run, self._robot, self._task = run, robot, task
        self._clock = RobotClock(run.real_time_factor)
        self._session = time.time_ns()
        self._collector = Collector(task, config, run.seed)
        self._account = Account()
        self._journal = RunJournal(node, self.folder, robot, task)
        self._journal.restore(self._collector, self._account)
        self._journal.begin_session()
        self._collector.begin_session()
        self._account.begin_session()
        self.sequence = RunSequence(
            config, self._collector,
            config.silence_timeout_s + 2.0 * task.config.reset_s / run.real_time_factor)
        self._controller: ControllerView | None = None
        self._control_steps_end = 0
        self._learners: dict[str, LearnerView] = {}
        self._metrics = MetricsFile(self.folder.metrics)
        self._trained = False
        self._judged_by_truth: list[bool] = []
        self._ticks = 0
        self._told: tuple[Any, ...] = ()
        self._reader = JointStateReader(robot.joint_names)
        self._truth_reader = JointStateReader(robot.joint_names)
        self._joint_states: Subscription | None = None
        self._joint_states_heard_s = -np.inf
        self._joint_states_wrong = ''
        self._truth_subscription: Subscription | None = None
        self._truth: tuple[float, np.ndarray] | None = None
        self._connect()
        if self._journal.unfinished is not None:
            self._publish_transition(self._journal.unfinished, node.get_clock().now().to_msg())
        if self._collector.transitions:
            node.get_logger().info(
                f'resuming: {self._collector.transitions} transitions, '
                f'{self._collector.motion_time_s:.1f} s of motion')

    def _connect(self) -> None:
        node, last = self._node, self._journal.last_control_step
        self._status = node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
        self._commands = StreamPublisher(node, EPISODE_COMMANDS, session=self._session)
        self._transitions = StreamPublisher(
            node, TRANSITIONS, next_number=self._journal.transitions, fetch=self._journal.fetch)
        self._steps = StreamSubscriber(
            node, CONTROL_STEPS, self._on_step, on_session=self._on_controller_session,
            on_unavailable=self.sequence.fail,
            first=0 if last is None else last[1] + 1, session=None if last is None else last[0])
        for kind, message_type, topic in (
                (RecordKind.CONTROLLER_STATUS, msg.ControllerStatus, 'controller_status'),
                (RecordKind.LEARNER_STATUS, msg.LearnerStatus, 'learner_status'),
                (RecordKind.GUARD_STATUS, msg.SafetyStatus, 'guard_status'),
                (RecordKind.BRIDGE_STATUS, msg.BridgeStatus, 'bridge_status')):
            node.create_subscription(
                message_type, topic, lambda message, kind=kind: self._on_status(kind, message),
                qos.STATUS)
        # Watching over the run must go on while simulated time stands still.
        self._timer = node.create_timer(TICK_S, self._tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- what is heard ----

    def _on_step(self, message: msg.ControlStep, _recovered: bool) -> None:
        self._journal.append(RecordKind.CONTROL_STEP, message)
        step = step_from_message(message)
        judged = step.kind == StepKind.END and step.mode == Mode.EVALUATION
        tool = self._true_tool() if judged else None
        taken = self._collector.take(step, self._clock.now(), tool)
        note_action(self._account, self._collector, step, self._now_ros_s())
        for transition in taken.transitions:
            self._publish_transition(transition, message.header.stamp)
        if taken.result is not None and taken.result.mode == Mode.EVALUATION:
            self._judged_by_truth.append(tool is not None)
        if taken.aborted is not None:
            self._node.get_logger().warning(f'episode {step.episode} was aborted: {taken.aborted}')
        self.sequence.took(taken, time.monotonic())
        # At the end of an episode this sends the next command: the arm does not wait for a timer.
        self._advance()

    def _on_controller_session(self, _session: int) -> None:
        self.sequence.controller_restarted(time.monotonic())

    def _on_status(self, kind: RecordKind, message: Any) -> None:
        self._journal.append(kind, message)
        hear(self._account, kind, message, self._now_ros_s())
        if kind == RecordKind.CONTROLLER_STATUS:
            self._steps.announce(message.next_control_step, message.session)
            self._control_steps_end = message.next_control_step
            self._controller = ControllerView(
                state=message.state, fault=message.fault,
                policy_version=version_from_message(message.policy_version),
                last_rejection=message.last_rejection, heard_s=time.monotonic())
        elif kind == RecordKind.LEARNER_STATUS:
            self._learners[message.name] = LearnerView(
                finished=message.state == msg.LearnerStatus.FINISHED,
                version=version_from_message(message.version))

    def _on_joint_states(self, data: bytes) -> None:
        try:
            joints = self._reader.take(data)
        except JointStateError as error:
            self._joint_states_wrong = str(error)
            return
        if joints is not None:
            self._joint_states_wrong = ''
            self._joint_states_heard_s = time.monotonic()

    def _on_truth(self, data: bytes) -> None:
        try:
            joints = self._truth_reader.take(data)
        except JointStateError:
            return
        if joints is not None:
            self._truth = time.monotonic(), joints[0].copy()

    def _true_tool(self) -> np.ndarray | None:
        if self._truth is None or time.monotonic() - self._truth[0] > TRUTH_AGE_S:
            return None
        return np.asarray(self._task.tool_points(self._truth[1]))

    # ---- what is done ----

    def _tick(self) -> None:
        self._ticks += 1
        self._listen()
        self._advance()
        if self._ticks % STATUS_TICKS == 0:
            self.publish_status()
        # The first line at once: a disk that takes nothing is noticed before the arm moves.
        if self._ticks % METRICS_TICKS == 1:
            self._write_metrics()

    def _listen(self) -> None:
        """Subscribe to joint states only while they are looked at: there are 500 a second."""
        waiting = self.sequence.phase == Phase.WAITING
        if waiting and self._joint_states is None:
            self._joint_states = self._node.create_subscription(
                JointState, self._robot.joint_states_topic, self._on_joint_states, qos.FRESH,
                raw=True)
        elif not waiting and self._joint_states is not None:
            self._node.destroy_subscription(self._joint_states)
            self._joint_states = None
        if self.sequence.phase == Phase.FINISHING and self._truth_subscription is None:
            self._truth_subscription = self._node.create_subscription(
                JointState, 'ground_truth/joint_states', self._on_truth, qos.FRESH, raw=True)

    def _advance(self) -> None:
        command = self.sequence.advance(self._surroundings(), time.monotonic(),
                                        self._commands.next_number)
        if command is not None:
            self._send(command)
        if self.sequence.trained and not self._trained:
            self._trained = True
            self._collector.end_training(self._collector.wall_time_s(self._clock.now()))
        told = (self.sequence.phase, self.sequence.reason, self._collector.in_motion)
        if told != self._told:
            if told[:2] != self._told[:2]:
                self._log_phase()
            self._told = told
            self.publish_status()

    def _surroundings(self) -> Surroundings:
        topic = self._robot.joint_states_topic
        missing = ''
        if time.monotonic() - self._joint_states_heard_s > JOINT_STATE_AGE_S:
            missing = f'joint states on {topic} ({self._joint_states_wrong or "none come"})'
        return Surroundings(
            joint_states_missing=missing,
            control_steps_missing=self._steps.next_number < self._control_steps_end,
            controller=self._controller, learners=self._learners)

    def _send(self, command: EpisodeCommand) -> None:
        message = command_to_message(command, self._session, self._node.get_clock().now().to_msg())
        payload = self._journal.append(RecordKind.EPISODE_COMMAND, message)
        self._collector.commanded(command, self._clock.now())
        self._commands.publish(message, payload)

    def _publish_transition(self, transition: Transition, stamp: Time) -> None:
        message = transition_to_message(transition, stamp)
        message.publish_time_ns = time.time_ns()
        payload = self._journal.append(RecordKind.TRANSITION, message)
        self._transitions.publish(message, payload)

    def publish_status(self) -> None:
        """Publish where the run is."""
        collector, sequence = self._collector, self.sequence
        self._account.heard_phase(sequence.phase)
        message = msg.RunStatus(
            session=self._session, run_id=self.folder.root.name, task=self._task.name,
            robot=self._robot.name, algorithm=self._run.algorithm, phase=int(sequence.phase),
            reason=sequence.reason, in_motion=collector.in_motion,
            motion_time_s=collector.motion_time_s,
            motion_time_limit_s=collector.motion_time_limit_s,
            robot_time_s=collector.robot_time_s,
            wall_time_s=collector.wall_time_s(self._clock.now()),
            episodes=collector.episodes, evaluation_episodes=len(sequence.evaluation),
            next_transition=self._transitions.next_number,
            next_episode_command=self._commands.next_number,
            next_control_step=self._steps.next_number)
        if collector.learning_curve:
            _, message.recent_return, message.recent_success_rate = collector.learning_curve[-1]
            message.last_distance_m = collector.recent()[-1].distance_m
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(message)
        if sequence.phase == Phase.FAILED:
            with contextlib.suppress(JournalError):   # which may be why it failed
                self._journal.append(RecordKind.RUN_STATUS, message)
        else:
            self._journal.append(RecordKind.RUN_STATUS, message)

    def _log_phase(self) -> None:
        sequence = self.sequence
        text = sequence.phase.name.lower()
        if sequence.reason:
            text += f': {sequence.reason.removeprefix("waiting ")}'
        if sequence.phase == Phase.FAILED:
            self._node.get_logger().error(text)
        else:
            self._node.get_logger().info(text)

    # ---- the end ----

    def end_motion(self, kind: CommandKind) -> None:
        """Tell the controller to hold the arm, also where the journal takes nothing any more."""
        command = hold(self._commands.next_number, kind)
        try:
            self._send(command)
        except JournalError as error:
            self._node.get_logger().error(str(error))
            self._commands.publish(command_to_message(
                command, self._session, self._node.get_clock().now().to_msg()))

    def write_outcome(self) -> None:
        """Write the summary, then a line of metrics, with what there is.

        Raises:
            OSError: the disk does not take it.
        """
        judged = None
        by_truth = self._judged_by_truth[-len(self.sequence.evaluation):]
        if self.sequence.evaluation and by_truth:
            judged = 'true_positions' if all(by_truth) else (
                'mixed' if any(by_truth) else 'measured_positions')
        facts = RunFacts(
            task=self._task.name, robot=self._robot.name, algorithm=self._run.algorithm,
            seed=self._run.seed, ros_distro=os.environ.get('ROS_DISTRO'),
            rmw=rclpy.get_rmw_implementation_identifier(),
            phase=self.sequence.phase.name.lower(), reason=self.sequence.reason,
            wall_time_s=self._collector.wall_time_s(self._clock.now()), judged_by=judged,
            numbers_missing=self._journal.numbers_missing,
            evaluation_aborted=self.sequence.evaluation_aborted)
        write_summary(self.folder, build_summary(facts, self._collector, self._account,
                                                 self.sequence.evaluation))
        self._write_metrics()

    def _write_metrics(self) -> None:
        self._metrics.write(metrics_record(
            self._collector, self.sequence, self._account, unix_s=time.time(),
            now_s=self._clock.now()))

    def flush(self, timeout_s: float) -> None:
        """Wait until the others have what was published, within limits."""
        self._status.wait_for_all_acked(Duration(seconds=timeout_s))
        self._commands.flush(timeout_s)

    def close(self) -> None:
        """Close the files."""
        self._timer.cancel()
        self._journal.close()
        with contextlib.suppress(OSError):   # what a full disk did not take was said when written
            self._metrics.close()

    def _now_ros_s(self) -> float:
        return self._node.get_clock().now().nanoseconds * 1e-9
