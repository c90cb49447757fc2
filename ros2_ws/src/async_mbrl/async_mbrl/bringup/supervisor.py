"""What happens when nodes die, hang, or are to stop: logic over processes and a clock handed in.

Nothing here starts a process or reads a clock by itself, so tests need neither.
"""

from __future__ import annotations

import enum
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from async_mbrl.bringup.graph import NodeDescription

REPEAT_S = 0.5
"""Signals that follow the first one within this time are the same wish to stop, s."""

CONFIG_STATUS = 2
"""Exit status of a node, and of the command, for a configuration that does not fit."""

STATUS_INTERRUPTED = 130
"""Exit status of a run that was stopped in order before it was complete."""

HOLDING_STAGE = 2
"""Nodes of this stage and above, guard and driver, hold the arm when the controller is gone."""


class Process(Protocol):
    """A started node."""

    def poll(self) -> int | None:
        """Exit status; minus the signal if one ended it; None while it runs."""
        ...

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        ...

    def last_lines(self) -> list[str]:
        """Give the last lines of its log."""
        ...


@dataclass(frozen=True)
class SupervisorSettings:
    """Times of the supervisor, s.

    Attributes:
        respawn_delay_s: between the death of a learner and its next start.
        heartbeat_timeout_s: silence after which a learner that had spoken counts as hung.
        first_heartbeat_timeout_s: the same before its first heartbeat: it loads and catches up.
        silent_deaths: a learner that dies so often in a row without a heartbeat ends the run.
        stage_s: time after the request to stop at which the stages above 0 are stopped at the
            latest; sooner if all nodes of the stages below have ended.
        kill_s: time after the request to stop at which what still runs is killed, guard and driver
            excepted.
        hold_s: time that guard and driver go on after the controller has ended otherwise than
            in order: guard needs it to notice, and to stop the arm.
        end_s: time after the request to stop at which guard and driver are killed.
    """

    respawn_delay_s: float = 0.1
    heartbeat_timeout_s: float = 10.0
    first_heartbeat_timeout_s: float = 60.0
    silent_deaths: int = 5
    stage_s: tuple[float, ...] = (2.9, 4.2, 4.4)
    kill_s: float = 3.8
    hold_s: float = 0.3
    end_s: float = 4.6


class State(enum.Enum):
    """Where the supervisor is."""

    RUNNING = 'running'
    STOPPING = 'stopping'
    ENDED = 'ended'


@dataclass
class _Node:
    description: NodeDescription
    process: Process | None = None
    started_s: float = 0.0
    heartbeat_s: float | None = None
    restart_s: float | None = None
    silent_deaths: int = 0
    hung: bool = False
    finished: bool = False

    @property
    def alive(self) -> bool:
        return self.process is not None


class Supervisor:
    """Keep the nodes of a run going, and end them in order.

    Attributes:
        over: whether the run is known to be over; learners that end then are not started again.
        state: running, stopping or ended.
        status: exit status of the run, as far as the nodes tell.
        reason: why it ended; empty for a run that is complete.
        respawns: how often each node was started again.
    """

    def __init__(self, descriptions: Sequence[NodeDescription],
                 spawn: Callable[[NodeDescription], Process], report: Callable[[str], None],
                 settings: SupervisorSettings | None = None) -> None:
        """Take the list of nodes; nothing is started yet.

        Args:
            descriptions: the nodes, in the order in which they are started.
            spawn: starts one.
            report: is told, in one line, what happened.
            settings: times.
        """
        self._nodes = {item.name: _Node(item) for item in descriptions}
        self._spawn = spawn
        self._report = report
        self._settings = settings or SupervisorSettings()
        self._stop_s = 0.0
        self._stage = 0
        self._free_s = 0.0
        self._hurried = False
        self._killed: set[str] = set()
        self.over = False
        self.state = State.RUNNING
        self.status = 0
        self.reason = ''
        self.respawns: Counter[str] = Counter()

    def start(self, now: float) -> None:
        """Start all nodes."""
        for node in self._nodes.values():
            self._start(node, now)

    def heartbeat(self, name: str, now: float, finished: bool = False) -> None:
        """Take note of a sign of life of a learner, and whether it says that it has finished.

        One that has finished is not started again: what it did is saved, and its next incarnation
        would only disturb the evaluation of its last policy.
        """
        node = self._nodes.get(name)
        if node is not None and node.alive:
            node.heartbeat_s = now
            node.silent_deaths = 0
            node.finished |= finished

    def stop(self, reason: str, status: int, now: float) -> None:
        """Begin to end the run; the first reason stands. Interrupted then, kill what still runs.

        Guard and driver are not killed at once: they hold the arm when the controller is gone.
        """
        if self.state is State.STOPPING and status >= 128:
            # One Ctrl-C may arrive as several signals, for example through a parent process.
            if now - self._stop_s < REPEAT_S:
                return
            self._hurried, self._free_s = True, now + self._settings.hold_s
            self._kill('asked twice', holding=False)
        if self.state is not State.RUNNING:
            return
        self.state, self.reason, self.status = State.STOPPING, reason, status
        self._stop_s, self._stage = now, 0
        self._interrupt(0)

    def step(self, now: float) -> None:
        """Look after the nodes; to be called about 10 times a second."""
        for node in self._nodes.values():
            if node.process is not None:
                status = node.process.poll()
                if status is not None:
                    self._ended(node, node.process, status, now)
        if self.state is State.RUNNING:
            for node in self._nodes.values():
                self._look_after(node, now)
        if self.state is State.STOPPING:
            self._go_on_stopping(now)

    def running(self) -> list[str]:
        """Names of the nodes that run."""
        return [name for name, node in self._nodes.items() if node.alive]

    def _start(self, node: _Node, now: float) -> None:
        node.process = self._spawn(node.description)
        node.started_s, node.heartbeat_s, node.restart_s = now, None, None
        node.hung = node.finished = False

    def _ended(self, node: _Node, process: Process, status: int, now: float) -> None:
        node.process = None
        if status != 0 and node.description.stop_stage == HOLDING_STAGE - 1:
            self._free_s = now + self._settings.hold_s
        if self.state is not State.RUNNING:
            return
        name, how = node.description.name, _describe(status)
        if name == 'robot_interface' and status == 0:
            self.stop('', 0, now)
        elif node.finished or (self.over and node.description.respawn):
            if status != 0:
                self._report(f'{name} {how}, but it had nothing left to do: not starting it again')
        elif node.description.respawn and status != CONFIG_STATUS:
            node.silent_deaths += node.heartbeat_s is None
            if node.silent_deaths >= self._settings.silent_deaths:
                self._fail(node, process, f'{name} {how} {node.silent_deaths} times in a row '
                           'before its first heartbeat', 1, now)
                return
            node.restart_s = now + self._settings.respawn_delay_s
            self.respawns[name] += 1
            self._report(f'{name} {how}; starting it again')
            self._tell_log(process)
        else:
            self._fail(node, process, f'{name} {how}',
                       CONFIG_STATUS if status == CONFIG_STATUS else 1, now)

    def _fail(self, node: _Node, process: Process, what: str, status: int, now: float) -> None:
        consequence = ('' if node.description.respawn else
                       '; it is required, and never restarted under a moving arm')
        self._report(f'{what}{consequence}: ending the run')
        self._tell_log(process)
        self.stop(what, status, now)

    def _tell_log(self, process: Process) -> None:
        for line in process.last_lines():
            self._report(f'  | {line}')

    def _look_after(self, node: _Node, now: float) -> None:
        if node.restart_s is not None:
            if now >= node.restart_s:
                self._start(node, now)
            return
        description = node.description
        if not description.respawn or node.process is None or node.hung or node.finished:
            return
        if not description.heartbeats:
            # What gives none has spoken by living on.
            if now - node.started_s > self._settings.heartbeat_timeout_s:
                self.heartbeat(description.name, now)
            return
        if node.heartbeat_s is None:
            since, limit = node.started_s, self._settings.first_heartbeat_timeout_s
        else:
            since, limit = node.heartbeat_s, self._settings.heartbeat_timeout_s
        if now - since > limit:
            node.hung = True
            self._report(f'{description.name} gave no heartbeat for {now - since:.0f} s: '
                         'killing it')
            node.process.send(signal.SIGKILL)

    def _go_on_stopping(self, now: float) -> None:
        if not self.running():
            self.state = State.ENDED
            return
        elapsed = now - self._stop_s
        if elapsed >= self._settings.kill_s:
            self._kill(f'did not end within {self._settings.kill_s:.0f} s', holding=False)
        stages = self._settings.stage_s
        while self._stage < len(stages) and (
                elapsed >= stages[self._stage] or not self._alive_up_to(self._stage)):
            if self._stage + 1 >= HOLDING_STAGE and now < self._free_s:
                break
            self._stage += 1
            self._interrupt(self._stage)
        if elapsed >= self._settings.end_s:
            self._kill('did not end in time', holding=True)
        elif self._hurried and not self._alive_up_to(HOLDING_STAGE - 1) and now >= self._free_s:
            self._kill('asked twice', holding=True)

    def _alive_up_to(self, stage: int) -> bool:
        return any(node.alive and node.description.stop_stage <= stage
                   for node in self._nodes.values())

    def _interrupt(self, stage: int) -> None:
        for node in self._nodes.values():
            if node.process is not None and node.description.stop_stage == stage:
                node.process.send(signal.SIGINT)

    def _kill(self, why: str, holding: bool) -> None:
        """Kill what still runs, once: what holds the arm, or else the rest."""
        nodes = {name: node.process for name, node in self._nodes.items()
                 if node.process is not None and name not in self._killed
                 and (node.description.stop_stage >= HOLDING_STAGE) is holding}
        if not nodes:
            return
        self._killed.update(nodes)
        self._report(f'{", ".join(nodes)} {why}: killed')
        for process in nodes.values():
            process.send(signal.SIGKILL)


def _describe(status: int) -> str:
    if status < 0:
        try:
            return f'was ended by {signal.Signals(-status).name}'
        except ValueError:
            return f'was ended by signal {-status}'
    return f'ended with status {status}'
