"""Import of what this project recorded itself: journals, and bags with a topic of transitions.

What comes out is what the buffer of a live learner got, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from async_mbrl.collection.journal import (
    FORMAT,
    RecordKind,
    has_frame,
    read_meta,
    read_segment,
    segments,
)
from async_mbrl.datasets.bags import Bag
from async_mbrl.datasets.cdr import TRANSITION
from async_mbrl.datasets.columns import Columns, Source, empty_columns, joined
from async_mbrl.datasets.identity import DatasetError, Identity, identity_from_mapping
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.topic import Topic

TYPE = 'async_mbrl_interfaces/msg/Transition'

BATCH = 4096
"""Transitions read at a time."""

_ARRAYS = ('observation', 'action_requested', 'action_applied', 'next_observation')
_MOST = 2**63 - 1


def journal_identity(folder: Path) -> Identity:
    """Give what a journal was made with.

    Raises:
        DatasetError: there is no journal, or it is of another format.
    """
    meta = read_meta(folder)
    if meta is None:
        raise DatasetError(f'{folder}: no journal of a run')
    if meta.get('format') != FORMAT:
        raise DatasetError(f'{folder}: a journal of format {str(meta.get("format"))[:20]}, but '
                           f'this version reads {FORMAT}; import it with the version that made it')
    return identity_from_mapping(meta, str(folder / 'meta.json'))


def read_journal(folder: Path, identity: Identity, tally: Tally) -> Iterator[Columns]:
    """Read the transitions of the journal of a run; also of one that goes on, or died.

    Raises:
        DatasetError: a transition is not of this identity; or damage that is not to be skipped.
    """
    yield from columns_of_messages(_payloads(folder, tally), identity, tally, str(folder))


def _payloads(folder: Path, tally: Tally) -> Iterator[bytes]:
    """Give the transitions of a journal; behind damage those of the segments that follow."""
    paths = segments(folder)
    for path in paths:
        segment = read_segment(path)
        for record in segment.records:
            if record.kind == RecordKind.TRANSITION:
                yield record.payload
        last = path == paths[-1]
        if last and segment.rest and not has_frame(segment.rest):
            tally.note(f'{path}: {len(segment.rest)} bytes at its end are torn or damaged, as a '
                       'crash leaves them; what stands before them was taken')
        elif segment.rest or not (segment.whole or last):
            tally.damaged(f'{path}: damaged at byte {segment.whole}; {len(segment.rest)} bytes '
                          'from there on cannot be read')


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
        self._doubtful: tuple[np.ndarray, Columns] | None = None

    def take(self, messages: Sequence[bytes | memoryview]) -> Iterator[Columns]:
        if not messages:
            return
        numbers, columns = self._decode(messages)
        if len(numbers):
            yield from self._go_on(numbers, columns)

    def rest(self) -> Iterator[Columns]:
        if self._doubtful is not None:
            yield from self._go_on(*self._doubtful, last=True)
        if self._kept is not None:
            yield self._kept

    def _go_on(self, numbers: np.ndarray, columns: Columns, last: bool = False
               ) -> Iterator[Columns]:
        if self._doubtful is not None and not last:
            numbers = np.concatenate([self._doubtful[0], numbers])
            columns = joined([self._doubtful[1], columns])
        self._doubtful = None
        if self._next is None:
            # A first number above the second is a wrong one, not that of the first row.
            wrong = len(numbers) > 1 and 0 < numbers[1] < numbers[0] and (
                len(numbers) == 2 or numbers[2] == numbers[1] + 1)
            self._next = int(numbers[1]) - 1 if wrong else int(numbers[0])
            if self._next:
                self._tally.note(f'{self._where}: begins with transition {self._next}')
        in_order = numbers[0] == self._next and (np.diff(numbers) == 1).all()
        if in_order:
            self._next = int(numbers[-1]) + 1
            self._shift(columns, slice(None))
        else:
            columns = self._sort_out(numbers, columns, last)
        if not len(columns):
            return
        if self._kept is not None:
            columns = joined([self._kept, columns])
        self._kept = columns[-1:]
        if len(columns) > 1:
            yield columns[:-1]

    def _sort_out(self, numbers: np.ndarray, columns: Columns, last: bool) -> Columns:
        """Drop what comes again, and end episodes where numbers are missing.

        Behind a number that jumps, the next one tells: if that goes on from before, only the one
        was wrong. So the last row waits for the next batch, unless this is the ``last`` one.
        """
        keep = np.ones(len(numbers), bool)
        before = -1         # the row kept last, -1: that of the batch before
        listed = numbers.tolist()
        for row, number in enumerate(listed):
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
                if row + 1 == len(listed) and not last:
                    keep[row] = False
                    self._doubtful = numbers[row:], columns[row:]
                    break
                if row + 1 < len(listed) and listed[row + 1] == self._next + 1:
                    keep[row] = False
                    self._tally.damaged(f'{self._where}: transition {self._next} says that it is '
                                        f'number {number}')
                    self._tally.leave_out('damaged messages')
                    continue
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
            by = np.where(columns.policy_version[rows].any(1), Source.POLICY, Source.UNKNOWN)
            columns.source[rows] = np.where(found['takeover'] != 0, Source.HUMAN, by)
        self._fitting |= bool(good.any())
        for what, count in wrong:
            if not self._fitting:
                raise DatasetError(f'{what}; give the task and robot it was recorded with')
            self._tally.damaged(what)
            self._tally.leave_out('damaged messages', count)
        if good.all():
            return numbers, columns
        return numbers[good], columns[good]
