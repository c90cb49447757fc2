"""Which transitions each ensemble member keeps apart for validation."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class ValidationSplit:
    """A random split of the rows of a :class:`TransitionBuffer`, each member its own."""

    def __init__(self, members: int, capacity: int, share: float) -> None:
        """Put ``share`` of the transitions aside for validation."""
        self._members = members
        self._capacity = capacity
        self._share = share
        self._validation = torch.zeros(members, 0, dtype=torch.bool)
        self._training: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def largest_training_set(self) -> int:
        """Training rows of the member that has most."""
        return int(self._training_rows()[1].max())

    def append(self, first: int, count: int, generator: torch.Generator) -> None:
        """Assign ``count`` transitions from number ``first`` on."""
        drawn = torch.rand(self._members, count, generator=generator) < self._share
        kept = min(count, self._capacity)
        rows = torch.arange(first + count - kept, first + count) % self._capacity
        more = min(first + count, self._capacity) - self._validation.shape[1]
        if more > 0:
            self._validation = torch.cat(
                [self._validation, torch.zeros(self._members, more, dtype=torch.bool)], 1)
        self._validation[:, rows] = drawn[:, count - kept:]
        self._training = None

    def draw(self, batch: int, generator: torch.Generator, offline: int = 0) -> torch.Tensor:
        """Draw training rows (members, batch) of a pool, with replacement.

        Args:
            batch: how many for each member.
            generator: draws.
            offline: rows of offline data that come before those that are split; all of them are
                for training.
        """
        place = torch.rand(self._members, batch, generator=generator)
        rows, counts = self._training_rows()
        drawn = (place * (counts[:, None] + offline)).long()
        own = drawn >= offline
        if not own.any():
            return drawn
        return torch.where(own, offline + rows.gather(1, (drawn - offline).clamp_min(0)), drawn)

    def validation_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give validation rows (members, longest) and weights that sum to 1 for each member.

        Shorter lists are filled with rows of weight 0. A member without any gets weights 0.
        """
        rows, counts = _padded(self._validation)
        used = torch.arange(rows.shape[1]) < counts[:, None]
        return rows, used / counts.clamp_min(1)[:, None]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the split for a checkpoint."""
        return {'validation': self._validation.to(torch.uint8)}

    def load(self, tensors: Mapping[str, torch.Tensor], next_number: int) -> None:
        """Take back what :meth:`tensors` gave.

        Raises:
            ValueError: it does not fit the number of transitions.
        """
        found = tensors['validation']
        if found.shape != (self._members, min(next_number, self._capacity)):
            raise ValueError(f'split of {tuple(found.shape)} does not fit {next_number} '
                             'transitions')
        self._validation = found.to(torch.bool)
        self._training = None

    def _training_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give rows (members, longest) and counts, found anew only after they have changed."""
        if self._training is None:
            self._training = _padded(~self._validation)
        return self._training


def _padded(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the columns set in each row of a mask, filled up with 0, and how many there are."""
    counts = mask.sum(1)
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    return order[:, :int(counts.max())], counts
