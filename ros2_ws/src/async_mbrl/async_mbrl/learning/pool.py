"""Transitions of the robot and those from before the run, as if they were in one table."""

from __future__ import annotations

import torch

from async_mbrl.learning.buffer import TransitionBuffer


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
        flat = rows.reshape(-1)
        old = flat < self.offline_rows
        # Where each row is once those of the offline data have been put first.
        place = torch.where(old, old.cumsum(0), old.sum() + (~old).cumsum(0)) - 1
        parts = zip(self.offline.batch(flat[old]),
                    self.buffer.batch(flat[~old] - self.offline_rows), strict=True)
        state, action, next_state = (
            torch.cat(both).index_select(0, place.to(both[0].device)).view(
                *rows.shape, both[0].shape[1])
            for both in parts)
        return state, action, next_state
