"""What is made up for when robot_interface died before it could write the files of its run."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting import outcome

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Written:
    """Which summary and which recording lie in the folder of a run; None without."""

    summary: Stamp | None
    recording: Stamp | None


def written(folder: RunFolder) -> Written:
    """Look what lies there, to see later whether it was made anew: a run may be resumed."""
    return Written(_stamp(folder.summary), _stamp(folder.recording / 'metadata.yaml'))


def make_up_summary(folder: RunFolder, composition: Composition, reason: str,
                    interrupted: bool) -> None:
    """Write the summary of a run from its journal; what stood there before is another session's.

    Where the journal cannot be read, the summary of before is marked as that of a run that failed.

    Raises:
        OSError: it cannot be written.
    """
    from async_mbrl.collection.journal import JournalError

    phase = 'waiting' if interrupted else 'failed'
    try:
        _rebuild(folder, composition, phase, reason)
    except (ConfigError, JournalError) as error:
        outcome.extend_summary(folder, {'phase': phase, 'reason': f'{reason}; {error}'})


def make_up_recording(folder: RunFolder) -> None:
    """Make the recording of a run from its journal, if there is one.

    Raises:
        ConfigError: the journal or the message definitions cannot be read.
        OSError: it cannot be written.
    """
    from async_mbrl.collection.journal import read_meta
    from async_mbrl.collection.recording import write_recording

    if read_meta(folder.journal) is not None:
        write_recording(folder)


def _rebuild(folder: RunFolder, composition: Composition, phase: str, reason: str) -> None:
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from async_mbrl.collection.account import Account
    from async_mbrl.collection.collector import Collector
    from async_mbrl.collection.journal import read_meta
    from async_mbrl.collection.summary import RunFacts, build_summary, write_summary
    from async_mbrl.ros.run_journal import RunJournal
    from async_mbrl.tasks import make_task

    task = make_task(composition.task, composition.robot)
    collector = Collector(task, composition.collection, composition.run.seed)
    account = Account()
    numbers_missing = 0
    if read_meta(folder.journal) is not None:
        context = rclpy.Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            # The journal asks a node for its clock and its log.
            node = Node('async_mbrl_aftermath', context=context, start_parameter_services=False)
            try:
                with closing(RunJournal(node, folder, composition.robot, task)) as journal:
                    journal.restore(collector, account)
                    numbers_missing = journal.numbers_missing
            finally:
                node.destroy_node()
        finally:
            context.try_shutdown()
    collector.begin_session()   # the last one ended with its last event
    # Built as that of a run that waits: what a learner had not confirmed when robot_interface died
    # is in the journal, so it is outstanding, not lost.
    facts = RunFacts(
        task=task.name, robot=composition.robot.name, algorithm=composition.run.algorithm,
        seed=composition.run.seed, ros_distro=os.environ.get('ROS_DISTRO'),
        rmw=rclpy.get_rmw_implementation_identifier(), phase='waiting', reason=reason,
        wall_time_s=collector.wall_time_s(0.0), judged_by=None, numbers_missing=numbers_missing,
        mode=composition.run.mode, dry_run=composition.run.dry_run, schedule=composition.schedule)
    write_summary(folder, {**build_summary(facts, collector, account, []), 'phase': phase})


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
