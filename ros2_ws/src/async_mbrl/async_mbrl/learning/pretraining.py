"""Learning from offline data alone, before a run goes on online; without ROS and a robot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import Version
from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import read_about, read_columns
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.device import CPU
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner

Trainee: TypeAlias = ModelLearner | PolicyLearner

MOST_TRANSITIONS = 2_000_000
"""Of offline data: each learner keeps them in memory, and reads them before its first heartbeat."""

INTERVAL = 200
"""Updates between two checkpoints, at most."""


def offline_buffer(task: Any, parts: Iterable[Columns],
                   device: torch.device = CPU) -> TransitionBuffer:
    """Fill a buffer with offline data, part by part.

    Args:
        task: that they belong to, see :mod:`async_mbrl.tasks`.
        parts: transitions in the order in which they happened.
        device: where they are learned from.

    Raises:
        ValueError: they are of another task or robot, not finite, or more than
            :data:`MOST_TRANSITIONS`.
    """
    buffer = TransitionBuffer(MOST_TRANSITIONS, task.state_size, task.action_size, task.goal_size,
                              device)
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


def read_offline(task: Any, folder: Path, device: torch.device = CPU) -> OfflineData:
    """Read a dataset.

    Args:
        task: that it must belong to, see :mod:`async_mbrl.tasks`.
        folder: of the dataset.
        device: where it is learned from.

    Raises:
        ConfigError: it is no dataset, damaged, or of another task or robot; or it cannot be learned
            from.
    """
    about = read_about(folder, identity_of(task))
    try:
        buffer = offline_buffer(task, read_columns(folder), device)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'dataset: {folder}: {error}; async-mbrl dataset check tells what else '
                          'is wrong') from None
    return OfflineData(buffer, about.digest)


@dataclass(frozen=True)
class Progress:
    """How far pre-training has come.

    Attributes:
        learner: which one is learning, ``model_learner`` or ``policy_learner``.
        updates: that it has made so far, those before a restart included.
        wanted: how many it shall have made in the end.
        metrics: of the learner.
    """

    learner: str
    updates: int
    wanted: int
    metrics: dict[str, float]


class Pretraining:
    """Learns from offline data before a run, with checkpoints that the run goes on from.

    Where there is a model it is learned first; then the policy takes it, and is improved in it. The
    checkpoints are those of the learners: a run of the same settings whose folder holds them begins
    with that model and that policy, and goes on with the same critics and optimisers. They say how
    many of the updates were made offline, ``offline_updates``; the metrics of the learners say so,
    too. What a learner has been learning from a robot is left alone.
    """

    def __init__(self, offline: OfflineData, policy: PolicyLearner,
                 model: ModelLearner | None = None,
                 folder: Callable[[str], Path] | None = None) -> None:
        """Prepare, or go on from what the folders hold.

        Args:
            offline: the data, see :func:`read_offline`.
            policy: a learner that has learned nothing yet, of an algorithm that is off-policy, or
                that imagines in a model.
            model: one that has learned nothing, for an algorithm that needs a model.
            folder: gives the folder of the checkpoint of a learner, by its name; made if it does
                not exist. None for no checkpoints.

        Raises:
            ConfigError: the algorithm cannot learn from these data.
            CheckpointError: there is a checkpoint that is damaged or belongs to something else.
        """
        self._policy = policy
        self._model = model
        self._folder = folder
        learners: list[tuple[str, Trainee]] = [('policy_learner', policy)]
        if model is not None:
            learners.append(('model_learner', model))
        for name, learner in learners:
            learner.use_offline(offline.buffer, offline.digest)
            if folder is not None:
                learner.restore(folder(name))

    def run(self, policy_updates: int, model_updates: int = 0,
            interval: int | None = None) -> Iterator[Progress]:
        """Make updates until there are so many in all; a checkpoint comes before each report.

        Args:
            policy_updates: how many the policy shall have, those before a restart included.
            model_updates: the same of the model.
            interval: updates between two reports; None for a tenth of those of the learner, and
                :data:`INTERVAL` at most.

        Raises:
            LearningDiverged: a parameter is not finite; the checkpoint before stands.
        """
        if self._model is not None:
            yield from self._learn('model_learner', self._model, model_updates, interval)
            if self._model.offline_updates:
                # Newer than none, and older than what any start of a learner hands out.
                self._policy.take_snapshot(dataclasses.replace(
                    self._model.snapshot(), version=Version(0, self._model.offline_updates)))
        yield from self._learn('policy_learner', self._policy, policy_updates, interval)

    def close(self) -> None:
        """Let go of the files of both learners: others may go on from them."""
        self._policy.close()
        if self._model is not None:
            self._model.close()

    def _learn(self, name: str, learner: Trainee, updates: int, interval: int | None
               ) -> Iterator[Progress]:
        interval = interval or max(1, min(INTERVAL, updates // 10))
        while not learner.next_transition and learner.offline_updates < updates:
            for _ in range(min(interval, updates - learner.offline_updates)):
                learner.learn_offline()
            if self._folder is not None:
                learner.save(self._folder(name))
            yield Progress(name, learner.offline_updates, updates, learner.metrics())
