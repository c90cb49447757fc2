"""Transitions of the robot and those from before the run, as if they were in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch

from async_mbrl.learning.buffer import Samples, TransitionBuffer

_COLUMNS = tuple(field.name for field in fields(Samples))


class Pool:
    """All transitions that are learned from: rows of the offline data first, then the robot's."""

    def __init__(self, buffer: TransitionBuffer, offline: TransitionBuffer | None = None) -> None:
        """Put the transitions of the robot and, if there are any, offline data together."""
        self.buffer = buffer
        self.offline = offline

    def __len__(self) -> int:
        return self.offline_rows + len(self.buffer)

    @property
    def offline_rows(self) -> int:
        """How many rows are of the offline data; they do not change."""
        return 0 if self.offline is None else len(self.offline)

    @property
    def received(self) -> int:
        """Transitions of both so far, those that are no longer kept included."""
        return self.offline_rows + self.buffer.next_number

    @property
    def initial_rows(self) -> torch.Tensor:
        """Rows at which an episode began; empty if there are none."""
        if self.offline is None:
            return self.buffer.initial_rows
        return torch.cat([self.offline.initial_rows, self.buffer.initial_rows + self.offline_rows])

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give states, actions and next states of rows (...), each (..., size)."""
        if self.offline is None:
            return self.buffer.batch(rows)
        state, action, next_state = self._of_both(
            self.offline, rows, lambda buffer, part: buffer.batch(part))
        return state, action, next_state

    def samples(self, rows: torch.Tensor) -> Samples:
        """Give the transitions of rows (...)."""
        if self.offline is None:
            return self.buffer.samples(rows)
        return Samples(*self._of_both(self.offline, rows, lambda buffer, part: [
            getattr(buffer.samples(part), name) for name in _COLUMNS]))

    def _of_both(self, offline: TransitionBuffer, rows: torch.Tensor,
                 take: Callable[[TransitionBuffer, torch.Tensor], Sequence[torch.Tensor]]
                 ) -> list[torch.Tensor]:
        """Take rows (...) out of the buffers that they are of; keep their order."""
        flat = rows.reshape(-1)
        old = flat < len(offline)
        parts = zip(take(offline, flat[old]), take(self.buffer, flat[~old] - len(offline)),
                    strict=True)
        found = []
        for before, own in parts:
            whole = own.new_empty(len(flat), *own.shape[1:])
            whole[old], whole[~old] = before, own
            found.append(whole.view(*rows.shape, *own.shape[1:]))
        return found
