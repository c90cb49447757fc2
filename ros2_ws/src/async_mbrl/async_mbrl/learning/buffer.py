"""The transitions a learner learns from: the newest are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.learning.device import CPU
from async_mbrl.learning.replay_file import NAME, ReplayDamaged, ReplayFile, put_aside
from async_mbrl.learning.replay_tables import FACTS, Block, MemoryTables, Sizes, Tables

_DIGESTED = 16_384
"""Transitions that are gathered at a time for a digest."""
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

    The tables are in memory until a folder is named, see :meth:`live_in`; then in a file there.
    What is learned from goes from there to a device; rows, and what is known of the course of
    episodes, are of the host.
    """

    def __init__(self, capacity: int, state_size: int, action_size: int, goal_size: int,
                 device: torch.device = CPU) -> None:
        """Make an empty buffer.

        Args:
            capacity: transitions that it keeps.
            state_size: numbers of a state.
            action_size: numbers of an action.
            goal_size: numbers of a goal.
            device: where transitions that are asked for by their rows are learned from.
        """
        self._capacity = capacity
        self._state_size = state_size
        self._action_size = action_size
        self._goal_size = goal_size
        self._device = device
        self._sizes = Sizes(capacity, state_size, action_size, goal_size)
        self._tables: Tables = MemoryTables(self._sizes)
        self._place: Path | None = None
        self._initial = torch.zeros(0, dtype=torch.long)
        self._starts: list[int] = []
        self._by_human = torch.zeros(0, dtype=torch.long)
        """Numbers of the transitions in which a person acted, as far as they were looked at."""
        self._looked_at = 0

    def __len__(self) -> int:
        return min(self.next_number, self._capacity)

    @property
    def capacity(self) -> int:
        """How many transitions are kept at most."""
        return self._capacity

    @property
    def next_number(self) -> int:
        """Number of the transition that is wanted next."""
        return self._tables.next_number

    def append(self, transitions: Sequence[Transition]) -> None:
        """Add transitions in the order of their numbers.

        Raises:
            ValueError: a number is not the next one; none was added.
        """
        if not transitions:
            return
        first, size = self.next_number, self._state_size
        for number, transition in enumerate(transitions, first):
            if transition.number != number:
                raise ValueError(f'transition {transition.number} does not follow {number - 1}')
        self._write(Block(
            np.array([np.concatenate([
                transition.observation[:size], transition.action_applied,
                transition.next_observation[:size]]) for transition in transitions], np.float32),
            np.array([np.concatenate([
                transition.observation[size:], transition.action_requested, _facts(transition)])
                for transition in transitions], np.float32),
            np.array([(transition.policy_version[0], min(transition.policy_version[1], _MOST))
                      for transition in transitions], np.int64)))
        self._follow_starts([each.number for each in transitions if each.step == 0])

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
        first, size = self.next_number, self._state_size
        self._write(Block(
            np.concatenate([columns.observation[:, :size], columns.action_applied,
                            columns.next_observation[:, :size]], 1),
            np.concatenate([columns.observation[:, size:], columns.action_requested,
                            _facts_of_columns(columns)], 1),
            columns.policy_version))
        self._follow_starts((first + np.flatnonzero(columns.step == 0)).tolist())

    def live_in(self, folder: Path, about: Mapping[str, Any], learned_from: int = 0,
                last_check: int | None = None) -> str:
        """Keep the transitions in the file of a folder from now on, with those that are there.

        What cannot be used is put aside: the buffer is empty then, and what is missing is to be
        asked for again. A disk that does not take the file leaves the buffer in memory.

        Args:
            folder: where; made if it does not exist.
            about: what the transitions belong to, ready for JSON.
            learned_from: transitions that something has been learned from.
            last_check: check of the last of these, see :meth:`check`; None if it is not known.

        Returns:
            What was wrong; empty if nothing was.

        Raises:
            CheckpointError: the file is of something else, or another process uses it.
        """
        self.close()
        self._place = path = folder / NAME
        trouble = ''
        try:
            found, trouble = self._opened(path, about, learned_from, last_check)
            self._tables = found or ReplayFile.create(path, self._sizes, about)
        except OSError as error:
            trouble = f'{path}: {error}; transitions are kept in memory until the disk takes them'
            self._tables = MemoryTables(self._sizes)
        first = self.next_number - len(self)
        facts = self._tables.block(first, len(self)).facts
        self._starts, self._initial = [], self._initial[:0]
        self._by_human, self._looked_at = self._by_human[:0], 0
        self._follow_starts((first + np.flatnonzero(facts[:, self._fact(_FIRST)] > 0)).tolist())
        return trouble

    def save_in(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Bring the transitions to the disk, in the file of a folder.

        Where they live in it that is little work; elsewhere a copy is written, and the one before
        stands until it is complete.

        Raises:
            OSError: the disk does not take it.
        """
        path = folder / NAME
        if isinstance(self._tables, ReplayFile) and self._tables.path == path and path.exists():
            self._tables.flush()
            return
        copied = ReplayFile.create(path, self._sizes, about, self._tables)
        if path == self._place:     # from now on there is room, or a folder, again
            self.close()
            self._tables = copied
        else:
            copied.close()

    def discard(self) -> None:
        """Put the file of the transitions aside; it is not used any more."""
        if isinstance(self._tables, ReplayFile):
            self.close()
            put_aside(self._tables.path)

    def close(self) -> None:
        """Let another one use the file of the transitions; nothing may be added any more."""
        if isinstance(self._tables, ReplayFile):
            self._tables.close()

    def check(self, number: int) -> int:
        """Give a check, of 64 bits, of a transition that is kept."""
        return int(self._tables.checks(number, 1)[0])

    def digest(self) -> str:
        """Give a SHA-256, hex, of the numbers of the transitions and of a check of each."""
        first = self.next_number - len(self)
        found = hashlib.sha256(f'{first} {self.next_number} '.encode())
        for begin in range(first, self.next_number, _DIGESTED):
            count = min(_DIGESTED, self.next_number - begin)
            found.update(self._tables.checks(begin, count).tobytes())
        return found.hexdigest()

    def over_since(self, number: int) -> bool:
        """Say whether an episode has ended, by itself or cut short, from a transition on."""
        first = max(number, self.next_number - len(self))
        facts = self._tables.block(first, max(0, self.next_number - first)).facts
        return bool((facts[:, [self._fact(_TERMINATED), self._fact(_TRUNCATED)]] > 0).any())

    def _opened(self, path: Path, about: Mapping[str, Any], learned_from: int,
                last_check: int | None) -> tuple[ReplayFile | None, str]:
        """Open a file of transitions, or put it aside; give what was wrong, too."""
        again = 'transitions are asked for again'
        try:
            found = ReplayFile.open(path, self._sizes, about)
            if found is None:
                return None, f'{path} is missing; {learned_from} {again}' if learned_from else ''
            if found.next_number < learned_from:
                return found, (f'{path} ends after {found.next_number} transitions, but '
                               f'{learned_from} were learned from; the other {again}')
            kept = learned_from > max(0, found.next_number - self._capacity)
            if kept and last_check not in (None, int(found.checks(learned_from - 1, 1)[0])):
                found.close()
                raise ReplayDamaged(f'transition {learned_from - 1} is another one than that '
                                    'which was learned from')
        except ReplayDamaged as error:
            return None, f'{path} cannot be used: {error}; it is {put_aside(path)} now; {again}'
        return found, ''

    def _write(self, block: Block) -> None:
        try:
            self._tables.write(block)
        except OSError:
            # The disk is full: what is learned must not suffer. The next checkpoint tries again,
            # and tells.
            memory = MemoryTables(self._sizes)
            memory.copy(self._tables)
            self.close()
            self._tables = memory
            self._tables.write(block)

    def _fact(self, place: int) -> int:
        return self._goal_size + self._action_size + place

    def _follow_starts(self, started: list[int]) -> None:
        """Note where episodes have begun, and forget what is no longer kept."""
        oldest = self.next_number - len(self)
        if not started and (not self._starts or self._starts[0] >= oldest):
            return
        self._starts = [number for number in (*self._starts, *started) if number >= oldest]
        self._initial = torch.tensor([number % self._capacity for number in self._starts],
                                     dtype=torch.long)

    @property
    def states(self) -> torch.Tensor:
        """States (len, state_size) in which actions were taken, not in the order of time."""
        return self._tables.rows[:len(self), :self._state_size]

    @property
    def actions(self) -> torch.Tensor:
        """Applied actions (len, action_size), normalised."""
        return self._tables.rows[:len(self), self._state_size:self._state_size + self._action_size]

    @property
    def next_states(self) -> torch.Tensor:
        """States (len, state_size) one step later."""
        return self._tables.rows[:len(self), self._state_size + self._action_size:]

    @property
    def initial_rows(self) -> torch.Tensor:
        """Rows at which an episode began; empty if all of those have been dropped."""
        return self._initial

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give states, actions and next states of rows (...), each (..., size)."""
        found = _taken(self._tables.rows, rows).to(self._device)
        action = self._state_size + self._action_size
        return (found[..., :self._state_size], found[..., self._state_size:action],
                found[..., action:])

    def samples(self, rows: torch.Tensor) -> Samples:
        """Give the transitions of rows (...)."""
        state, action, next_state = self.batch(rows)
        facts = _taken(self._tables.facts, rows).to(self._device)
        goal = facts[..., :self._goal_size]
        return Samples(torch.cat([state, goal], -1), action, torch.cat([next_state, goal], -1),
                       facts[..., self._fact(_REWARD)], facts[..., self._fact(_TERMINATED)])

    def requested(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the actions (..., action_size) that the policy asked for."""
        size = self._goal_size
        return self._tables.facts[rows, size:size + self._action_size].to(self._device)

    def log_probability(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the log densities (...) of these, as the controller has reported them, nat."""
        return self._tables.facts[rows, self._fact(_LOG_PROBABILITY)].to(self._device)

    def by_human(self, rows: torch.Tensor) -> torch.Tensor:
        """Say (...) of rows whether a person has chosen the action, and no policy."""
        return self._tables.facts[rows, self._fact(_BY_HUMAN)] > 0

    @property
    def human_rows(self) -> torch.Tensor:
        """Rows (count,) in which a person has chosen the action."""
        oldest = self.next_number - len(self)
        if self._looked_at < self.next_number:
            new = torch.arange(max(self._looked_at, oldest), self.next_number)
            self._by_human = torch.cat([self._by_human[self._by_human >= oldest],
                                        new[self.by_human(new % self._capacity)]])
            self._looked_at = self.next_number
        return self._by_human % self._capacity

    def ended(self, rows: torch.Tensor) -> torch.Tensor:
        """Say (...) of rows whether the episode ended after them, by itself or cut short.

        Of an episode that was broken off not even that may have been told: the next transition is
        the first one of another episode then.
        """
        following = (rows + 1) % self._capacity
        newest = (self.next_number - 1) % self._capacity
        facts = self._tables.facts
        over = (facts[rows, self._fact(_TERMINATED)] + facts[rows, self._fact(_TRUNCATED)]) > 0
        # Of the newest row nothing follows: what lies there is the oldest one, or nothing.
        restarted = facts[following % len(facts), self._fact(_FIRST)] > 0
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
            if tuple(self._tables.versions[number % self._capacity].tolist()) < version:
                break
            begin = number
        return torch.arange(begin, self.next_number) % self._capacity


_REWARD, _LOG_PROBABILITY, _TERMINATED, _TRUNCATED, _FIRST, _BY_HUMAN = range(len(FACTS))


def _facts(transition: Transition) -> np.ndarray[Any, Any]:
    return np.array([transition.reward, transition.log_probability, transition.terminated,
                     transition.truncated, transition.step == 0, transition.takeover],
                    np.float32)


def _facts_of_columns(columns: Columns) -> np.ndarray[Any, Any]:
    return np.stack([columns.reward, columns.log_probability, columns.terminated,
                     columns.truncated, columns.step == 0,
                     columns.source == Source.HUMAN], 1).astype(np.float32)


def _taken(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # table[rows], in a fifth of the time.
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])
