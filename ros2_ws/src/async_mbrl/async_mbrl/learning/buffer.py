"""The transitions a learner learns from: rows of one growing array, the newest kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns

_FIRST_ROWS = 1024
_MOST = 2**63 - 1
"""Greatest counter of a version that is kept as it is: torch has no larger whole numbers."""


@dataclass(frozen=True)
class Samples:
    """Transitions as tensors (..., size); the last three are (...).

    Attributes:
        observation: with the goal.
        action: normalised, as applied.
        next_observation: one step later, also where the episode ended.
        reward: as the robot side has computed it.
        terminated: 1 where the task has ended by itself, so that there is nothing to come, else 0;
            an episode that was cut short could have gone on.
    """

    observation: torch.Tensor
    action: torch.Tensor
    next_observation: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor


def together(*parts: Samples) -> Samples:
    """Put transitions (rows, ...) of several origins one after the other."""
    return Samples(*(torch.cat([getattr(part, name.name) for part in parts])
                     for name in fields(Samples)))


class TransitionBuffer:
    """Transitions by number; first in, first out.

    Transition ``number`` lies in row ``number % capacity``. What a model is learned from lies in
    one table, states, applied actions and next states; all else in a second one: the goal (that of
    an observation is that of the next one), the action as requested, the reward, the log density of
    the action, and how the episode stands; and the versions of the policies in a third one.
    """

    def __init__(self, capacity: int, state_size: int, action_size: int, goal_size: int) -> None:
        """Make an empty buffer that keeps up to ``capacity`` transitions."""
        self._capacity = capacity
        self._state_size = state_size
        self._action_size = action_size
        self._goal_size = goal_size
        rows = min(capacity, _FIRST_ROWS)
        self._rows = torch.zeros(rows, 2 * state_size + action_size)
        self._facts = torch.zeros(rows, goal_size + action_size + len(_FACTS))
        self._versions = torch.zeros(rows, 2, dtype=torch.long)
        self._initial = torch.zeros(0, dtype=torch.long)
        self._starts: list[int] = []
        self.next_number = 0

    def __len__(self) -> int:
        return min(self.next_number, self._capacity)

    def append(self, transitions: Sequence[Transition]) -> None:
        """Add transitions in the order of their numbers.

        Raises:
            ValueError: a number is not the next one.
        """
        size = self._state_size
        for transition in transitions:
            if transition.number != self.next_number:
                raise ValueError(f'transition {transition.number} does not follow '
                                 f'{self.next_number - 1}')
            row = self.next_number % self._capacity
            if row >= len(self._rows):
                self._grow()
            self._rows[row] = torch.from_numpy(np.concatenate([
                transition.observation[:size], transition.action_applied,
                transition.next_observation[:size]]))
            self._facts[row] = torch.from_numpy(np.concatenate([
                transition.observation[size:], transition.action_requested,
                _facts(transition)]))
            incarnation, counter = transition.policy_version
            self._versions[row] = torch.tensor([incarnation, min(counter, _MOST)])
            if transition.step == 0:
                self._starts.append(transition.number)
            self.next_number += 1
        self._drop_old_starts()

    def append_columns(self, columns: Columns) -> None:
        """Add many transitions at once, in the order of their rows; they get the next numbers.

        It is the same, bit for bit, as to append them one by one.

        Raises:
            ValueError: observations or actions are not of the sizes of this buffer.
        """
        observation, action = self._state_size + self._goal_size, self._action_size
        for name, size in (('observation', observation), ('next_observation', observation),
                           ('action_requested', action), ('action_applied', action)):
            found = getattr(columns, name).shape
            if found != (len(columns), size):
                raise ValueError(f'{name} of {len(columns)} transitions has shape {found}, not '
                                 f'{(len(columns), size)}: they are of another task or robot')
        first = self.next_number
        self.next_number += len(columns)
        self._starts += (first + np.flatnonzero(columns.step == 0)).tolist()
        self._drop_old_starts()
        kept = columns[max(0, len(columns) - self._capacity):]
        rows = torch.arange(self.next_number - len(kept), self.next_number) % self._capacity
        while len(self._rows) < len(self):
            self._grow()
        size = self._state_size
        self._rows[rows] = torch.from_numpy(np.concatenate([
            kept.observation[:, :size], kept.action_applied, kept.next_observation[:, :size]], 1))
        self._facts[rows] = torch.from_numpy(np.concatenate([
            kept.observation[:, size:], kept.action_requested, _facts_of_columns(kept)], 1))
        self._versions[rows] = torch.from_numpy(kept.policy_version)

    def _drop_old_starts(self) -> None:
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
        found = _taken(self._rows, rows)
        action = self._state_size + self._action_size
        return (found[..., :self._state_size], found[..., self._state_size:action],
                found[..., action:])

    def samples(self, rows: torch.Tensor) -> Samples:
        """Give the transitions of rows (...)."""
        state, action, next_state = self.batch(rows)
        facts = _taken(self._facts, rows)
        goal, first = facts[..., :self._goal_size], self._goal_size + self._action_size
        return Samples(torch.cat([state, goal], -1), action, torch.cat([next_state, goal], -1),
                       facts[..., first + _REWARD], facts[..., first + _TERMINATED])

    def requested(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the actions (..., action_size) that the policy asked for."""
        return self._facts[rows, self._goal_size:self._goal_size + self._action_size]

    def log_probability(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the log densities (...) of these, as the controller has reported them, nat."""
        return self._facts[rows, self._goal_size + self._action_size + _LOG_PROBABILITY]

    def ended(self, rows: torch.Tensor) -> torch.Tensor:
        """Say (...) of rows whether the episode ended after them, by itself or cut short.

        Of an episode that was broken off not even that may have been told: the next transition is
        the first one of another episode then.
        """
        first = self._goal_size + self._action_size
        following = (rows + 1) % self._capacity
        newest = (self.next_number - 1) % self._capacity
        over = (self._facts[rows, first + _TERMINATED] + self._facts[rows, first + _TRUNCATED]) > 0
        # Of the newest row nothing follows: what lies there is the oldest one, or nothing.
        restarted = self._facts[following % len(self._facts), first + _FIRST] > 0
        return over | (restarted & (rows != newest))

    def rows_of(self, version: Version) -> torch.Tensor:
        """Give the rows, in the order of time, of the newest policy alone.

        Args:
            version: the first one that it was handed out under.

        Returns:
            Rows (count,) from the first transition on whose episode began under that version or a
            newer one: before that a policy may have been taking over from another.
        """
        begin = self.next_number
        for number in reversed(self._starts):
            if tuple(self._versions[number % self._capacity].tolist()) < version:
                break
            begin = number
        return torch.arange(begin, self.next_number) % self._capacity

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the content for a checkpoint."""
        return {'rows': self._rows[:len(self)].clone(),
                'facts': self._facts[:len(self)].clone(),
                'versions': self._versions[:len(self)].clone(),
                'starts': torch.tensor(self._starts, dtype=torch.long),
                'next_number': torch.tensor(self.next_number)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave.

        Raises:
            ValueError: the content does not fit the sizes or the capacity of this buffer.
        """
        next_number = int(tensors['next_number'])
        count = min(next_number, self._capacity)
        tables = {'rows': self._rows, 'facts': self._facts, 'versions': self._versions}
        for name, table in tables.items():
            if tensors[name].shape != (count, table.shape[1]):
                raise ValueError(
                    f'{tuple(tensors[name].shape)} {name} of {next_number} transitions do not fit '
                    f'a buffer of {self._capacity} x {table.shape[1]}')
        size = min(self._capacity, max(_FIRST_ROWS, count))
        self._rows, self._facts, self._versions = (
            _enlarged(tensors[name], size) for name in tables)
        self.next_number = next_number
        self._starts = tensors['starts'].tolist()
        self._initial = tensors['starts'] % self._capacity

    def _grow(self) -> None:
        size = min(self._capacity, 2 * len(self._rows))
        self._rows, self._facts, self._versions = (
            _enlarged(table, size) for table in (self._rows, self._facts, self._versions))


_FACTS = ('reward', 'log_probability', 'terminated', 'truncated', 'first')
_REWARD, _LOG_PROBABILITY, _TERMINATED, _TRUNCATED, _FIRST = range(len(_FACTS))


def _facts(transition: Transition) -> np.ndarray[Any, Any]:
    return np.array([transition.reward, transition.log_probability, transition.terminated,
                     transition.truncated, transition.step == 0], np.float32)


def _facts_of_columns(columns: Columns) -> np.ndarray[Any, Any]:
    return np.stack([columns.reward, columns.log_probability, columns.terminated,
                     columns.truncated, columns.step == 0], 1).astype(np.float32)


def _taken(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # table[rows], in a fifth of the time.
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])


def _enlarged(table: torch.Tensor, size: int) -> torch.Tensor:
    larger = torch.zeros(size, table.shape[1], dtype=table.dtype)
    larger[:len(table)] = table
    return larger
