"""A whole graph as users start it, with ears on its status topics and hands on its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from async_mbrl_interfaces import msg
from graph_rig import sessions as living_sessions
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from async_mbrl.collection.journal import RecordKind, read_records
from async_mbrl.core.run import RunFolder
from async_mbrl.ros import qos
from faults.ledger import NotSurvived
from faults.processes import begin

LEARNERS = ('model_learner', 'policy_learner')
START_S = 60.0
"""Time in which a graph has to collect its first transitions, s."""

WORKING = (msg.LearnerStatus.LEARNING, msg.LearnerStatus.WAITING, msg.LearnerStatus.FINISHED)
_SAVED = re.compile(r'checkpoint (saved|restored): transitions=(\d+) sha256=([0-9a-f]+)')


class Ears:
    """Hears what a graph says, in a thread of its own."""

    def __init__(self) -> None:
        """Listen from now on."""
        self.run: msg.RunStatus | None = None
        self.controller: msg.ControllerStatus | None = None
        self.learners: dict[str, msg.LearnerStatus] = {}
        self.speed = float('nan')
        """True speed of the fastest joint, rad/s."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('fault_ears', context=self._context, enable_rosout=False)
        for kind, topic, callback in (
                (msg.RunStatus, 'run_status', lambda m: setattr(self, 'run', m)),
                (msg.ControllerStatus, 'controller_status',
                 lambda m: setattr(self, 'controller', m)),
                (msg.LearnerStatus, 'learner_status',
                 lambda m: self.learners.__setitem__(m.name, m))):
            self._node.create_subscription(kind, topic, callback, qos.STATUS)
        self._node.create_subscription(
            JointState, 'ground_truth/joint_states',
            lambda m: setattr(self, 'speed', max(map(abs, m.velocity))), qos_profile_sensor_data)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name='ears', daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Forget what another graph has said."""
        self.run = self.controller = None
        self.learners = {}

    def close(self) -> None:
        """Stop listening."""
        self._closing = True
        self._thread.join(2.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once(timeout_sec=0.1)


class WholeGraph:
    """One session of ``async-mbrl up sim`` on a run folder."""

    def __init__(self, folder: Path, ears: Ears, *arguments: str) -> None:
        """Start it; on a folder that holds a run, resume that."""
        self.folder = RunFolder(folder)
        self.ears = ears
        self.output = folder.parent / f'{folder.name}.txt'
        folder.parent.mkdir(parents=True, exist_ok=True)
        ears.forget()
        command = [sys.executable, '-m', 'async_mbrl.cli', 'up', 'sim', '--no-video',
                   '--run-dir', str(folder)]
        if not self.folder.config.exists():
            command += arguments
        with open(self.output, 'ab') as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, start_new_session=True,
                                            preexec_fn=begin)

    @property
    def summary(self) -> dict[str, Any]:
        """What the run came to."""
        return json.loads(self.folder.summary.read_text())

    def said(self) -> str:
        """Give the end of what it printed."""
        return self.output.read_text()[-600:]

    def pids(self) -> dict[str, int]:
        """Give the process of each node."""
        return json.loads((self.folder.root / 'processes.json').read_text())

    def kill(self, node: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node."""
        os.kill(self.pids()[node], how)

    def kill_all(self) -> None:
        """kill -9 of everything, as when the power goes."""
        victims = [self.process.pid, *self.pids().values()]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait()

    def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until a condition holds.

        Raises:
            NotSurvived: it does not in time, or the graph has ended.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise NotSurvived(f'{what}: the graph ended with status '
                                  f'{self.process.returncode}: {self.said()}')
            if time.monotonic() > end:
                raise NotSurvived(f'{what}: not within {timeout_s:g} s')
            time.sleep(0.02)

    def transitions(self) -> int:
        """Give how many transitions the run has, as it says."""
        return self.ears.run.next_transition if self.ears.run else 0

    def learning(self) -> bool:
        """Whether it is heard to be learning, with both learners at work."""
        run = self.ears.run
        return (run is not None and run.phase == msg.RunStatus.LEARNING
                and all(name in self.ears.learners
                        and self.ears.learners[name].state in WORKING for name in LEARNERS))

    def await_transitions(self, count: int, timeout_s: float = START_S) -> None:
        """Wait until it learns and has so many transitions."""
        self.until(lambda: self.learning() and self.transitions() >= count, timeout_s,
                   f'{count} transitions')

    def ended(self, timeout_s: float) -> int:
        """Wait for the end; give the exit status.

        Raises:
            NotSurvived: it does not end in time, or a process of it is left.
        """
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NotSurvived(f'still running after {timeout_s:g} s: {self.said()}') from None
        end = time.monotonic() + 5.0
        while left := [name for name, pid in self.pids().items() if pid in living_sessions()]:
            if time.monotonic() > end:
                raise NotSurvived(f'{left} outlived the graph')
            time.sleep(0.05)
        return status

    def numbers(self) -> list[int]:
        """Give the numbers of the transitions in the journal, in order."""
        return [deserialize_message(record.payload, msg.Transition).number
                for record in read_records(self.folder.journal)
                if record.kind == RecordKind.TRANSITION]

    def checkpoints(self, learner: str, word: str) -> list[tuple[int, str]]:
        """Give the checkpoints that a learner said it saved or restored, oldest first."""
        log = self.folder.root / 'log' / f'{learner}.log'
        text = log.read_text(errors='replace') if log.exists() else ''
        return [(int(found[2]), found[3]) for found in _SAVED.finditer(text) if found[1] == word]

    def index(self, learner: str) -> dict[str, Any] | None:
        """Give the file that names the present checkpoint of a learner."""
        path = self.folder.learner(learner) / 'checkpoint.json'
        return json.loads(path.read_text()) if path.exists() else None

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.kill_all()
