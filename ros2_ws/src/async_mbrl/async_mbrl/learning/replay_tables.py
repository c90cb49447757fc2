"""The tables that transitions lie in, whether in memory or in a file: their layout, and checks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

FACTS = ('reward', 'log_probability', 'terminated', 'truncated', 'first', 'by_human')
"""What is known of a transition besides states, actions, goal and version of the policy."""
FIRST_ROWS = 1024
"""Rows that there is room for at first; twice as many each time that it is not enough."""


@dataclass(frozen=True)
class Sizes:
    """How many transitions are kept, and how many numbers each part of one has."""

    capacity: int
    state: int
    action: int
    goal: int

    @property
    def widths(self) -> tuple[int, int, int]:
        """Numbers in a row of the tables of states, of facts and of versions."""
        return 2 * self.state + self.action, self.goal + self.action + len(FACTS), 2


class Block(NamedTuple):
    """Transitions one after the other, as the tables have them; each array is (count, width).

    Attributes:
        rows: states, applied actions and next states, float32.
        facts: goals, requested actions and :data:`FACTS`, float32.
        versions: of the policies, incarnation and counter, int64.
    """

    rows: np.ndarray
    facts: np.ndarray
    versions: np.ndarray

    def part(self, rows: slice) -> Block:
        """Give some of the transitions, as views."""
        return Block(*(table[rows] for table in self))

    @property
    def length(self) -> int:
        """How many transitions these are."""
        return len(self.rows)


class Tables(Protocol):
    """Where the newest transitions lie: number ``n`` in row ``n % capacity`` of each table."""

    next_number: int
    rows: torch.Tensor
    facts: torch.Tensor
    versions: torch.Tensor

    def write(self, block: Block) -> None:
        """Add transitions, which get the next numbers.

        Raises:
            OSError: there is no room; nothing has changed.
        """
        ...

    def block(self, first: int, count: int) -> Block:
        """Give transitions that are kept, from number ``first`` on."""
        ...

    def checks(self, first: int, count: int) -> np.ndarray:
        """Give what :func:`checks_of` gives for these, (count,), uint64."""
        ...


def places(first: int, count: int, capacity: int) -> Iterator[tuple[slice, slice]]:
    """Say where in a ring numbers lie that follow each other, of which there are no more than fit.

    Yields:
        Rows of the ring and the places, from 0, of what belongs there; twice if the ring wraps.
    """
    done = 0
    while done < count:
        row = (first + done) % capacity
        more = min(count - done, capacity - row)
        yield slice(row, row + more), slice(done, done + more)
        done += more


class MemoryTables:
    """Tables in memory, which grow with the data."""

    def __init__(self, sizes: Sizes) -> None:
        """Begin with no transitions."""
        self._capacity = sizes.capacity
        self.next_number = 0
        rows, (row, fact, version) = min(sizes.capacity, FIRST_ROWS), sizes.widths
        self.rows = torch.zeros(rows, row)
        self.facts = torch.zeros(rows, fact)
        self.versions = torch.zeros(rows, version, dtype=torch.long)

    def write(self, block: Block) -> None:
        """Add transitions, which get the next numbers."""
        first = self.next_number + max(0, block.length - self._capacity)
        block = block.part(slice(max(0, block.length - self._capacity), None))
        self._grow(min(first + block.length, self._capacity))
        for there, here in places(first, block.length, self._capacity):
            for table, part in zip(self._arrays(), block.part(here), strict=True):
                table[there] = part
        self.next_number = first + block.length

    def copy(self, content: Tables) -> None:
        """Take over what other tables of the same sizes have."""
        count = min(content.next_number, self._capacity)
        self.next_number = content.next_number - count
        self.write(content.block(self.next_number, count))

    def block(self, first: int, count: int) -> Block:
        """Give transitions that are kept, from number ``first`` on."""
        return gathered(Block(*self._arrays()), first, count, self._capacity)

    def checks(self, first: int, count: int) -> np.ndarray:
        """Give what :func:`checks_of` gives for these, (count,), uint64."""
        return checks_of(first, self.block(first, count))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.rows.numpy(), self.facts.numpy(), self.versions.numpy()

    def _grow(self, needed: int) -> None:
        size = len(self.rows)
        while size < needed:
            size = min(self._capacity, 2 * size)
        if size > len(self.rows):
            self.rows, self.facts, self.versions = (
                _enlarged(table, size) for table in (self.rows, self.facts, self.versions))


def gathered(tables: Block, first: int, count: int, capacity: int) -> Block:
    """Copy transitions out of a ring, in the order of their numbers."""
    parts = [tables.part(there) for there, _ in places(first, count, capacity)]
    if not parts:
        return tables.part(slice(0))
    return Block(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def checks_of(first: int, block: Block) -> np.ndarray:
    """Give a check (count,), uint64, of each transition, its number included.

    It is b + sum_i a_i x_i modulo 2^64 over the 32-bit words x of a transition, with odd a_i: a
    vectorised member of the multilinear family (Dietzfelbinger 1996). Any damage to one word
    changes it for certain, any other damage but for a chance of about 2^-32 at most. A row of
    zeros, which a hole in a file gives, does not have the check of any number.
    """
    words = np.concatenate([np.ascontiguousarray(table).view(np.uint32) for table in block],
                           axis=1).astype(np.uint64)
    factors = _factors(words.shape[1] + 2)
    numbers = np.arange(first, first + block.length, dtype=np.uint64)
    return words @ factors[2:] + numbers * factors[1] + factors[0]


@functools.cache
def _factors(count: int) -> np.ndarray:
    """Give odd 64-bit numbers without a pattern, the same for ever: SplitMix64 (Steele 2014)."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31)) | np.uint64(1)


def _enlarged(table: torch.Tensor, size: int) -> torch.Tensor:
    larger = torch.zeros(size, table.shape[1], dtype=table.dtype)
    larger[:len(table)] = table
    return larger
