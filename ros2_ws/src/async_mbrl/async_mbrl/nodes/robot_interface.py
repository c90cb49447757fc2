"""Runs the episodes and turns what the controller reports into transitions, journal and summary."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from dataclasses import dataclass

from rclpy.executors import SingleThreadedExecutor

from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.collection.course import Phase
from async_mbrl.collection.journal import JournalError
from async_mbrl.collection.recording import RecordingStopped, write_recording
from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.transition import CommandKind
from async_mbrl.ros.bridged_node import BridgedNode
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.robot_interface_bridge import RobotInterfaceBridge
from async_mbrl.ros.run import note_stops
from async_mbrl.tasks import TaskConfig, make_task

RECORDING_ON_STOP_S = 1.5
"""Time that the recording may take when the run is interrupted; the journal keeps everything."""
FLUSH_S = 0.3


@dataclass(frozen=True)
class RobotInterfaceConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    collection: CollectionConfig = param('how much is collected')
    schedule: ScheduleConfig = param('how collecting and learning take turns')


class RobotInterface(BridgedNode[RobotInterfaceBridge]):
    """The robot interface as a managed node.

    Configured, it has opened the run folder and hears the others; active, it runs episodes.
    Deactivated, it ends the running one and holds the arm; cleaned up, it ends the run in order,
    so that it can be gone on with.
    """

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they do not fit each other.
        """
        super().__init__('robot_interface')
        self.config = config_from_parameters(self, RobotInterfaceConfig)
        self.task = make_task(self.config.task, self.config.robot)

    def configure(self) -> None:
        """Take up the run."""
        config = self.config
        self.bridge = RobotInterfaceBridge(self, config.run, config.robot, self.task,
                                           config.collection, config.schedule)

    def cleanup(self) -> None:
        """End the run as far as it has come."""
        if self.bridge is None:
            return
        self.bridge.sequence.interrupt()
        _write_outcome(self, self.bridge)
        self.bridge.say_goodbye()
        self._leave(self.bridge)

    def on_failure(self) -> None:
        """Hold the arm, and say that the run has failed."""
        if self.bridge is None:
            return
        self.bridge.sequence.fail(f'robot_interface: {self.failure}')
        self.bridge.end_motion(CommandKind.HOLD)
        with contextlib.suppress(JournalError):     # which may be what has failed
            self.bridge.say_goodbye()
        self._leave(self.bridge)

    def end(self, bridge: RobotInterfaceBridge, executor: SingleThreadedExecutor,
            stops: list[int]) -> None:
        """Hold the arm, write the files, say so.

        Raises:
            SystemExit: the run has failed, or its outcome could not be written.
        """
        bridge.end_motion(CommandKind.HOLD if bridge.sequence.interrupted else CommandKind.FINISH)
        bridge.flush(FLUSH_S)
        _write_outcome(self, bridge)   # already now, for the case that recording is cut short
        if self.config.run.mode == 'learn':
            # The others must go on hearing from this node while it writes.
            writer = threading.Thread(target=_record, args=(self, bridge, stops),
                                      name='recording')
            writer.start()
            while writer.is_alive():
                with contextlib.suppress(JournalError, OSError):   # said already
                    executor.spin_once(timeout_sec=0.05)
        bridge.sequence.written()
        unwritten = _write_outcome(self, bridge)
        try:
            bridge.say_goodbye()
        except JournalError as error:
            unwritten = unwritten or str(error)
        bridge.flush(FLUSH_S)
        self._leave(bridge)
        if bridge.sequence.phase == Phase.FAILED:
            raise SystemExit(f'error: {bridge.sequence.reason}')
        if unwritten:
            raise SystemExit(f'error: the outcome could not be written: {unwritten}')

    def _leave(self, bridge: RobotInterfaceBridge) -> None:
        self.bridge = None
        bridge.close()


def spin(node: ManagedNode) -> None:
    """Serve callbacks until the run is over or the process is asked to stop."""
    assert isinstance(node, RobotInterface)
    # A signal must not end a callback half-way: journal, collector and topics would disagree.
    stops = note_stops()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    try:
        while not stops and not node.finalized:
            if node.bridge is not None and node.bridge.sequence.complete:
                break
            try:
                executor.spin_once(timeout_sec=0.1)
            except (JournalError, OSError) as error:
                if node.bridge is None:
                    raise
                node.bridge.sequence.fail(f'files of the run cannot be written: {error}')
        bridge = node.bridge
        if bridge is not None:
            bridge.sequence.interrupt()
            node.end(bridge, executor, stops)
    finally:
        executor.remove_node(node)


def _write_outcome(node: RobotInterface, bridge: RobotInterfaceBridge) -> str:
    """Write what is known of the outcome; give the reason if that failed, said already."""
    try:
        bridge.write_outcome()
    except OSError as error:
        node.get_logger().error(f'summary or metrics: {error}')
        return str(error)
    return ''


def _record(node: RobotInterface, bridge: RobotInterfaceBridge, stops: list[int]) -> None:
    stopped_s: float | None = None

    def give_up() -> bool:
        nonlocal stopped_s
        if stopped_s is None and stops:
            stopped_s = time.monotonic()
        return stopped_s is not None and time.monotonic() - stopped_s > RECORDING_ON_STOP_S

    try:
        write_recording(bridge.folder, give_up)
    except RecordingStopped:
        node.get_logger().warning(
            f'stopped before the recording was written; make it with: '
            f'async-mbrl record {bridge.folder.root}')
    except (ConfigError, OSError) as error:
        node.get_logger().error(f'recording: {error}')


def main() -> None:
    """Run the robot interface."""
    sys.exit(run_managed(RobotInterface, spin))


if __name__ == '__main__':
    main()
