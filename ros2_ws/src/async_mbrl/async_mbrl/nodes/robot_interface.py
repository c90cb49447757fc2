"""Runs the episodes and turns what the controller reports into transitions, journal and summary."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from dataclasses import dataclass

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.collection.journal import JournalError
from async_mbrl.collection.phases import Phase
from async_mbrl.collection.recording import RecordingStopped, write_recording
from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.core.transition import CommandKind
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.robot_interface_bridge import RobotInterfaceBridge
from async_mbrl.ros.run import run_node
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


class RobotInterface(Node):
    """The robot interface as a ROS node."""

    def __init__(self) -> None:
        """Read the parameters and take up the run.

        Raises:
            ConfigError: parameters do not fit each other or the run folder.
        """
        super().__init__('robot_interface')
        config = config_from_parameters(self, RobotInterfaceConfig)
        task = make_task(config.task, config.robot)
        self.bridge = RobotInterfaceBridge(self, config.run, config.robot, task, config.collection)


def spin(node: Node) -> None:
    """Serve callbacks until the run is over or the process is asked to stop."""
    assert isinstance(node, RobotInterface)
    stop = threading.Event()
    # A signal must not end a callback half-way: journal, collector and topics would disagree.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    bridge = node.bridge
    gc.collect()
    gc.freeze()
    try:
        while not (stop.is_set() or bridge.sequence.complete):
            executor.spin_once(timeout_sec=0.1)
    except (JournalError, OSError) as error:
        bridge.sequence.fail(f'files of the run cannot be written: {error}')
    if not bridge.sequence.complete:
        bridge.sequence.interrupt()
    end(node, executor, stop)


def end(node: RobotInterface, executor: SingleThreadedExecutor, stop: threading.Event) -> None:
    """Hold the arm, write the files, say so."""
    bridge = node.bridge
    bridge.end_motion(CommandKind.HOLD if bridge.sequence.interrupted else CommandKind.FINISH)
    bridge.flush(FLUSH_S)
    _write_outcome(node)   # already now, for the case that recording is cut short
    # The others must go on hearing from this node while it writes.
    writer = threading.Thread(target=_record, args=(node, stop), name='recording')
    writer.start()
    while writer.is_alive():
        with contextlib.suppress(JournalError, OSError):   # said already
            executor.spin_once(timeout_sec=0.05)
    bridge.sequence.written()
    unwritten = _write_outcome(node)
    try:
        bridge.publish_status()
    except JournalError as error:
        unwritten = unwritten or str(error)
    bridge.flush(FLUSH_S)
    executor.shutdown()
    bridge.close()
    if bridge.sequence.phase == Phase.FAILED:
        raise SystemExit(f'error: {bridge.sequence.reason}')
    if unwritten:
        raise SystemExit(f'error: the outcome could not be written: {unwritten}')


def _write_outcome(node: RobotInterface) -> str:
    """Write what is known of the outcome; give the reason if that failed, said already."""
    try:
        node.bridge.write_outcome()
    except OSError as error:
        node.get_logger().error(f'summary or metrics: {error}')
        return str(error)
    return ''


def _record(node: RobotInterface, stop: threading.Event) -> None:
    stopped_s: float | None = None

    def give_up() -> bool:
        nonlocal stopped_s
        if stopped_s is None and stop.is_set():
            stopped_s = time.monotonic()
        return stopped_s is not None and time.monotonic() - stopped_s > RECORDING_ON_STOP_S

    try:
        write_recording(node.bridge.folder, give_up)
    except RecordingStopped:
        node.get_logger().warning(
            f'stopped before the recording was written; make it with: '
            f'async-mbrl record {node.bridge.folder.root}')
    except (ConfigError, OSError) as error:
        node.get_logger().error(f'recording: {error}')


def main() -> None:
    """Run the robot interface."""
    sys.exit(run_node(RobotInterface, spin))


if __name__ == '__main__':
    main()
