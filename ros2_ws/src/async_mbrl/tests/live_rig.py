"""What the tests of own recordings share: the buffer that a live learner would have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataset_rig import TRANSITION, all_columns, serialised, task
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from async_mbrl.collection.recording import typestore
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.learning.buffer import TransitionBuffer


def buffer() -> TransitionBuffer:
    built = task()
    return TransitionBuffer(10_000, built.state_size, built.action_size, built.goal_size)


def of_columns(columns: Columns) -> list[Transition]:
    """Transitions again, as they would have come one by one."""
    return [Transition(
        number=row, episode=int(columns.episode[row]), step=int(columns.step[row]),
        observation=columns.observation[row], action_requested=columns.action_requested[row],
        action_applied=columns.action_applied[row], next_observation=columns.next_observation[row],
        reward=float(columns.reward[row]), terminated=bool(columns.terminated[row]),
        truncated=bool(columns.truncated[row]),
        policy_version=Version(*map(int, columns.policy_version[row])),
        log_probability=float(columns.log_probability[row]),
        intervened=bool(columns.intervened[row]),
        takeover=bool(columns.source[row] == Source.HUMAN)) for row in range(len(columns))]


def assert_like_live(folder: Path, live: list[Transition]) -> None:
    """A buffer filled from the dataset is, bit for bit, one that was filled live."""
    ours, theirs = buffer(), buffer()
    ours.append(live)
    columns = joined(all_columns(folder))
    theirs.append(of_columns(columns))
    assert ours.digest() == theirs.digest()
    assert columns.reward.tolist() == [item.reward for item in live]
    assert columns.intervened.tolist() == [item.intervened for item in live]
    assert (columns.source == Source.HUMAN).tolist() == [item.takeover for item in live]
    assert columns.episode.tolist() == [item.episode for item in live]


def compressed(mode: CompressionMode, plugin: StoragePlugin
               ) -> Callable[[Path, list[Transition]], Path]:
    def make(path: Path, live: list[Transition]) -> Path:
        writer = Writer(path, version=8, storage_plugin=plugin)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            topic = writer.add_connection('/arm/transitions', TRANSITION,
                                          typestore=typestore())
            for item in live:
                writer.write(topic, item.number, serialised(item))
        return path
    return make
