"""What both learners keep: transitions, random numbers and counters, and how these are saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from async_mbrl.core.snapshot import Version
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
        self.updates = 0
        self.epochs = 0.0

    @property
    def next_transition(self) -> int:
        """All transitions with number below this were taken."""
        return self.buffer.next_number

    @property
    def news(self) -> tuple[int, ...]:
        """What changes whenever there is something to hand out that was not yet."""
        return self.updates, self.buffer.next_number

    def _next_version(self) -> Version:
        version = Version(self._incarnation, self._counter)
        self._counter += 1
        return version

    def _write(self, folder: Path, identity: Mapping[str, Any],
               tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Write a checkpoint of what is given and what every learner has."""
        checkpoint.write(folder, identity, {
            **tensors, **checkpoint.prefixed('buffer', self.buffer.tensors()),
            'generator': self._generator.get_state(),
        }, {**about, 'next_transition': self.buffer.next_number, 'updates': self.updates,
            'epochs': self.epochs})

    def _read(self, folder: Path, identity: Mapping[str, Any]
              ) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Read a checkpoint, take back what every learner has, and give it all; None without one.

        Raises:
            CheckpointError: it is damaged or belongs to something else.
        """
        found = checkpoint.read(folder, identity)
        if found is not None:
            tensors, about = found
            self.buffer.load(checkpoint.part('buffer', tensors))
            self._generator.set_state(tensors['generator'])
            self.updates, self.epochs = about['updates'], about['epochs']
        return found

    def _check_finite(self, kind: str, state: Mapping[str, torch.Tensor]) -> None:
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise LearningDiverged(f'{kind}: {name} is no longer finite after {self.updates} '
                                       f'updates on {self.buffer.next_number} transitions')
