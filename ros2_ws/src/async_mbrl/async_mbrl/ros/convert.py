"""Between messages and the types of :mod:`async_mbrl.core`."""

from __future__ import annotations

import array
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.snapshot import HEADER_BYTES, Snapshot, SnapshotError, Version
from async_mbrl.core.transition import (
    CommandKind,
    ControlStep,
    EpisodeCommand,
    Mode,
    StepKind,
    Transition,
)

PART_BYTES = 256 * 1024
"""Size of a part of a snapshot: well below where Fast DDS loses large samples."""

PART_MESSAGE_BYTES = PART_BYTES + 4096
"""Most bytes of the message of a part."""

_CHECKSUM_CHARACTERS = 64


def floats(values: np.ndarray | Sequence[float]) -> array.array:
    """Give an array that a ``float32[]`` field takes without a copy for each element."""
    return array.array('f', np.asarray(values, np.float32).tobytes())


def doubles(values: np.ndarray | Sequence[float]) -> array.array:
    """Give an array that a ``float64[]`` field takes without a copy for each element."""
    return array.array('d', np.asarray(values, np.float64).tobytes())


def to_time(seconds: float) -> Time:
    """Give a stamp, from seconds."""
    whole, nanoseconds = divmod(round(seconds * 1e9), 1_000_000_000)
    return Time(sec=int(whole), nanosec=int(nanoseconds))


def to_seconds(stamp: Time) -> float:
    """Give seconds, from a stamp."""
    return stamp.sec + stamp.nanosec * 1e-9


def version_to_message(version: Version) -> msg.SnapshotVersion:
    """Give the message of a version."""
    return msg.SnapshotVersion(incarnation=version.incarnation, counter=version.counter)


def metrics_from_message(message: msg.LearnerStatus) -> dict[str, float]:
    """Give the scalars of a learner by name; those without a value are left out."""
    return dict(zip(message.metric_names, map(float, message.metric_values), strict=False))


def version_from_message(message: msg.SnapshotVersion) -> Version:
    """Give the version of a message."""
    return Version(message.incarnation, message.counter)


def transition_to_message(transition: Transition, stamp: Time) -> msg.Transition:
    """Give the message of a transition, publish time left 0."""
    message = msg.Transition(
        number=transition.number, episode=transition.episode, step=transition.step,
        observation=floats(transition.observation),
        action_requested=floats(transition.action_requested),
        action_applied=floats(transition.action_applied),
        next_observation=floats(transition.next_observation),
        reward=float(transition.reward), terminated=transition.terminated,
        truncated=transition.truncated,
        policy_version=version_to_message(transition.policy_version),
        log_probability=float(transition.log_probability), intervened=transition.intervened,
        takeover=transition.takeover)
    message.header.stamp = stamp
    return message


def transition_from_message(message: msg.Transition) -> Transition:
    """Give the transition of a message."""
    return Transition(
        number=message.number, episode=message.episode, step=message.step,
        observation=np.array(message.observation, np.float32),
        action_requested=np.array(message.action_requested, np.float32),
        action_applied=np.array(message.action_applied, np.float32),
        next_observation=np.array(message.next_observation, np.float32),
        reward=message.reward, terminated=message.terminated, truncated=message.truncated,
        policy_version=version_from_message(message.policy_version),
        log_probability=message.log_probability, intervened=message.intervened,
        takeover=message.takeover)


def command_to_message(command: EpisodeCommand, session: int, stamp: Time) -> msg.EpisodeCommand:
    """Give the message of an episode command."""
    message = msg.EpisodeCommand(
        number=command.number, session=session, kind=int(command.kind), episode=command.episode,
        mode=int(command.mode), start_pose=doubles(command.start_pose),
        move_duration_s=float(command.move_duration_s), goal=floats(command.goal),
        steps=command.steps, policy_version=version_to_message(command.policy_version),
        seed=command.seed)
    message.header.stamp = stamp
    return message


def command_from_message(message: msg.EpisodeCommand) -> EpisodeCommand:
    """Give the episode command of a message."""
    return EpisodeCommand(
        kind=CommandKind(message.kind), number=message.number, episode=message.episode,
        mode=Mode(message.mode), start_pose=np.array(message.start_pose, np.float64),
        move_duration_s=message.move_duration_s, goal=np.array(message.goal, np.float32),
        steps=message.steps, policy_version=version_from_message(message.policy_version),
        seed=message.seed)


def step_to_message(step: ControlStep, number: int, session: int) -> msg.ControlStep:
    """Give the message of a control step."""
    message = msg.ControlStep(
        number=number, session=session, command_number=step.command_number, kind=int(step.kind),
        episode=step.episode, step=step.step, mode=int(step.mode),
        observation=floats(step.observation), action_requested=floats(step.action_requested),
        previous_action_applied=floats(step.previous_action_applied),
        previous_intervened=step.previous_intervened,
        policy_version=version_to_message(step.policy_version),
        log_probability=float(step.log_probability), exploration_std=float(step.exploration_std),
        takeover=step.takeover, reason=step.reason)
    message.header.stamp = to_time(step.time_s)
    return message


def step_from_message(message: msg.ControlStep) -> ControlStep:
    """Give the control step of a message."""
    return ControlStep(
        kind=StepKind(message.kind), time_s=to_seconds(message.header.stamp),
        command_number=message.command_number, episode=message.episode, step=message.step,
        mode=Mode(message.mode), observation=np.array(message.observation, np.float32),
        action_requested=np.array(message.action_requested, np.float32),
        previous_action_applied=np.array(message.previous_action_applied, np.float32),
        previous_intervened=message.previous_intervened,
        policy_version=version_from_message(message.policy_version),
        log_probability=message.log_probability, exploration_std=message.exploration_std,
        takeover=message.takeover, reason=message.reason)


def snapshot_to_messages(snapshot: Snapshot, publisher_id: str,
                         stamp: Time) -> list[msg.ParameterSnapshot]:
    """Give the messages of a snapshot, one for each part, stamped with the publish time."""
    data = snapshots.encode(snapshot)
    total = snapshots.checksum(data)
    parts = parts_of(len(data))
    messages = []
    for part in range(parts):
        message = msg.ParameterSnapshot(
            kind=snapshot.kind, version=version_to_message(snapshot.version),
            publisher_id=publisher_id, architecture_hash=snapshot.architecture_hash,
            checksum=total, part=part, parts=parts, total_bytes=len(data),
            trained_on_transitions=snapshot.trained_on_transitions, updates=snapshot.updates,
            model_version=version_to_message(snapshot.model_version),
            exploration_std=float(snapshot.exploration_std),
            exploration_correlation=float(snapshot.exploration_correlation),
            exploration_color=float(snapshot.exploration_color),
            parameter_noise_std=float(snapshot.parameter_noise_std),
            publish_time_ns=time.time_ns(),
            data=array.array('B', data[part * PART_BYTES:(part + 1) * PART_BYTES]))
        message.header.stamp = stamp
        messages.append(message)
    return messages


def parts_of(total_bytes: int) -> int:
    """Give the parts that a snapshot of so many bytes is cut into."""
    return max(1, -(-total_bytes // PART_BYTES))


def snapshot_parts(tensor_bytes: int) -> int:
    """Give the parts, at most, that a snapshot whose tensors take so many bytes is cut into."""
    return parts_of(tensor_bytes + HEADER_BYTES)


class SnapshotAssembler:
    """Put the parts of snapshots together and verify each when it is complete.

    It keeps the parts of one snapshot at a time, none of which is larger than the architecture
    allows: what announces more, or is cut in another way, is refused part by part.
    """

    def __init__(self, kind: str, architecture: dict[str, Any], tensor_bytes: int) -> None:
        """Accept snapshots of one kind and architecture, whose tensors take so many bytes."""
        self._kind = kind
        self._architecture = architecture
        self._hash = snapshots.architecture_hash(architecture)
        self._maximum_bytes = tensor_bytes + HEADER_BYTES
        self._expected: tuple[str, int, Version] | None = None
        self._parts: dict[int, bytes] = {}

    def add(self, message: msg.ParameterSnapshot) -> Snapshot | None:
        """Take one part; give the snapshot if it completes one.

        Raises:
            SnapshotError: the part contradicts the others or its own limits, or the complete
                snapshot is refused (see :func:`async_mbrl.core.snapshot.decode`).
        """
        version = version_from_message(message.version)
        self._check(message, version)
        expected = message.checksum, message.total_bytes, version
        if self._expected is None or self._expected[0] != message.checksum:
            self._expected, self._parts = expected, {}
        if expected != self._expected:
            raise SnapshotError(f'snapshot {version}: its parts contradict each other')
        self._parts[message.part] = bytes(message.data)
        if len(self._parts) < message.parts:
            return None
        data = b''.join(self._parts[part] for part in range(message.parts))
        self._expected, self._parts = None, {}
        snapshot = snapshots.decode(data, maximum_bytes=self._maximum_bytes,
                                    expected_checksum=message.checksum,
                                    expected_kind=self._kind,
                                    expected_architecture=self._architecture)
        if snapshot.version != version:
            raise SnapshotError(f'snapshot says {snapshot.version} inside, {version} outside')
        return snapshot

    def _check(self, message: msg.ParameterSnapshot, version: Version) -> None:
        total, part = message.total_bytes, message.part
        if total > self._maximum_bytes:
            raise SnapshotError(f'snapshot {version}: {total} bytes announced, at most '
                                f'{self._maximum_bytes} are possible')
        if (message.parts != parts_of(total) or part >= message.parts
                or len(message.data) != min(PART_BYTES, total - part * PART_BYTES)
                or len(message.checksum) != _CHECKSUM_CHARACTERS):
            raise SnapshotError(
                f'snapshot {version}: part {part} of {message.parts}, {len(message.data)} of '
                f'{total} bytes, is outside the limits')
        if message.kind != self._kind:
            raise SnapshotError(f'snapshot {version} is a {message.kind[:16]}, expected a '
                                f'{self._kind}')
        if message.architecture_hash != self._hash:
            raise SnapshotError(f'snapshot {version} has architecture '
                                f'{message.architecture_hash[:12]}, expected {self._hash[:12]}')
