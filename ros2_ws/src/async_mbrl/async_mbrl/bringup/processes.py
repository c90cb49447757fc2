"""Nodes as child processes, each with a log file of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from async_mbrl.bringup.graph import NodeDescription
from async_mbrl.core.files import write_atomically

TAIL_LINES = 8
TAIL_BYTES = 4096


class ChildProcess:
    """A node as a child process."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        """Wrap a started process and the file its output goes to."""
        self._popen = popen
        self._log = log

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self._popen.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        self._popen.send_signal(number)

    def last_lines(self) -> list[str]:
        """Give the last lines of its log; none if it cannot be read."""
        try:
            with open(self._log, 'rb') as file:
                file.seek(max(0, os.path.getsize(self._log) - TAIL_BYTES))
                lines = file.read().decode(errors='replace').splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-TAIL_LINES:]


class Launcher:
    """Start nodes as children in sessions of their own: Ctrl-C reaches the supervisor alone."""

    def __init__(self, parameter_files: Mapping[str, Path], logs: Path, register: Path) -> None:
        """Start with these files.

        Args:
            parameter_files: ROS parameter file by name of the node.
            logs: folder of the logs, made if needed.
            register: file that says which process each node is, JSON.
        """
        logs.mkdir(parents=True, exist_ok=True)
        self._parameter_files = parameter_files
        self._logs = logs
        self._register = register
        self._pids: dict[str, int] = {}

    def __call__(self, description: NodeDescription) -> ChildProcess:
        """Start a node.

        Raises:
            OSError: it cannot be started, or the files of the run not be written; it does not run.
        """
        log = self._logs / f'{description.name}.log'
        command = [
            sys.executable, '-m', 'async_mbrl.bringup.child', str(os.getpid()),
            str(description.nice), description.executable, '--ros-args',
            '-r', f'__node:={description.name}',
            '--params-file', str(self._parameter_files[description.name])]
        with open(log, 'ab') as output:
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', **description.env},
                start_new_session=True)
        self._pids[description.name] = popen.pid
        try:
            write_atomically(self._register, json.dumps(self._pids, indent=2) + '\n')
        except OSError:
            # Nobody would look after it.
            popen.kill()
            popen.wait()
            raise
        return ChildProcess(popen, log)
