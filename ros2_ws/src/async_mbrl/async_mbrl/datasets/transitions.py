"""Import of what this project recorded itself: journals, and bags with a topic of transitions.

What comes out is what the buffer of a live learner got, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from async_mbrl.collection.journal import MAGIC, RecordKind, read_meta, read_records
from async_mbrl.datasets.bags import Bag
from async_mbrl.datasets.cdr import TRANSITION
from async_mbrl.datasets.columns import Columns, Source, empty_columns, joined
from async_mbrl.datasets.identity import DatasetError, Identity, identity_from_mapping
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.topic import Topic

TYPE = 'async_mbrl_interfaces/msg/Transition'

BATCH = 4096
"""Transitions read at a time."""

_FRAME_BYTES = 17
"""Of a record of a journal, besides its payload."""
_ARRAYS = ('observation', 'action_requested', 'action_applied', 'next_observation')
_MOST = 2**63 - 1


def journal_identity(folder: Path) -> Identity:
    """Give what a journal was made with.

    Raises:
        DatasetError: there is no journal.
    """
    meta = read_meta(folder)
    if meta is None:
        raise DatasetError(f'{folder}: no journal of a run')
    return identity_from_mapping(meta, str(folder / 'meta.json'))


def read_journal(folder: Path, identity: Identity, tally: Tally) -> Iterator[Columns]:
    """Read the transitions of the journal of a run; also of one that goes on, or died.

    Raises:
        DatasetError: a transition is not of this identity.
    """
    taken = 0

    def payloads() -> Iterator[bytes]:
        nonlocal taken
        for record in read_records(folder):
            taken += _FRAME_BYTES + len(record.payload)
            if record.kind == RecordKind.TRANSITION:
                yield record.payload

    yield from columns_of_messages(payloads(), identity, tally, str(folder))
    segments = sorted(folder.glob('[0-9]*.log'))
    left = sum(path.stat().st_size - len(MAGIC) for path in segments) - taken
    if left > 0:
        tally.note(f'{folder}: {left} bytes at its end are torn or damaged, as a crash leaves '
                   'them; what stands before them was taken')


def read_transition_bag(bag: Bag, topic: str, identity: Identity,
                        tally: Tally) -> Iterator[Columns]:
    """Read a topic of transitions.

    Raises:
        DatasetError: a transition is not of this identity; or damage that is not to be skipped.
    """
    messages = (message.data for batch in bag.batches((topic,)) for message in batch)
    yield from columns_of_messages(messages, identity, tally, f'{bag.path}, topic {topic}')


def columns_of_messages(messages: Iterable[bytes | memoryview], identity: Identity, tally: Tally,
                        where: str) -> Iterator[Columns]:
    """Turn serialised transitions into columns.

    Where numbers are missing within an episode, it is marked as cut short before the gap; what
    comes again is left out.

    Args:
        messages: of ``async_mbrl_interfaces/msg/Transition``, in the order of their numbers.
        identity: whose sizes they must have.
        tally: told of gaps and repetitions.
        where: they come from, for messages.

    Raises:
        DatasetError: a message is damaged or of other sizes, and damage is not to be skipped.
    """
    reader = _Reader(identity, tally, where)
    batch: list[bytes | memoryview] = []
    for message in messages:
        batch.append(message)
        if len(batch) == BATCH:
            yield from reader.take(batch)
            batch = []
    yield from reader.take(batch)
    yield from reader.rest()


class _Reader:
    """Decodes batches; keeps the last row back, since the next may show that a gap follows it."""

    def __init__(self, identity: Identity, tally: Tally, where: str) -> None:
        self._identity = identity
        self._tally = tally
        self._where = where
        self._topic = Topic(TRANSITION, where, tally)
        self._next: int | None = None
        self._episodes_before = 0
        self._most_episode = -1
        self._kept: Columns | None = None
        self._fitting = False

    def take(self, messages: Sequence[bytes | memoryview]) -> Iterator[Columns]:
        if not messages:
            return
        numbers, columns = self._decode(messages)
        if not len(numbers):
            return
        if self._next is None:
            self._next = int(numbers[0])
            if self._next:
                self._tally.note(f'{self._where}: begins with transition {self._next}')
        in_order = numbers[0] == self._next and (np.diff(numbers) == 1).all()
        if in_order:
            self._next = int(numbers[-1]) + 1
            self._shift(columns, slice(None))
        else:
            columns = self._sort_out(numbers, columns)
        if self._kept is not None:
            columns = joined([self._kept, columns])
        self._kept = columns[-1:]
        if len(columns) > 1:
            yield columns[:-1]

    def rest(self) -> Iterator[Columns]:
        if self._kept is not None:
            yield self._kept

    def _sort_out(self, numbers: np.ndarray, columns: Columns) -> Columns:
        """Drop what comes again, and end episodes where numbers are missing."""
        keep = np.ones(len(numbers), bool)
        before = -1         # the row kept last, -1: that of the batch before
        for row, number in enumerate(numbers.tolist()):
            assert self._next is not None
            if number < self._next:
                if number == 0 and columns.step[row] == 0 and columns.episode[row] == 0:
                    self._episodes_before = self._most_episode + 1
                    self._tally.note(f'{self._where}: another run begins within it')
                else:
                    keep[row] = False
                    self._tally.leave_out('repeated or out of order')
                    continue
            elif number > self._next:
                self._tally.leave_out('missing numbers', number - self._next)
                self._cut(columns, before)
            self._next = number + 1
            self._shift(columns, slice(row, row + 1))
            before = row
        return columns[keep]

    def _cut(self, columns: Columns, before: int) -> None:
        """Mark the episode of the row before a gap as cut short."""
        ended, row = (self._kept, 0) if before < 0 else (columns, before)
        if ended is not None and not ended.terminated[row]:
            ended.truncated[row] = True

    def _shift(self, columns: Columns, rows: slice) -> None:
        """Give episodes the numbers that follow where one bag holds several runs."""
        columns.episode[rows] += self._episodes_before
        self._most_episode = max(self._most_episode, int(columns.episode[rows].max()))

    def _decode(self, messages: Sequence[bytes | memoryview]) -> tuple[np.ndarray, Columns]:
        identity = self._identity
        sizes = {'observation': identity.observation_size, 'action_requested': identity.action_size,
                 'action_applied': identity.action_size,
                 'next_observation': identity.observation_size}
        numbers = np.zeros(len(messages), np.int64)
        columns = empty_columns(len(messages), identity.observation_size, identity.action_size)
        good = np.zeros(len(messages), bool)
        wrong: list[tuple[str, int]] = []
        for rows, layout, found in self._topic.decode(messages):
            misfits = [name for name in _ARRAYS if layout.lengths[name] != sizes[name]]
            if misfits:
                name = misfits[0]
                wrong.append((f'{self._where}: transition {int(found["number"][0])} has '
                              f'{layout.lengths[name]} numbers of {name}, but task '
                              f'{identity.task["name"]} and robot {identity.robot["name"]} have '
                              f'{sizes[name]}', len(rows)))
                continue
            good[rows] = True
            numbers[rows] = np.minimum(found['number'], _MOST)
            for name in (*_ARRAYS, 'reward', 'episode', 'step', 'log_probability'):
                getattr(columns, name)[rows] = found[name]
            for name in ('terminated', 'truncated', 'intervened'):
                getattr(columns, name)[rows] = found[name] != 0
            columns.policy_version[rows, 0] = found['incarnation']
            columns.policy_version[rows, 1] = np.minimum(found['counter'], _MOST)
        self._fitting |= bool(good.any())
        for what, count in wrong:
            if not self._fitting:
                raise DatasetError(f'{what}; give the task and robot it was recorded with')
            self._tally.damaged(what)
            self._tally.leave_out('damaged messages', count)
        columns.source[:] = np.where(columns.policy_version.any(1), Source.POLICY, Source.UNKNOWN)
        if good.all():
            return numbers, columns
        return numbers[good], columns[good]
