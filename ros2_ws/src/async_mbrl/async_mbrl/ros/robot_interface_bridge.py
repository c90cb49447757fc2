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
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import CollectionConfig, Collector, hold
from async_mbrl.collection.course import (
    ControllerView,
    Course,
    LearnerView,
    Phase,
    Surroundings,
)
from async_mbrl.collection.goals import GoalSequence, ToolFrame
from async_mbrl.collection.journal import JournalError, RecordKind
from async_mbrl.collection.phases import RunSequence
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.robot import ArmConfig, RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.core.schedule import TURNS_METRIC, ScheduleConfig
from async_mbrl.core.transition import (
    CommandKind,
    EpisodeCommand,
    Mode,
    StepKind,
    Transition,
)
from async_mbrl.ros import qos
from async_mbrl.ros.arm_watch import PERIOD_S, ArmWatch
from async_mbrl.ros.bounds import StreamBounds, subscribe
from async_mbrl.ros.convert import (
    command_to_message,
    metrics_from_message,
    step_from_message,
    transition_to_message,
    version_from_message,
)
from async_mbrl.ros.diagnostics import Diagnostics
from async_mbrl.ros.goal_intake import GoalIntake
from async_mbrl.ros.lifecycle import ManagedNode
from async_mbrl.ros.markers import Markers
from async_mbrl.ros.operation import Operation
from async_mbrl.ros.run_journal import NoJournal, RunJournal, hear, note_action
from async_mbrl.ros.run_report import RunReport
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    TRANSITIONS,
    StreamPublisher,
    StreamSubscriber,
)
from async_mbrl.simulation.collision import BUILT_M, CollisionChecker

TICK_S = 0.25
STATUS_TICKS = 2
METRICS_TICKS = 4
VIEW_S = 0.1
"""Time between two looks at what an operator asks, and two pictures of the arm."""
CONTROLLER, LIFECYCLE = 'controller', 'lifecycle'
"""Who asks for a pause besides the operator."""


class RobotInterfaceBridge:
    """Everything of robot_interface that speaks ROS."""

    def __init__(self, node: ManagedNode, run: RunSettings, robot: RobotConfig, task: Any,
                 config: CollectionConfig, schedule: ScheduleConfig) -> None:
        """Open the run folder, take up what it holds, and begin to hear the others, paused.

        Raises:
            ConfigError: the run folder is of another task or robot, or in use; or the model of the
                robot cannot be loaded.
            JournalError: the journal is damaged or cannot be written.
        """
        self.folder = RunFolder(Path(run.run_dir))
        self.folder.root.mkdir(parents=True, exist_ok=True)
        self._node = node
        self._run, self._robot, self._task = run, robot, task
        self._clock = RobotClock(run.real_time_factor)
        self._session = time.time_ns()
        # A benchmark body has nothing to run into, and no tool to be shown.
        self._arm_config = robot if isinstance(robot, ArmConfig) else None
        self._clearance = None if self._arm_config is None else CollisionChecker(
            self._arm_config, config.collision_margin_m, config.floor_height_m)
        if self._clearance is not None and self._clearance.ignored:
            node.get_logger().info('collisions are not looked for between '
                                   f'{"; ".join(self._clearance.ignored)}: closer than '
                                   f'{1e3 * BUILT_M:.0f} mm at home, so built that way')
        self._collector = Collector(task, config, run.seed, self._clearance)
        self._account = Account()
        self._journal: RunJournal | NoJournal
        self._journal = (RunJournal(node, self.folder, robot, task) if run.mode == 'learn'
                         else NoJournal())
        self._journal.restore(self._collector, self._account)
        self._journal.begin_session()
        self._collector.begin_session()
        self._account.begin_session()
        progress_timeout_s = (config.silence_timeout_s
                              + 2.0 * task.config.reset_s / run.real_time_factor)
        self.sequence: Course
        if run.mode == 'learn':
            self.sequence = RunSequence(config, self._collector, progress_timeout_s, schedule,
                                        run.real_time_factor)
        else:
            self.sequence = GoalSequence(config, self._collector, progress_timeout_s)
        self._report = RunReport(node, run, robot, task, self._collector, self.sequence,
                                 self._account, schedule)
        self._ask_pause()
        self._controller: ControllerView | None = None
        self._control_steps_end = 0
        self._learners: dict[str, LearnerView] = {}
        self._report.learners = self._learners
        self._ticks = 0
        self._told: tuple[Any, ...] = ()
        self._goal: np.ndarray | None = None
        self._view_s = 0.0
        self._process = os.getpid()
        self.closed = False
        self._connect(config)
        if self._journal.unfinished is not None:
            self._publish_transition(self._journal.unfinished, node.get_clock().now().to_msg())
        if self._collector.transitions:
            node.get_logger().info(
                f'resuming: {self._collector.transitions} transitions, '
                f'{self._collector.motion_time_s:.1f} s of motion')

    def _connect(self, config: CollectionConfig) -> None:
        node, last = self._node, self._journal.last_control_step
        self._status = node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
        self._commands = StreamPublisher(node, EPISODE_COMMANDS, session=self._session)
        self._transitions = StreamPublisher(
            node, TRANSITIONS, next_number=self._journal.transitions, fetch=self._journal.fetch)
        self._steps = StreamSubscriber(
            node, CONTROL_STEPS, self._on_step, bounds=StreamBounds.of(self._task),
            on_session=self._on_controller_session, on_unavailable=self.sequence.fail,
            first=0 if last is None else last[1] + 1, session=None if last is None else last[0])
        for kind, message_type, topic in (
                (RecordKind.CONTROLLER_STATUS, msg.ControllerStatus, 'controller_status'),
                (RecordKind.LEARNER_STATUS, msg.LearnerStatus, 'learner_status'),
                (RecordKind.GUARD_STATUS, msg.SafetyStatus, 'guard_status'),
                (RecordKind.BRIDGE_STATUS, msg.BridgeStatus, 'bridge_status')):
            subscribe(node, message_type, topic,
                      lambda message, kind=kind: self._on_status(kind, message), qos.STATUS)
        self._arm = ArmWatch(node, self._robot)
        arm = self._arm_config
        self._markers = None if arm is None else Markers(node, arm, ToolFrame(arm))
        self._operation = Operation(node, self, config.learners)
        if isinstance(self.sequence, GoalSequence):
            assert arm is not None and self._clearance is not None
            GoalIntake(node, arm, self._task, self._clearance, self._arm, self.sequence,
                       self._run.seed, self.advance)
        Diagnostics(node, self._report.part, node.events.part, hardware=self._robot.name)
        # Watching over the run must go on while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(TICK_S, self._tick, clock=steady)
        node.create_timer(PERIOD_S, self._look, clock=steady)

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
            self._report.judged_by_truth.append(tool is not None)
        if taken.aborted is not None:
            self._node.get_logger().warning(f'episode {step.episode} was aborted: {taken.aborted}')
        self.sequence.took(taken, time.monotonic())
        if self._collector.open and step.kind in (StepKind.MOVE_DONE, StepKind.STEP):
            self.sequence.acted()
        # At the end of an episode this sends the next command: the arm does not wait for a timer.
        self.advance()

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
                last_rejection=message.last_rejection, heard_s=time.monotonic(),
                causes=tuple(message.fault_causes))
        elif kind == RecordKind.LEARNER_STATUS:
            self._learners[message.name] = LearnerView(
                finished=message.state == msg.LearnerStatus.FINISHED,
                version=version_from_message(message.version), heard_s=time.monotonic(),
                turns=round(metrics_from_message(message).get(TURNS_METRIC, 0.0)))

    def _true_tool(self) -> np.ndarray | None:
        position = None if self._arm_config is None else self._arm.true_position()
        return None if position is None else np.asarray(self._task.tool_points(position))

    # ---- what is done ----

    def _tick(self) -> None:
        self._ticks += 1
        self.advance()
        if self._ticks % STATUS_TICKS == 0:
            self.publish_status()
        # The first line at once: a disk that takes nothing is noticed before the arm moves.
        if self._ticks % METRICS_TICKS == 1:
            self._report.write_metrics()

    def _look(self) -> None:
        """Look at the arm, 25 times a second, and at what an operator asks, less often."""
        arm, sequence, now_s = self._arm, self.sequence, time.monotonic()
        arm.poll()
        self._collector.position = arm.position
        dead = arm.controller_died
        if dead:
            sequence.ask_pause(CONTROLLER, f'the controller has died (process {dead[0]}); waiting '
                               'for it to be started again')
        if (not sequence.paused) if dead else sequence.release(CONTROLLER):
            self.advance()
        if self._clearance is not None and self._collector.open and arm.fresh:
            assert arm.position is not None and arm.velocity is not None
            flaw = self._clearance.ahead_flaw(arm.position, arm.velocity)
            if flaw:
                self._break_off(f'about to collide: {flaw}', now_s)
        if now_s >= self._view_s:
            self._view_s = now_s + VIEW_S
            self._operation.poll()
            if arm.position is not None and self._markers is not None:
                self._markers.publish(
                    self._node.get_clock().now().to_msg(), arm.position,
                    self._task.tool_points(arm.position), self._goal)

    def _break_off(self, reason: str, now_s: float) -> None:
        command = self.sequence.broke_off(reason, now_s, self._commands.next_number)
        if command is not None:
            self._send(command)
            self._report.collision_holds += 1
            self._node.get_logger().warning(f'{reason}: holding the arm')

    def advance(self) -> None:
        """Do what is due, and say so where something has changed."""
        sequence = self.sequence
        was = sequence.paused, sequence.trained
        command = sequence.advance(self._surroundings(), time.monotonic(),
                                   self._commands.next_number)
        if command is not None:
            self._send(command)
        # Robot time stands still for the run while it is paused, also if it asks whether to go on.
        if (sequence.paused and (command is not None or not was[0])) or (
                sequence.trained and not was[1]):
            self._collector.end_training(self._collector.wall_time_s(self._clock.now()))
        told = sequence.phase, sequence.reason, sequence.paused, self._collector.in_motion
        if told != self._told:
            if told[:3] != self._told[:3]:
                self._report.log_phase()
            self._told = told
            self.publish_status()

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            joint_states_missing=self._arm.missing,
            control_steps_missing=self._steps.next_number < self._control_steps_end,
            controller=self._controller, learners=self._learners)

    def _send(self, command: EpisodeCommand) -> None:
        message = command_to_message(command, self._session, self._node.get_clock().now().to_msg())
        payload = self._journal.append(RecordKind.EPISODE_COMMAND, message)
        self._collector.commanded(command, self._clock.now())
        self._goal = command.goal if command.kind == CommandKind.RUN_EPISODE else self._goal
        self._commands.publish(message, payload)

    def _publish_transition(self, transition: Transition, stamp: Time) -> None:
        message = transition_to_message(transition, stamp)
        message.publish_time_ns = time.time_ns()
        payload = self._journal.append(RecordKind.TRANSITION, message)
        self._transitions.publish(message, payload)

    def publish_status(self) -> None:
        """Publish where the run is."""
        self._account.heard_phase(self.sequence.phase)
        message = self._report.status(self._process)
        message.session = self._session
        message.next_transition = self._transitions.next_number
        message.next_episode_command = self._commands.next_number
        message.next_control_step = self._steps.next_number
        self._status.publish(message)
        if self.sequence.phase == Phase.FAILED:
            with contextlib.suppress(JournalError):   # which may be why it failed
                self._journal.append(RecordKind.RUN_STATUS, message)
        else:
            self._journal.append(RecordKind.RUN_STATUS, message)

    # ---- what others ask for ----

    def pause(self) -> None:
        """End the running episode, hold the arm, and command nothing until :meth:`go_on`."""
        self._ask_pause()
        self.advance()

    def _ask_pause(self) -> None:
        self.sequence.ask_pause(LIFECYCLE, 'the node is inactive; go on with: '
                                'ros2 lifecycle set robot_interface activate')

    def go_on(self) -> None:
        """Take part from now on, the node being active."""
        self.sequence.release(LIFECYCLE)

    def save(self) -> None:
        """Bring journal and summary to the disk.

        Raises:
            OSError: the disk does not take it.
        """
        self._journal.sync()
        self.write_outcome()

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
        self._report.write_outcome(self._journal.numbers_missing)

    def flush(self, timeout_s: float) -> None:
        """Wait until the others have what was published, within limits."""
        self._status.wait_for_all_acked(Duration(seconds=timeout_s))
        self._commands.flush(timeout_s)

    def say_goodbye(self) -> None:
        """Publish the last status: from here on the death of this process is in order.

        Raises:
            JournalError: the journal does not take it; it was published.
        """
        self._process = 0
        self._operation.close()
        self.publish_status()

    def close(self) -> None:
        """Close the files; what is on the graph goes when the node is cleaned up."""
        self.closed = True
        self._journal.close()
        with contextlib.suppress(OSError):   # what a full disk did not take was said when written
            self._report.close()
        self._arm.close()

    def _now_ros_s(self) -> float:
        return self._node.get_clock().now().nanoseconds * 1e-9
