"""What the tests of datasets share: transitions like those of a robot, as messages and in files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import arm7
import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer

from async_mbrl.collection.journal import Journal, RecordKind
from async_mbrl.collection.recording import typestore
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns, Source, columns_of
from async_mbrl.datasets.identity import Identity, identity_of
from async_mbrl.datasets.store import DatasetWriter, read_columns
from async_mbrl.ros.convert import to_time, transition_to_message
from async_mbrl.ros.run_journal import identity as journal_meta
from async_mbrl.tasks import make_task

TRANSITION = 'async_mbrl_interfaces/msg/Transition'


@functools.cache
def task(**changes: Any) -> Any:
    """The reach task of the demo arm."""
    return make_task(arm7.task(**changes), arm7.robot())


def identity() -> Identity:
    return identity_of(task())


def transitions(count: int, seed: int = 0, steps: int = 5, first: int = 0) -> list[Transition]:
    """Transitions that chain within episodes, of odd numbers and both kinds of end."""
    rng = np.random.default_rng(seed)
    built = task()
    found = []
    observation = rng.normal(size=built.observation_size).astype(np.float32)
    for number in range(first, first + count):
        step = number % steps
        following = rng.normal(size=built.observation_size).astype(np.float32)
        end = step == steps - 1
        terminated = end and number % 2 == 0
        found.append(Transition(
            number=number, episode=number // steps, step=step, observation=observation,
            action_requested=rng.uniform(-1, 1, built.action_size).astype(np.float32),
            action_applied=rng.uniform(-1, 1, built.action_size).astype(np.float32),
            next_observation=following, reward=float(rng.normal()) / 3.0, terminated=terminated,
            truncated=end and not terminated, policy_version=Version(1 + number // 40, number),
            # A message has single precision; so has what a live learner gets.
            log_probability=float(np.float32(rng.normal())), intervened=bool(rng.random() < 0.2)))
        observation = (rng.normal(size=built.observation_size).astype(np.float32) if end
                       else following)
    return found


def serialised(transition: Transition, frame: str = '') -> bytes:
    """The message as rclpy puts it on the wire and into the journal."""
    message = transition_to_message(transition, to_time(100.0 + transition.number))
    message.header.frame_id = frame
    return bytes(serialize_message(message))


def write_journal(folder: Path, items: Sequence[Transition]) -> None:
    """A run folder's journal, with other records in between, in several segments."""
    built = task()
    journal = Journal(folder / 'journal', journal_meta(built.robot, built), segment_bytes=4096)
    for transition in items:
        journal.append(RecordKind.SESSION, 1, b'{}')
        journal.append(RecordKind.TRANSITION, 1000 + transition.number, serialised(transition))
    journal.close()


def write_bag(folder: Path, items: Sequence[Transition], *,
              plugin: StoragePlugin = StoragePlugin.MCAP, frame: str = '') -> None:
    """A bag as `ros2 bag record` makes it: nothing in it tells task and robot."""
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        topic = writer.add_connection('/transitions', TRANSITION, typestore=typestore())
        for transition in items:
            writer.write(topic, 1000 + transition.number, serialised(transition, frame))


def write_dataset(folder: Path, items: Sequence[Transition], **options: Any) -> Columns:
    """A dataset of some transitions; also gives them as columns."""
    columns = columns_of(items, Source.POLICY)
    with DatasetWriter(folder, identity(), **options) as writer:
        writer.append(columns)
        writer.add_source({'path': 'made here', 'format': 'test', 'transitions': len(items)})
    return columns


def all_columns(folder: Path) -> list[Columns]:
    return list(read_columns(folder))


def assert_same(found: Columns, expected: Columns) -> None:
    """Every column is the same, bit for bit."""
    for field in fields(Columns):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert a.dtype == b.dtype and a.shape == b.shape, field.name
        assert a.tobytes() == b.tobytes(), field.name


def damage(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def other(**changes: object) -> Identity:
    """The identity with some settings of task or robot changed."""
    own = identity()
    return Identity({**own.task, **{key: value for key, value in changes.items()
                                    if key in own.task}},
                    {**own.robot, **{key: value for key, value in changes.items()
                                     if key in own.robot}}, own.observation)
