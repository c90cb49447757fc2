"""What both learners keep: transitions, random numbers and counters, and how these are saved.

Offline data may be given to learn from as well, see :meth:`Worker.use_offline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.device import Generators
from async_mbrl.learning.learner import LearningDiverged
from async_mbrl.learning.pool import Pool


class Worker:
    """A learner as far as it does not matter what it learns."""

    def __init__(self, task: Any, capacity: int, seed: int, incarnation: int,
                 device: torch.device) -> None:
        """Begin with no data.

        Args:
            task: see :mod:`async_mbrl.tasks`.
            capacity: transitions kept.
            seed: of what is drawn.
            incarnation: which start of this learner it is; part of the versions it gives out.
            device: where it computes.
        """
        self._task = task
        self._device = device
        self._generators = Generators.on(device, seed)
        self._incarnation = incarnation
        self._counter = 0
        self.buffer = TransitionBuffer(capacity, task.state_size, task.action_size,
                                       task.goal_size, device)
        self.pool = Pool(self.buffer)
        self.offline_updates = 0
        """Updates made of offline data alone, before the run; they are not among its updates."""
        self.offline_transitions = 0
        """Offline data that are or were learned from; no transitions of the run."""
        self._offline_digest = ''
        self._about_transitions = {'task': task.name}
        self._learned_from = 0
        self.trouble = ''
        """What was wrong with the transitions on disk when they were taken back."""
        self.updates = 0
        self.epochs = 0.0

    @property
    def next_transition(self) -> int:
        """All transitions with number below this were taken."""
        return self.buffer.next_number

    @property
    def kept(self) -> int:
        """No transition with this number, or a greater one, is kept."""
        return self.buffer.next_number

    @property
    def news(self) -> tuple[int, ...]:
        """What changes whenever there is something to hand out that was not yet."""
        return self.updates, self.buffer.next_number

    def _next_version(self) -> Version:
        version = Version(self._incarnation, self._counter)
        self._counter += 1
        return version

    @property
    def behind(self) -> bool:
        """Whether transitions are missing that the checkpoint had learned from.

        Nothing is learned until they are there again: not from a few of them what was learned from
        all.
        """
        return self.buffer.next_number < self._learned_from

    @property
    def transitions(self) -> int:
        """Transitions that what is learned is, or will be, learned from."""
        return max(self.buffer.next_number, self._learned_from)

    def use_offline(self, offline: TransitionBuffer, digest: str = '') -> None:
        """Learn from offline data as well; they come before what is restored.

        They are no transitions of the run: nothing counts them. The statistics by which states are
        normalised are theirs from now on. They stay so when data of the robot come: what was
        learned with them would be something else with others.

        Args:
            offline: the data.
            digest: what identifies their content; a checkpoint that was learned from others is
                refused then.

        Raises:
            ConfigError: it cannot be learned from such data, or there are fewer than two
                transitions.
        """
        if len(offline) < 2:
            raise ConfigError(f'offline data: {len(offline)} transitions; expected 2 at least')
        self.pool.offline = offline
        self.offline_transitions = len(offline)
        self._offline_digest = digest

    def discard(self) -> None:
        """Put the transitions on disk aside; a restart asks for all of them again."""
        self.buffer.discard()

    def close(self) -> None:
        """Let go of the files; nothing may be taken any more."""
        self.buffer.close()

    def _new(self, transitions: Sequence[Transition]) -> Sequence[Transition]:
        """Give those that have not been learned from: others only fill the buffer again."""
        return [each for each in transitions if each.number >= self._learned_from]

    def _write(self, folder: Path, transitions: Path | None, identity: Mapping[str, Any],
               tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Write a checkpoint of what is given and what every learner has.

        The transitions come first, so that the file has all that the checkpoint names.
        """
        self.buffer.save_in(transitions or folder, self._about_transitions)
        last = self.buffer.next_number - 1
        checkpoint.write(folder, identity, {**tensors, **self._generators.tensors()}, {
            **about, 'offline_updates': self.offline_updates,
            'offline_transitions': self.offline_transitions,
            'offline_digest': self._offline_digest,
            'next_transition': self.transitions, 'updates': self.updates,
            'epochs': self.epochs, 'transitions_digest': self.buffer.digest(),
            'last_check': None if self.behind or last < 0 else self.buffer.check(last)})

    def _take_back(self, folder: Path, tensors: Mapping[str, torch.Tensor],
                   about: Mapping[str, Any]) -> int:
        """Take back what every learner has, and live in the file of the transitions.

        Args:
            folder: of the transitions.
            tensors: of the checkpoint; empty without one.
            about: of the checkpoint; empty without one.

        Returns:
            How many transitions there are that the checkpoint had not learned from.

        Raises:
            CheckpointError: the file belongs to something else, or what was learned is of other
                offline data.
        """
        if about:
            self._take_back_offline(folder, about)
        self._learned_from = about.get('next_transition', 0)
        self.trouble = self.buffer.live_in(folder, self._about_transitions, self._learned_from,
                                           about.get('last_check'))
        if about:
            self._generators.load(tensors)
            self.updates, self.epochs = about['updates'], about['epochs']
        return self.transitions - self._learned_from

    def _take_back_offline(self, folder: Path, about: Mapping[str, Any]) -> None:
        digest = about.get('offline_digest', '')
        if self.pool.offline is None:       # the run goes on without them; what they did, stays
            self.offline_transitions = about.get('offline_transitions', 0)
            self._offline_digest = digest
        elif digest != self._offline_digest:
            raise CheckpointError(
                f'{folder} was learned from a dataset of content {digest[:12] or "none"}, not '
                f'{self._offline_digest[:12] or "none"}; name the one that the run began with by '
                '--dataset, or begin a new run')
        self.offline_updates = about.get('offline_updates', 0)

    def _offline_metrics(self) -> dict[str, float]:
        """Say what came from offline data; nothing where there never were any."""
        if not self.offline_transitions:
            return {}
        return {'offline_updates': float(self.offline_updates),
                'offline_transitions': float(self.offline_transitions)}

    def _check_finite(self, kind: str, state: Mapping[str, torch.Tensor]) -> None:
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise LearningDiverged(f'{kind}: {name} is no longer finite after {self.updates} '
                                       f'updates on {self.buffer.next_number} transitions')
