"""Learning from offline data alone, before a run goes on online; without ROS and a robot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import read_about, read_columns
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.policy_learner import PolicyLearner

MOST_TRANSITIONS = 2_000_000
"""Of offline data: they are kept in memory, and read before a learner gives its first heartbeat."""


def offline_buffer(task: Any, parts: Iterable[Columns]) -> TransitionBuffer:
    """Fill a buffer with offline data, part by part.

    Args:
        task: that they belong to, see :mod:`async_mbrl.tasks`.
        parts: transitions in the order in which they happened.

    Raises:
        ValueError: they are of another task or robot, not finite, or more than
            :data:`MOST_TRANSITIONS`.
    """
    buffer = TransitionBuffer(MOST_TRANSITIONS, task.state_size, task.action_size, task.goal_size)
    for part in parts:
        if buffer.next_number + len(part) > MOST_TRANSITIONS:
            raise ValueError(f'more than {MOST_TRANSITIONS} transitions; use a part of them')
        for name in ('observation', 'action_applied', 'next_observation', 'reward'):
            finite = np.isfinite(getattr(part, name)).reshape(len(part), -1).all(1)
            if not finite.all():
                raise ValueError(f'transition {buffer.next_number + int(finite.argmin())}: '
                                 f'{name} is not finite')
        buffer.append_columns(part)
    return buffer


@dataclass(frozen=True)
class OfflineData:
    """What a dataset holds, and what identifies it: equal digests have equal transitions."""

    buffer: TransitionBuffer
    digest: str


def read_offline(task: Any, folder: Path) -> OfflineData:
    """Read a dataset.

    Args:
        task: that it must belong to, see :mod:`async_mbrl.tasks`.
        folder: of the dataset.

    Raises:
        ConfigError: it is no dataset, damaged, or of another task or robot; or it cannot be learned
            from.
    """
    about = read_about(folder, identity_of(task))
    shards = ' '.join(shard.sha256 for shard in about.shards)
    try:
        buffer = offline_buffer(task, read_columns(folder))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'dataset: {folder}: {error}; async-mbrl dataset check tells what else '
                          'is wrong') from None
    return OfflineData(buffer, hashlib.sha256(shards.encode()).hexdigest())


@dataclass(frozen=True)
class Progress:
    """How far pre-training has come.

    Attributes:
        updates: made so far, those before a restart included.
        metrics: of the learner.
    """

    updates: int
    metrics: dict[str, float]


class Pretraining:
    """Improves the policy of a learner on offline data, with a checkpoint that a run goes on from.

    The checkpoint is one of the learner's own: a run of the same settings whose folder holds it
    begins with that policy, and goes on with the same critics and optimisers. It says how many of
    the updates were made offline, ``offline_updates``; the learner's metrics say so, too.
    """

    def __init__(self, learner: PolicyLearner, offline: OfflineData, folder: Path) -> None:
        """Prepare, or go on from what the folder holds.

        Args:
            learner: one that has learned nothing yet, of an algorithm that is off-policy and
                without a model (``awac``, ``sac``).
            offline: the data, see :func:`read_offline`.
            folder: of the checkpoint; made if it does not exist.

        Raises:
            ConfigError: the algorithm cannot learn from these data.
            CheckpointError: there is a checkpoint that is damaged or belongs to something else.
        """
        learner.use_offline(offline.buffer, offline.digest)
        learner.restore(folder)
        self._learner = learner
        self._folder = folder

    @property
    def online(self) -> bool:
        """Whether the learner has gone online: what the robot did since must not be undone."""
        return self._learner.next_transition > 0

    def run(self, updates: int, interval: int = 1000) -> Iterator[Progress]:
        """Make updates until there are so many in all, unless the learner has gone online.

        A checkpoint is written before each report.

        Args:
            updates: how many there shall be, those before a restart included.
            interval: updates between two reports.

        Raises:
            LearningDiverged: a parameter is not finite; the checkpoint before stands.
        """
        learner = self._learner
        while not self.online and learner.offline_updates < updates:
            for _ in range(min(interval, updates - learner.offline_updates)):
                learner.learn_offline()
            learner.save(self._folder)
            yield Progress(learner.offline_updates, learner.metrics())
