"""Nodes as child processes, each with a log file of its own."""

from __future__ import annotations

import contextlib
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
    """Start nodes as children in sessions of their own: Ctrl-C reaches the supervisor alone.

    For each node that is started again when it dies, a spare process waits, loaded but idle.
    """

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
        self._spares: dict[str, subprocess.Popen[bytes]] = {}

    def __call__(self, description: NodeDescription) -> ChildProcess:
        """Start a node.

        Raises:
            OSError: it cannot be started, or the files of the run not be written; it does not run.
        """
        popen = self._take_spare(description.name) or self._start(description, 'now')
        self._pids[description.name] = popen.pid
        try:
            write_atomically(self._register, json.dumps(self._pids, indent=2) + '\n')
        except OSError:
            # Nobody would look after it.
            popen.kill()
            popen.wait()
            raise
        if description.respawn:
            with contextlib.suppress(OSError):      # without one a restart takes longer
                self._spares[description.name] = self._start(description, 'spare')
        return ChildProcess(popen, self._log(description))

    @property
    def spares(self) -> dict[str, int]:
        """Process ids of the spares, by name of the node."""
        return {name: spare.pid for name, spare in self._spares.items()}

    def close(self) -> None:
        """End the spares; they are not needed any more."""
        for spare in self._spares.values():
            spare.kill()
            spare.wait()
            assert spare.stdin is not None
            spare.stdin.close()
        self._spares = {}

    def _take_spare(self, name: str) -> subprocess.Popen[bytes] | None:
        spare = self._spares.pop(name, None)
        if spare is None:
            return None
        assert spare.stdin is not None
        try:
            spare.stdin.write(b'begin\n')
            spare.stdin.close()
        except BrokenPipeError:     # it has died itself
            spare.wait()
            return None
        return spare

    def _log(self, description: NodeDescription) -> Path:
        return self._logs / f'{description.name}.log'

    def _start(self, description: NodeDescription, when: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, '-m', 'async_mbrl.bringup.child', str(os.getpid()),
            str(description.nice), when, description.executable, '--ros-args',
            '-r', f'__node:={description.name}',
            '--params-file', str(self._parameter_files[description.name])]
        with open(self._log(description), 'ab') as output:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE if when == 'spare' else subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', **description.env},
                start_new_session=True)
