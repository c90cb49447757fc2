"""Whole graphs, started by the command, and ears for what they say."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions

from async_mbrl.core.run import RunFolder
from async_mbrl.reporting.figures import read_metrics


def sessions() -> set[int]:
    """Give the sessions that have a process that is not a zombie; a node's is its process id."""
    found = set()
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):   # ended meanwhile
            state, _parent, _group, session = path.read_text().rpartition(')')[2].split()[:4]
            if state != 'Z':
                found.add(int(session))
    return found


class Graph:
    """A run started by ``async-mbrl up sim``, in a folder of its own."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.folder = RunFolder(root / 'run')
        self.output = root / 'output.txt'
        command = [sys.executable, '-m', 'async_mbrl.cli', 'up', 'sim', '--no-video',
                   '--episodes', '20', '--run-dir', str(self.folder.root), *arguments]
        if not self.folder.config.exists():   # a resumed run keeps its settings
            command += ['--set', 'task.reset_s=2.0', '--set', 'task.success_rate=0.0']
        with open(self.output, 'wb') as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True, cwd=root)

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.folder.summary.read_text())

    def pid(self, node: str) -> int:
        return json.loads((self.folder.root / 'processes.json').read_text())[node]

    def transitions(self) -> int:
        metrics = read_metrics(self.folder)
        return metrics[-1]['transitions'] if metrics else 0

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f'still running after {timeout_s} s:\n{self.said}')

    def alive(self) -> list[str]:
        """Name the nodes of which any process is left, such as the loop of the controller."""
        pids = json.loads((self.folder.root / 'processes.json').read_text())
        left = sessions()
        return [name for name, pid in pids.items() if pid in left]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(6.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def graphs(root: Path) -> Iterator[Callable[..., Graph]]:
    """Give what starts graphs that end with this context; the second resumes the first's run."""
    started: list[Graph] = []

    def start(*arguments: str) -> Graph:
        started.append(Graph(root, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for graph in started:
            graph.close()


class listening:  # noqa: N801  reads as a statement
    """Collect the messages of a topic in a thread."""

    def __init__(self, topic: str, kind: type) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('listener', context=self._context)
        self._messages: list[Any] = []
        self._node.create_subscription(kind, topic, self._messages.append,
                                       qos_profile_sensor_data)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> list[Any]:
        self._thread.start()
        return self._messages

    def __exit__(self, *_error: object) -> None:
        self._context.try_shutdown()
        self._thread.join(2.0)
        self._node.destroy_node()
