"""The transitions a learner learns from: rows of one growing array, the newest kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from async_mbrl.core.transition import Transition

_FIRST_ROWS = 1024


class TransitionBuffer:
    """States, applied actions and next states by transition number; first in, first out.

    Transition ``number`` lies in row ``number % capacity``. The goal is left out: states do not
    depend on it, and imagined rollouts draw goals of their own.
    """

    def __init__(self, capacity: int, state_size: int, action_size: int) -> None:
        """Make an empty buffer that keeps up to ``capacity`` transitions."""
        self._capacity = capacity
        self._state_size = state_size
        self._action_size = action_size
        self._rows = torch.zeros(min(capacity, _FIRST_ROWS), 2 * state_size + action_size)
        self._starts: list[int] = []
        self.next_number = 0

    def __len__(self) -> int:
        return min(self.next_number, self._capacity)

    def append(self, transitions: Sequence[Transition]) -> None:
        """Add transitions in the order of their numbers.

        Raises:
            ValueError: a number is not the next one.
        """
        for transition in transitions:
            if transition.number != self.next_number:
                raise ValueError(f'transition {transition.number} does not follow '
                                 f'{self.next_number - 1}')
            row = self.next_number % self._capacity
            if row >= len(self._rows):
                self._grow()
            self._rows[row] = torch.from_numpy(np.concatenate([
                transition.observation[:self._state_size], transition.action_applied,
                transition.next_observation[:self._state_size]]))
            if transition.step == 0:
                self._starts.append(transition.number)
            self.next_number += 1
        oldest = self.next_number - len(self)
        self._starts = [number for number in self._starts if number >= oldest]
        self._initial = torch.tensor([number % self._capacity for number in self._starts],
                                     dtype=torch.long)

    @property
    def states(self) -> torch.Tensor:
        """States (len, state_size) in which actions were taken, not in the order of time."""
        return self._rows[:len(self), :self._state_size]

    @property
    def actions(self) -> torch.Tensor:
        """Applied actions (len, action_size), normalised."""
        return self._rows[:len(self), self._state_size:self._state_size + self._action_size]

    @property
    def next_states(self) -> torch.Tensor:
        """States (len, state_size) one step later."""
        return self._rows[:len(self), self._state_size + self._action_size:]

    @property
    def initial_rows(self) -> torch.Tensor:
        """Rows at which an episode began; empty if all of those have been dropped."""
        return self._initial if self._starts else torch.zeros(0, dtype=torch.long)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give states, actions and next states of rows (...), each (..., size)."""
        found = self._rows[rows]
        action = self._state_size + self._action_size
        return (found[..., :self._state_size], found[..., self._state_size:action],
                found[..., action:])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the content for a checkpoint."""
        return {'rows': self._rows[:len(self)].clone(),
                'starts': torch.tensor(self._starts, dtype=torch.long),
                'next_number': torch.tensor(self.next_number)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave.

        Raises:
            ValueError: the content does not fit the sizes or the capacity of this buffer.
        """
        rows, next_number = tensors['rows'], int(tensors['next_number'])
        if rows.shape != (min(next_number, self._capacity), self._rows.shape[1]):
            raise ValueError(f'{tuple(rows.shape)} rows of {next_number} transitions do not fit a '
                             f'buffer of {self._capacity} x {self._rows.shape[1]}')
        size = min(self._capacity, max(_FIRST_ROWS, len(rows)))
        self._rows = torch.zeros(size, rows.shape[1])
        self._rows[:len(rows)] = rows
        self.next_number = next_number
        self._starts = tensors['starts'].tolist()
        self._initial = tensors['starts'] % self._capacity

    def _grow(self) -> None:
        size = min(self._capacity, 2 * len(self._rows))
        larger = torch.zeros(size, self._rows.shape[1])
        larger[:len(self._rows)] = self._rows
        self._rows = larger
