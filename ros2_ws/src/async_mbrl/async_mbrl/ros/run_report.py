"""What robot_interface says of a run: its status, its part of ``/diagnostics``, its summary."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import Collector
from async_mbrl.collection.course import Course, LearnerView, Phase
from async_mbrl.collection.goals import GoalSequence
from async_mbrl.collection.metrics import MetricsFile, metrics_record
from async_mbrl.collection.phases import RunSequence
from async_mbrl.collection.summary import RunFacts, build_summary, write_summary
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.host import host_id
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.ros.diagnostics import Part

SILENT_S = 5.0
"""Time without a heartbeat after which a learner is said to be silent."""


class RunReport:
    """Put together what is known of a run for those who want to know."""

    def __init__(self, node: Node, run: RunSettings, robot: RobotConfig, task: Any,
                 collector: Collector, sequence: Course, account: Account,
                 schedule: ScheduleConfig) -> None:
        """Open the metrics file of the run folder.

        Raises:
            OSError: it cannot be opened.
        """
        self._node = node
        self._run, self._robot, self._task = run, robot, task
        self._schedule = schedule
        self._folder = RunFolder(Path(run.run_dir))
        self._collector, self._sequence, self._account = collector, sequence, account
        self._clock = RobotClock(run.real_time_factor)
        self._metrics = MetricsFile(self._folder.metrics)
        self._host = host_id()
        self.judged_by_truth: list[bool] = []
        """Whether true positions were known, for each evaluation episode judged."""
        self.collision_holds = 0
        """Times that the arm was held because it was about to collide."""
        self.learners: Mapping[str, LearnerView] = {}
        """What was last heard of each learner."""

    def status(self, process: int) -> msg.RunStatus:
        """Give the status; numbers of streams are left for their owner to fill in."""
        collector, sequence = self._collector, self._sequence
        message = msg.RunStatus(
            run_id=self._folder.root.name, task=self._task.name,
            robot=self._robot.name, algorithm=self._run.algorithm, phase=int(sequence.phase),
            reason=sequence.reason or '; '.join(self._silent()), paused=sequence.paused,
            dry_run=self._run.dry_run, mode=self._run.mode, host=self._host, process=process,
            in_motion=collector.in_motion, motion_time_s=collector.motion_time_s,
            motion_time_limit_s=collector.motion_time_limit_s,
            robot_time_s=collector.robot_time_s,
            wall_time_s=collector.wall_time_s(self._clock.now()),
            episodes=collector.episodes, evaluation_episodes=len(sequence.evaluation))
        if collector.learning_curve:
            _, message.recent_return, rate = collector.learning_curve[-1]
            distance_m = collector.recent()[-1].distance_m
            message.recent_success_rate = math.nan if rate is None else rate
            message.last_distance_m = math.nan if distance_m is None else distance_m
        message.header.stamp = self._node.get_clock().now().to_msg()
        return message

    def part(self) -> Part:
        """Say how the run is, for ``/diagnostics``."""
        collector, sequence = self._collector, self._sequence
        values: dict[str, object] = {
            'transitions': collector.transitions, 'episodes': collector.episodes,
            'motion time, s': collector.motion_time_s,
            'wall time, s': collector.wall_time_s(self._clock.now()),
            'missing numbers recovered by learners': sum(
                self._account.learner_total(name, 'transitions_recovered') or 0
                for name in self.learners),
            'collision holds': self.collision_holds, 'plans refused': collector.refused_plans}
        if isinstance(sequence, GoalSequence):
            values |= {'goals received': sequence.received, 'goals refused': sequence.refused,
                       'goals reached': sequence.reached}
        return Part('run', sequence.phase.name.lower() + (f': {sequence.reason}'
                                                          if sequence.reason else ''), values,
                    (sequence.reason if sequence.paused else '', *self._silent()),
                    (sequence.reason if sequence.phase == Phase.FAILED else '',))

    def log_phase(self) -> None:
        """Tell phase and reason in the log."""
        sequence, log = self._sequence, self._node.get_logger()
        text = ('paused, ' if sequence.paused else '') + sequence.phase.name.lower()
        if sequence.reason:
            text += f': {sequence.reason.removeprefix("waiting ")}'
        if sequence.phase == Phase.FAILED:
            log.error(text)
        elif sequence.paused:
            log.warning(text)
        else:
            log.info(text)

    def write_outcome(self, numbers_missing: int) -> None:
        """Write the summary, then a line of metrics, with what there is.

        Raises:
            OSError: the disk does not take it.
        """
        sequence, collector = self._sequence, self._collector
        judged = None
        by_truth = self.judged_by_truth[-len(sequence.evaluation):]
        if sequence.evaluation and by_truth and self._robot.kind == 'arm':
            judged = 'true_positions' if all(by_truth) else (
                'mixed' if any(by_truth) else 'measured_positions')
        checks = sequence.checks if isinstance(sequence, RunSequence) else []
        facts = RunFacts(
            task=self._task.name, robot=self._robot.name, algorithm=self._run.algorithm,
            seed=self._run.seed, ros_distro=os.environ.get('ROS_DISTRO'),
            rmw=rclpy.get_rmw_implementation_identifier(),
            phase=sequence.phase.name.lower(), reason=sequence.reason,
            wall_time_s=collector.wall_time_s(self._clock.now()), judged_by=judged,
            numbers_missing=numbers_missing, evaluation_aborted=sequence.evaluation_aborted,
            mode=self._run.mode, dry_run=self._run.dry_run,
            goals=sequence.to_mapping() if isinstance(sequence, GoalSequence) else None,
            checks=tuple(check.to_mapping() for check in checks),
            plans_refused=collector.refused_plans, collision_holds=self.collision_holds,
            schedule=self._schedule)
        write_summary(self._folder, build_summary(facts, collector, self._account,
                                                  sequence.evaluation))
        self.write_metrics()

    def write_metrics(self) -> None:
        """Write a line of metrics.

        Raises:
            OSError: the disk does not take it.
        """
        self._metrics.write(metrics_record(
            self._collector, self._sequence, self._account, unix_s=time.time(),
            now_s=self._clock.now()))

    def close(self) -> None:
        """Close the metrics file."""
        self._metrics.close()

    def _silent(self) -> list[str]:
        now_s = time.monotonic()
        return [f'{name} has been silent for {now_s - view.heard_s:.0f} s'
                for name, view in self.learners.items()
                if now_s - view.heard_s > SILENT_S and not view.finished]
