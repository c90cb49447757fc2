"""When an ensemble member has learned enough from the data there are."""

from __future__ import annotations

import numpy as np


class EarlyStopping:
    """Stop a member when the moving average of its validation loss rises (Zhang et al. 2019).

    After each epoch, average = persistence * average + (1 - persistence) * loss, a member each. The
    average begins at 1.5 times the first loss after new data and is held against 2 times that loss,
    so that it has some way to fall; a negative loss is divided by these numbers instead.
    """

    def __init__(self, members: int, persistence: float) -> None:
        """Begin with all members active."""
        self._persistence = persistence
        self._average: np.ndarray | None = None
        self._previous = np.zeros(members)
        self.active = np.ones(members, bool)

    def new_data(self) -> None:
        """Let every member learn again and forget the averages."""
        self._average = None
        self.active[:] = True

    def epoch(self, loss: np.ndarray) -> None:
        """Take the validation loss (members,) after an epoch and stop members by it."""
        if self._average is None:
            self._average = np.where(loss >= 0, 1.5 * loss, loss / 1.5)
            self._previous = np.where(loss >= 0, 2.0 * loss, loss / 2.0)
        self._average = self._persistence * self._average + (1.0 - self._persistence) * loss
        self.active &= ~(self._previous < self._average)
        self._previous = self._average

    def state(self) -> dict[str, list[float] | list[bool] | None]:
        """Give the state for a checkpoint."""
        return {'average': None if self._average is None else self._average.tolist(),
                'previous': self._previous.tolist(), 'active': self.active.tolist()}

    def load(self, state: dict[str, list[float] | list[bool] | None]) -> None:
        """Take back what :meth:`state` gave."""
        average = state['average']
        self._average = None if average is None else np.array(average)
        self._previous = np.array(state['previous'])
        self.active = np.array(state['active'], bool)
