"""The transitions of a buffer in a file: mapped into memory, bounded, and safe from kill -9.

The file is a page that says what it is, a page with the number of transitions committed, the
*stage*, and the tables::

    magic | uint32 length | uint32 CRC-32 | description, JSON  ...  int64 committed  ...
    stage: rows, facts, versions, checks (STAGED rows each)  ...  rows, facts, versions, checks

A transition is copied into the stage, then the number committed is raised, then it is copied into
its row of the tables. Why no kill can tear what is committed, nor lose any of it:

- The number committed is raised by one aligned store of 8 bytes: it is the old or the new one.
- The stage is a ring of its own, in which number ``n`` has slot ``n % STAGED``. At most half of it
  is written at a time, so while numbers that are not committed are written there, the newest
  ``STAGED / 2`` that are committed stay whole.
- A row of the tables is touched only after its new transition is committed, and whole in the stage.
  So the oldest transition is whole until it is no longer one of the newest ``capacity``.
- A row that a kill tore belongs to the last batch, of ``STAGED / 2`` at most; when the file is
  opened, these are copied from the stage again.

The order of the stores is that of the program: a process is killed between two instructions, and
what those before have stored is in the page cache, which outlives it. Other processes do not read
meanwhile; a lock sees to that. At a loss of power the disk may hold any mixture. This is what the
checks are for: one a transition, all verified when the file is opened.

Room is taken from the disk before it is used, twice as much each time, and refused with an error;
a mapped page for which the disk has no room would end the process. Some room is left to others.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import struct
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from async_mbrl.learning.checkpoint import CheckpointError, differences
from async_mbrl.learning.replay_tables import (
    FIRST_ROWS,
    Block,
    Sizes,
    Tables,
    checks_of,
    gathered,
    places,
)

NAME = 'transitions.ring'
MAGIC = b'AMBRLT01'
STAGED = 128
"""Transitions that the stage has room for."""

RESERVE_BYTES = 64 * 1024**2
RESERVE_SHARE = 0.01
"""The lesser of so many bytes and this share of the disk is left to others: above all to the
journal, without which the run ends."""

_PAGE = 4096
_BLOCK = 512
"""Bytes in which the system counts the room that a file has taken."""
_HEAD = struct.Struct('<8sII')
_KINDS: tuple[np.dtype[Any], ...] = tuple(np.dtype(kind) for kind in ('<f4', '<f4', '<i8', '<u8'))
"""Of the tables: rows, facts, versions, checks."""
_VERIFIED = 16_384
"""Transitions that are verified at a time."""


class ReplayDamaged(RuntimeError):
    """A file of transitions is not whole; the message says what is wrong with it."""


class ReplayFile:
    """Tables in a file; see the module for what survives what."""

    next_number: int

    def __init__(self, path: Path, file: int, sizes: Sizes) -> None:
        """Map a file that has its length; :meth:`open` and :meth:`create` use this."""
        self.path = path
        self._file = file
        self._close = weakref.finalize(self, _let_go, file)
        self._capacity = sizes.capacity
        self._room = 0
        self._widths = (*sizes.widths, 1)
        self._map = mmap.mmap(file, _length(sizes))
        self._committed = np.frombuffer(self._map, np.int64, 1, _PAGE)
        end = 2 * _PAGE
        self._stage, end = self._tables(STAGED, end)
        self._begin = end
        tables, end = self._tables(sizes.capacity, end)
        self._arrays, self._checks = Block(*tables[:3]), tables[3][:, 0]
        self.rows, self.facts, self.versions = (torch.from_numpy(table) for table in tables[:3])
        self.next_number = int(self._committed[0])

    @staticmethod
    def open(path: Path, sizes: Sizes, about: Mapping[str, Any]) -> ReplayFile | None:
        """Open a file and go on with what is committed; None if there is none.

        Args:
            path: of the file.
            sizes: of the transitions.
            about: what they belong to, as JSON has it.

        Raises:
            ReplayDamaged: it is not whole.
            CheckpointError: it belongs to something else, or another process uses it.
            OSError: it cannot be read.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            _lock(file, path)
            # Another one may have put a file in its place before it was locked.
            if not path.exists() or not os.path.samestat(os.fstat(file), path.stat()):
                raise _in_use(path)
            _remove_leftovers(path)
            _check_description(file, path, sizes, about)
        except BaseException:
            os.close(file)
            raise
        found = ReplayFile(path, file, sizes)
        try:
            found._recover()
        except BaseException:
            found.close()
            raise
        return found

    @staticmethod
    def create(path: Path, sizes: Sizes, about: Mapping[str, Any],
               content: Tables | None = None) -> ReplayFile:
        """Make a file; with content it replaces one that stands there once it is complete.

        Args:
            path: of the file; its folder is made if it does not exist.
            sizes: of the transitions.
            about: what they belong to, ready for JSON.
            content: what is copied into it, of the same sizes; None for nothing.

        Raises:
            CheckpointError: another process has made the same file, empty, meanwhile.
            OSError: the disk does not take it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
        try:
            try:
                _lock(file, path)
                os.fchmod(file, 0o644)
                text = json.dumps(_description(sizes, about), sort_keys=True).encode()
                os.posix_fallocate(file, 0, 2 * _PAGE)
                os.pwrite(file, _HEAD.pack(MAGIC, len(text), zlib.crc32(text)) + text, 0)
                os.ftruncate(file, _length(sizes))
            except BaseException:
                os.close(file)
                raise
            made = ReplayFile(path, file, sizes)
            try:
                made._take_room(0)
                if content is not None:
                    made._copy(content)
                made.flush()
                if content is None:     # two that begin at the same time must not both succeed
                    os.link(name, path)
                    os.unlink(name)
                else:
                    os.replace(name, path)
            except BaseException:
                made.close()
                raise
        except FileExistsError:
            os.unlink(name)
            raise _in_use(path) from None
        except BaseException:
            os.unlink(name)
            raise
        _remove_leftovers(path)
        return made

    def write(self, block: Block) -> None:
        """Add transitions, which get the next numbers; they survive kill -9 when this returns.

        Raises:
            OSError: the disk has no room; nothing has changed.
        """
        self._take_room(self.next_number + block.length)
        checks = checks_of(self.next_number, block)
        for begin in range(0, block.length, STAGED // 2):
            part = slice(begin, begin + STAGED // 2)
            self._put_in_stage(self.next_number, block.part(part), checks[part])
            self._commit(min(STAGED // 2, block.length - begin))
            self._put_in_tables(self.next_number, block.part(part), checks[part])

    def block(self, first: int, count: int) -> Block:
        """Give transitions that are kept, from number ``first`` on."""
        return gathered(self._arrays, first, count, self._capacity)

    def checks(self, first: int, count: int) -> np.ndarray:
        """Give the check of each of these, (count,), uint64."""
        return np.concatenate([self._checks[:0], *(
            self._checks[there] for there, _ in places(first, count, self._capacity))])

    def flush(self) -> None:
        """Bring to the disk what is not there yet; for the power to fail.

        Raises:
            OSError: the disk does not take it.
        """
        self._map.flush()

    def close(self) -> None:
        """Let another one use the file; tables that are in use stay mapped until they are not."""
        self._close()

    def _tables(self, rows: int, begin: int) -> tuple[tuple[np.ndarray, ...], int]:
        """Give tables of the mapping, one after the other, each from a page on, and their end."""
        tables = []
        for kind, width in zip(_KINDS, self._widths, strict=True):
            tables.append(np.frombuffer(self._map, kind, rows * width, begin).reshape(rows, width))
            begin += _pages(rows * width * kind.itemsize)
        return tuple(tables), begin

    def _take_room(self, transitions: int) -> None:
        """Make sure that the disk has room for the first rows of the tables."""
        needed = min(transitions, self._capacity)
        if needed <= self._room and self._room:
            return
        room = self._room or min(FIRST_ROWS, self._capacity)
        while room < needed:
            room = min(self._capacity, 2 * room)
        self._leave_reserve(self._begin + sum(
            room * width * kind.itemsize
            for kind, width in zip(_KINDS, self._widths, strict=True)))
        os.posix_fallocate(self._file, 2 * _PAGE, self._begin - 2 * _PAGE)
        begin = self._begin
        for kind, width in zip(_KINDS, self._widths, strict=True):
            os.posix_fallocate(self._file, begin, room * width * kind.itemsize)
            begin += _pages(self._capacity * width * kind.itemsize)
        self._room = room

    def _leave_reserve(self, size: int) -> None:
        """Make sure that the disk has more room than the file needs to take so many bytes.

        Raises:
            OSError: it has not; nothing was taken.
        """
        more = size - os.fstat(self._file).st_blocks * _BLOCK
        disk = os.fstatvfs(self._file)
        reserve = min(RESERVE_BYTES, int(RESERVE_SHARE * disk.f_blocks * disk.f_frsize))
        if 0 < more > disk.f_bavail * disk.f_frsize - reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _put_in_stage(self, first: int, block: Block, checks: np.ndarray) -> None:
        for there, here in places(first, block.length, STAGED):
            for table, part in zip(self._stage, (*block.part(here), checks[here, None]),
                                   strict=True):
                table[there] = part

    def _commit(self, count: int) -> None:
        # numpy stores an aligned int64 as one word.
        self._committed[0] = self.next_number + count

    def _put_in_tables(self, first: int, block: Block, checks: np.ndarray) -> None:
        self.next_number = first + block.length
        for there, here in places(first, block.length, self._capacity):
            for table, part in zip(self._arrays, block.part(here), strict=True):
                table[there] = part
            self._checks[there] = checks[here]

    def _recover(self) -> None:
        """Copy the last batch from the stage again, and verify all.

        Raises:
            ReplayDamaged: a transition is not what was written.
        """
        committed = int(self._committed[0])
        if committed < 0:
            raise ReplayDamaged(f'it says that {committed} transitions are committed')
        self._take_room(committed)
        first = max(0, committed - min(STAGED // 2, self._capacity))
        staged = gathered(Block(*self._stage[:3]), first, committed - first, STAGED)
        checks = np.concatenate([self._checks[:0], *(
            self._stage[3][there, 0] for there, _ in places(first, committed - first, STAGED))])
        self._verify(first, staged, checks)
        self._put_in_tables(first, staged, checks)
        for begin in range(max(0, committed - self._capacity), committed, _VERIFIED):
            count = min(_VERIFIED, committed - begin)
            self._verify(begin, self.block(begin, count), self.checks(begin, count))

    @staticmethod
    def _verify(first: int, block: Block, checks: np.ndarray) -> None:
        wrong = checks_of(first, block) != checks
        if wrong.any():
            raise ReplayDamaged(f'transition {first + int(wrong.argmax())} is not what was written')

    def _copy(self, content: Tables) -> None:
        committed = content.next_number
        self._take_room(committed)
        for begin in range(max(0, committed - self._capacity), committed, _VERIFIED):
            count = min(_VERIFIED, committed - begin)
            block = content.block(begin, count)
            self._put_in_tables(begin, block, checks_of(begin, block))
        last = min(STAGED // 2, committed, self._capacity)
        block = self.block(committed - last, last)
        self._put_in_stage(committed - last, block, checks_of(committed - last, block))
        self.next_number = committed
        self._commit(0)


def put_aside(path: Path) -> Path:
    """Move a file of transitions out of the way, in the place of one moved so before."""
    aside = path.with_name(f'{path.name}.damaged')
    os.replace(path, aside)
    return aside


def _description(sizes: Sizes, about: Mapping[str, Any]) -> dict[str, Any]:
    return {**about, **asdict(sizes), 'staged': STAGED}


def _check_description(file: int, path: Path, sizes: Sizes, about: Mapping[str, Any]) -> None:
    """Check what a file says of itself.

    Raises:
        ReplayDamaged: it cannot be read, or the file is not as long as it has to be.
        CheckpointError: it is of something else.
    """
    head = os.pread(file, _PAGE, 0)
    if len(head) < _PAGE or not head.startswith(MAGIC):
        raise ReplayDamaged(f'it does not begin as a file of transitions does ({MAGIC!r})')
    _, length, check = _HEAD.unpack_from(head)
    text = head[_HEAD.size:_HEAD.size + length]
    if zlib.crc32(text) != check:
        raise ReplayDamaged('the CRC-32 of its description is wrong')
    try:
        found = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ReplayDamaged(f'its description cannot be read ({error})') from None
    wanted = json.loads(json.dumps(_description(sizes, about)))
    if found != wanted:
        raise CheckpointError(f'{path} belongs to something else: {differences(found, wanted)}; '
                              'use another run folder or the settings it was made with')
    size = os.fstat(file).st_size
    if size != _length(sizes):
        raise ReplayDamaged(f'it has {size} bytes, not {_length(sizes)}')


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path) from None


def _remove_leftovers(path: Path) -> None:
    """Remove files that processes which were killed have not completed; who makes one, locks it."""
    for left in path.parent.glob(f'.{path.name}.*'):
        try:
            file = os.open(left, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:       # completed at this moment
            continue
        try:
            _lock(file, left)
            left.unlink(missing_ok=True)
        except CheckpointError:
            pass
        finally:
            os.close(file)


def _in_use(path: Path) -> CheckpointError:
    return CheckpointError(f'{path}: another process is using it; stop that one or choose another '
                           'run folder')


def _let_go(file: int) -> None:
    # The mapping has the file open, too, and with it the lock, as long as a tensor is in use.
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _length(sizes: Sizes) -> int:
    """Give the bytes of a file; those that were never written take no room on the disk."""
    return 2 * _PAGE + sum(
        _pages(rows * width * kind.itemsize) for rows in (STAGED, sizes.capacity)
        for kind, width in zip(_KINDS, (*sizes.widths, 1), strict=True))
