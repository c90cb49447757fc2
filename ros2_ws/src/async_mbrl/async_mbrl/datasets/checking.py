"""What may be wrong with a dataset: found in one pass, told with the place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.statistics import runs
from async_mbrl.datasets.store import DatasetAbout, read_about, read_shard

ACTION_LIMIT = 1.0 + 1e-3
"""Of a normalised action; rounding and a filter's last digit are no finding."""

MOST_POSITION_RAD = 4.0 * np.pi
MOST_VELOCITY_RAD_S = 50.0
"""Beyond these a joint of an arm is likely told in degrees."""

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        error: the data are wrong or missing; else it is worth a look.
        what: it is, with what to do about it.
        count: how often.
        place: the first time.
    """

    error: bool
    what: str
    count: int
    place: str

    def __str__(self) -> str:
        kind = 'error' if self.error else 'note'
        times = '' if self.count == 1 else f'{self.count} times, first '
        return f'{kind}: {self.what}: {times}{self.place}'


def check(folder: Path) -> list[Finding]:
    """Check a dataset; damaged shards are findings, too, and the others are checked.

    Raises:
        DatasetError: no dataset, or its index is damaged.
    """
    about = read_about(folder)
    checker = _Checker(about)
    for shard in about.shards:
        try:
            columns = read_shard(about, shard)
        except DatasetError as error:
            checker.damaged(str(error), shard.rows)
            continue
        checker.take(columns)
    return checker.findings()


class _Checker:
    def __init__(self, about: DatasetAbout) -> None:
        self._identity = about.identity
        self._found: dict[str, Finding] = {}
        self._row = 0
        self._last: Columns | None = None
        self._behind_damage = False
        self._numbers: set[int] = set()
        self._hashes: dict[bytes, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    def findings(self) -> list[Finding]:
        """Give what was found, errors first."""
        if self._last is not None:
            self._end(self._last, 0, self._row - 1)
        return sorted(self._found.values(), key=lambda finding: not finding.error)

    def damaged(self, what: str, rows: int) -> None:
        """Note a shard that cannot be read; what stands beside it is judged by itself."""
        self._found[what] = Finding(True, what, 1, f'its {rows} transitions were not checked')
        self._row += rows
        self._last = None
        self._behind_damage = True
        self._hash = hashlib.blake2b(digest_size=16)

    def take(self, columns: Columns) -> None:
        """Check the rows of one shard."""
        if not len(columns):
            return
        self._values(columns)
        self._episodes(columns)
        self._chain(columns)
        self._row += len(columns)
        self._last = columns[-1:]
        self._behind_damage = False

    def _values(self, columns: Columns) -> None:
        for name in ('observation', 'next_observation', 'action_requested', 'action_applied'):
            self._note(True, f'{name} is not finite', ~np.isfinite(getattr(columns, name)).all(1),
                       columns)
        self._note(True, 'reward is not finite', ~np.isfinite(columns.reward), columns)
        self._note(True, 'log_probability is infinite', np.isinf(columns.log_probability), columns)
        for name in ('action_requested', 'action_applied'):
            beyond = (np.abs(getattr(columns, name)) > ACTION_LIMIT).any(1)
            self._note(True, f'{name} is beyond 1, the greatest normalised action', beyond, columns)
        self._note(True, 'both terminated and truncated', columns.terminated & columns.truncated,
                   columns)
        for part, most, unit in (('position', MOST_POSITION_RAD, 'rad'),
                                 ('velocity', MOST_VELOCITY_RAD_S, 'rad/s')):
            place = self._identity.part(part)
            if place is not None:
                far = (np.abs(columns.observation[:, place]) > most).any(1)
                self._note(False, f'{part} of a joint is beyond {most:.3g} {unit}; are they in '
                           'degrees?', far, columns)

    def _episodes(self, columns: Columns) -> None:
        """Look at where episodes begin and end, and at what is in them."""
        edges = runs(columns)
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            number = int(columns.episode[begin])
            going_on = begin == 0 and self._last is not None and self._last.episode[0] == number
            if not going_on:
                if begin > 0:
                    self._end(columns, int(begin) - 1, self._row + int(begin) - 1)
                elif self._last is not None:
                    self._end(self._last, 0, self._row - 1)
                # What damage left of an episode may begin anywhere, and have been met before it.
                rest = begin == 0 and self._behind_damage
                if number in self._numbers and not rest:
                    self._add(True, 'an episode number comes again', columns, int(begin))
                self._numbers.add(number)
                if columns.step[begin] != 0 and not rest:
                    self._add(False, 'an episode does not begin with step 0', columns, int(begin))
            rows = columns[int(begin):int(end)]
            for values in (rows.observation, rows.action_applied, rows.reward):
                self._hash.update(np.ascontiguousarray(values).data)

    def _end(self, columns: Columns, row: int, place: int) -> None:
        """Judge an episode by its last row, and forget its content but for the hash."""
        number = int(columns.episode[row])
        at = _place(place, columns, row)
        if not (columns.terminated[row] or columns.truncated[row]):
            self._put(False, 'an episode ends without being terminated or truncated', at)
        digest = self._hash.digest()
        self._hash = hashlib.blake2b(digest_size=16)
        if digest in self._hashes:
            self._put(False, 'an episode has the same content as another',
                      f'episode {number} as episode {self._hashes[digest]}')
        self._hashes.setdefault(digest, number)

    def _chain(self, columns: Columns) -> None:
        """Look at pairs of rows of one episode."""
        for before, after, first in self._pairs(columns):
            same = before.episode == after.episode
            over = before.terminated | before.truncated
            follows = after.step == before.step + 1
            self._note(True, 'steps are missing or out of order within an episode',
                       same & ~follows & ~over, after, first)
            self._note(False, 'steps are missing behind a cut within an episode',
                       same & ~follows & over, after, first)
            self._note(True, 'an episode goes on after it was terminated or truncated',
                       same & follows & over, after, first)
            with np.errstate(invalid='ignore'):     # what is not finite is told already
                apart = np.abs(before.next_observation - after.observation)
                allowed = _ABSOLUTE + _RELATIVE * np.abs(after.observation)
            self._note(True, 'next_observation is not the observation of the next step',
                       same & follows & ~over & (apart > allowed).any(1), after, first)

    def _pairs(self, columns: Columns) -> Iterator[tuple[Columns, Columns, int]]:
        """Give rows, those that follow them, and the number of the first of these."""
        if self._last is not None:
            yield self._last, columns[:1], self._row
        if len(columns) > 1:
            yield columns[:-1], columns[1:], self._row + 1

    def _note(self, error: bool, what: str, rows: np.ndarray, columns: Columns,
              first: int | None = None) -> None:
        found = np.flatnonzero(rows)
        if len(found):
            begin = self._row if first is None else first
            self._put(error, what, _place(begin + int(found[0]), columns, int(found[0])),
                      len(found))

    def _add(self, error: bool, what: str, columns: Columns, row: int) -> None:
        self._put(error, what, _place(self._row + row, columns, row))

    def _put(self, error: bool, what: str, place: str, count: int = 1) -> None:
        before = self._found.get(what)
        self._found[what] = Finding(error, what, count + (before.count if before else 0),
                                    before.place if before else place)


def _place(number: int, columns: Columns, row: int) -> str:
    return (f'at transition {number} (episode {int(columns.episode[row])}, step '
            f'{int(columns.step[row])})')
