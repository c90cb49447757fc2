"""What both learners keep: transitions, random numbers and counters, and how these are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.learner import LearningDiverged


class Worker:
    """A learner as far as it does not matter what it learns."""

    def __init__(self, task: Any, capacity: int, seed: int, incarnation: int) -> None:
        """Begin with no data.

        Args:
            task: see :mod:`async_mbrl.tasks`.
            capacity: transitions kept.
            seed: of what is drawn.
            incarnation: which start of this learner it is; part of the versions it gives out.
        """
        self._task = task
        self._generator = torch.Generator().manual_seed(seed)
        self._incarnation = incarnation
        self._counter = 0
        self.buffer = TransitionBuffer(capacity, task.state_size, task.action_size,
                                       task.goal_size)
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
        checkpoint.write(folder, identity, {**tensors, 'generator': self._generator.get_state()}, {
            **about, 'next_transition': self.transitions, 'updates': self.updates,
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
            CheckpointError: the file belongs to something else.
        """
        self._learned_from = about.get('next_transition', 0)
        self.trouble = self.buffer.live_in(folder, self._about_transitions, self._learned_from,
                                           about.get('last_check'))
        if about:
            self._generator.set_state(tensors['generator'])
            self.updates, self.epochs = about['updates'], about['epochs']
        return self.transitions - self._learned_from

    def _check_finite(self, kind: str, state: Mapping[str, torch.Tensor]) -> None:
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise LearningDiverged(f'{kind}: {name} is no longer finite after {self.updates} '
                                       f'updates on {self.buffer.next_number} transitions')
