"""The journal of a run as messages, and the way back from it into a collector."""

from __future__ import annotations

from typing import Any

from async_mbrl_interfaces import msg
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import Collector
from async_mbrl.collection.journal import (
    FORMAT,
    Journal,
    JournalError,
    RecordKind,
    SyncThread,
    read_records,
)
from async_mbrl.core.config import to_mapping
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder
from async_mbrl.core.transition import ControlStep, StepKind, Transition
from async_mbrl.ros.convert import command_from_message, step_from_message

_MESSAGES = {
    RecordKind.EPISODE_COMMAND: msg.EpisodeCommand,
    RecordKind.CONTROL_STEP: msg.ControlStep,
    RecordKind.TRANSITION: msg.Transition,
    RecordKind.RUN_STATUS: msg.RunStatus,
    RecordKind.CONTROLLER_STATUS: msg.ControllerStatus,
    RecordKind.LEARNER_STATUS: msg.LearnerStatus,
    RecordKind.GUARD_STATUS: msg.SafetyStatus,
    RecordKind.BRIDGE_STATUS: msg.BridgeStatus,
}


def identity(robot: RobotConfig, task: Any) -> dict[str, Any]:
    """Give what a run folder must have been made with, to be gone on with."""
    return {
        'format': FORMAT,
        'task': to_mapping(task.config),
        'robot': {'name': robot.name, 'command_interface': robot.command_interface,
                  'action_scale': list(robot.action_scale)},
        'joint_names': list(robot.joint_names),
        'observation': {
            'size': task.observation_size,
            **{name: [getattr(task, name).start, getattr(task, name).stop]
               for name in ('position', 'velocity', 'tool', 'previous_action', 'goal')
               if hasattr(task, name)},
        },
    }


class RunJournal:
    """Append messages with the time of the node's clock; keep a thread that brings them to disk.

    Attributes:
        last_control_step: (session, number) of the last control step in the journal, None without.
        unfinished: a transition whose control steps are in the journal but not itself, because the
            process died in between; it must be appended first of all.
        numbers_missing: numbers that the transitions in the journal leave out.
    """

    def __init__(self, node: Node, folder: RunFolder, robot: RobotConfig, task: Any) -> None:
        """Open the journal of a run, or begin one.

        Raises:
            ConfigError: the folder is of another task or robot, or in use.
        """
        self._clock = node.get_clock()
        self._folder = folder.journal
        self._journal = Journal(folder.journal, identity(robot, task))
        if self._journal.torn_bytes:
            node.get_logger().warning(
                f'{folder.journal}: {self._journal.torn_bytes} bytes at the end were torn and have '
                f'been set aside')
        self.last_control_step: tuple[int, int] | None = None
        self.unfinished: Transition | None = None
        self.numbers_missing = 0
        self._next_transition = 0
        self.fetch = self._journal.read_transitions
        self._sync = SyncThread(self._journal)

    @property
    def transitions(self) -> int:
        """Number of transitions in the journal."""
        return self._journal.transitions

    def append(self, kind: RecordKind, message: Any) -> bytes:
        """Append a message; give it serialised.

        Raises:
            JournalError: the disk does not take it.
        """
        payload: bytes = serialize_message(message)
        self._journal.append(kind, self._clock.now().nanoseconds, payload)
        if kind == RecordKind.TRANSITION:
            self._check_number(message)
        return payload

    def begin_session(self) -> None:
        """Note that a process begins to collect."""
        self._journal.append(RecordKind.SESSION, self._clock.now().nanoseconds, b'{}')

    def restore(self, collector: Collector, account: Account) -> None:
        """Do to collector and account all that the journal holds.

        Raises:
            JournalError: what the journal holds does not give the transitions it holds.
        """
        for record in read_records(self._folder):
            now_s = record.stamp_ns * 1e-9
            if record.kind == RecordKind.SESSION:
                collector.begin_session()
                account.begin_session()
            if record.kind not in _MESSAGES:
                continue
            message = deserialize_message(record.payload, _MESSAGES[record.kind])
            if record.kind == RecordKind.EPISODE_COMMAND:
                collector.commanded(command_from_message(message), now_s)
            elif record.kind == RecordKind.CONTROL_STEP:
                self._replay(collector, account, message, now_s)
            elif record.kind == RecordKind.TRANSITION:
                self._check_number(message)
            elif record.kind == RecordKind.RUN_STATUS:
                account.heard_phase(message.phase)
                if message.paused or message.phase in (msg.RunStatus.EVALUATING,
                                                       msg.RunStatus.DONE):
                    collector.end_training(message.wall_time_s)
            else:
                hear(account, record.kind, message, now_s)
        if collector.transitions - self._journal.transitions != (self.unfinished is not None):
            raise JournalError(
                f'{self._folder}: {self._journal.transitions} transitions, but its control steps '
                f'make {collector.transitions}; the journal is damaged')

    def sync(self) -> None:
        """Bring everything to the disk.

        Raises:
            JournalError: the disk does not take it.
        """
        self._journal.sync()

    def close(self) -> None:
        """Bring everything to the disk and close."""
        self._sync.stop()
        self._journal.close()

    def _replay(self, collector: Collector, account: Account, message: msg.ControlStep,
                now_s: float) -> None:
        self.last_control_step = message.session, message.number
        step = step_from_message(message)
        for transition in collector.take(step, now_s).transitions:
            if transition.number >= self._journal.transitions:
                self.unfinished = transition
        note_action(account, collector, step, now_s)

    def _check_number(self, message: msg.Transition) -> None:
        self.numbers_missing += max(0, message.number - self._next_transition)
        self._next_transition = message.number + 1


class NoJournal:
    """Stands where a journal is wanted, for a run that nothing is learned from."""

    last_control_step: tuple[int, int] | None = None
    unfinished: Transition | None = None
    numbers_missing = transitions = 0

    def fetch(self, first: int, count: int) -> list[bytes]:
        """Give no transitions."""
        return []

    def append(self, kind: RecordKind, message: Any) -> bytes:
        """Keep nothing; give the message serialised."""
        return bytes(serialize_message(message))

    def begin_session(self) -> None:
        """Keep nothing."""

    def restore(self, collector: Collector, account: Account) -> None:
        """Restore nothing."""

    def sync(self) -> None:
        """Bring nothing to the disk."""

    def close(self) -> None:
        """Close nothing."""


def note_action(account: Account, collector: Collector, step: ControlStep, time_s: float) -> None:
    """Tell an account which policy acted, where one did in a step of learning just taken."""
    if step.kind == StepKind.STEP and collector.in_motion and not step.takeover:
        account.lag.acted(time_s, step.policy_version)


def hear(account: Account, kind: RecordKind, message: Any, time_s: float) -> None:
    """Tell an account of a status message."""
    if kind == RecordKind.CONTROLLER_STATUS:
        account.heard_controller(message)
    elif kind == RecordKind.LEARNER_STATUS:
        account.heard_learner(message, time_s)
    elif kind == RecordKind.GUARD_STATUS:
        account.heard_guard(message)
    elif kind == RecordKind.BRIDGE_STATUS:
        account.heard_bridge(message)
