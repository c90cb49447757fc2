"""The journal of a run: an append-only log on disk that survives being killed at any moment.

A journal is a folder of segments. A segment is a magic number and then frames::

    uint32 length of payload | uint32 CRC-32 of the rest | uint8 kind | int64 stamp, ns | payload

little endian. A frame reaches the page cache before :meth:`Journal.append` returns, so it survives
the death of the process; :meth:`Journal.sync` brings it to the disk, and is meant to be called from
a thread of its own, since it may take long. What a crash tore off at the end is set aside when the
journal is opened again; what stands before it is never changed.
"""

from __future__ import annotations

import array
import enum
import fcntl
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from async_mbrl.core.config import ConfigError
from async_mbrl.core.files import write_atomically

MAGIC = b'AMBRLJ01'
FORMAT = 2
"""Of what the records hold; stands in ``meta.json``."""
SEGMENT_BYTES = 16 * 1024 * 1024
MAXIMUM_PAYLOAD = 4 * 1024 * 1024
MAXIMUM_META_BYTES = 1024 * 1024
SYNC_PERIOD_S = 0.05
"""Time that appended frames are gathered before they are brought to the disk."""

_FRAME = struct.Struct('<II')
_HEAD = struct.Struct('<Bq')
_OFFSET_BITS = 32
_SEGMENT_MOST = SEGMENT_BYTES + MAXIMUM_PAYLOAD + 1024
"""Bytes that no segment has: a frame is begun only below ``SEGMENT_BYTES``."""


class JournalError(RuntimeError):
    """The journal cannot be written; what it holds so far is intact."""


class RecordKind(enum.IntEnum):
    """What a record holds: a serialised message, or JSON for SESSION."""

    SESSION = 0
    EPISODE_COMMAND = 1
    CONTROL_STEP = 2
    TRANSITION = 3
    RUN_STATUS = 4
    CONTROLLER_STATUS = 5
    LEARNER_STATUS = 6
    GUARD_STATUS = 7
    BRIDGE_STATUS = 8


_KINDS = frozenset(RecordKind)
_LIKE_FRAME = re.compile(rb'(?!\0{8})(?=..[\0-\x40]\0.{13})', re.DOTALL)
"""Of a length that a payload may have; zeros, which a crash may leave, are none."""


class Record(NamedTuple):
    """One entry of the journal."""

    kind: RecordKind
    stamp_ns: int
    payload: bytes


class Segment(NamedTuple):
    """One file of a journal as it was read.

    Attributes:
        records: those before the first frame that is incomplete or damaged.
        whole: bytes up to there; 0 if not even its beginning is.
        rest: bytes that follow.
    """

    records: list[Record]
    whole: int
    rest: bytes


def read_records(folder: Path) -> Iterator[Record]:
    """Read a journal from the beginning up to the first frame that is incomplete or damaged.

    May be used on a journal that is being written.
    """
    for path in segments(folder):
        segment = read_segment(path)
        yield from segment.records
        if segment.rest or not segment.whole:
            return


def segments(folder: Path) -> list[Path]:
    """Give the files of a journal in order."""
    return sorted(path for path in folder.glob('*.log') if path.stem.isdigit())


def read_segment(path: Path) -> Segment:
    """Read one file of a journal.

    Raises:
        ConfigError: it is larger than any that a journal has.
    """
    data = _read(path)
    records = []
    end = len(MAGIC) if data.startswith(MAGIC) else 0
    for offset, record in _frames(data):
        end = offset + _FRAME.size + _HEAD.size + len(record.payload)
        records.append(record)
    return Segment(records, end, data[end:])


def has_frame(data: bytes) -> bool:
    """Say whether a whole frame stands anywhere in bytes, which no crash leaves behind damage."""
    return any(_frame(data, match.start()) is not None for match in _LIKE_FRAME.finditer(data))


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Read what a journal says of its run; None if there is no journal.

    Raises:
        ConfigError: the file is there but cannot be read.
    """
    path = folder / 'meta.json'
    try:
        if path.stat().st_size > MAXIMUM_META_BYTES:
            raise ValueError(f'more than {MAXIMUM_META_BYTES} bytes')
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: cannot be read ({error}); choose another run folder') from None
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: not the description of a journal; choose another run folder')
    return content


class Journal:
    """The journal of a run, open for writing; reading transitions by number included.

    :meth:`append` and :meth:`read_transitions` belong to one thread, :meth:`sync` to another.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], *,
                 segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open a journal, or make a new one.

        Args:
            folder: where its files are.
            meta: identifies task and robot, as JSON; an existing journal must have the same.
            segment_bytes: size at which the next segment is begun.

        Raises:
            ConfigError: the journal is of another task or robot, or in use by another process.
        """
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._check(meta)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_file)
            raise ConfigError(f'{folder}: another process is writing this run; stop it or choose '
                              f'another run folder') from None
        if not (folder / 'meta.json').exists():
            write_atomically(folder / 'meta.json', json.dumps(dict(meta), indent=2) + '\n')
        self._lock = threading.Lock()
        self._transitions = array.array('Q')
        self._retired: list[int] = []
        self._dirty = True
        self._new_segment = True
        self._sync_error: OSError | None = None
        self.torn_bytes = 0
        self._segment, self._size = self._recover()
        self._file = os.open(self._path(self._segment),
                             os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._size == 0:
            self._write(MAGIC)

    @property
    def transitions(self) -> int:
        """Number of transitions in the journal."""
        return len(self._transitions)

    def append(self, kind: RecordKind, stamp_ns: int, payload: bytes) -> None:
        """Append a record; it survives the death of the process when this returns.

        Raises:
            JournalError: it could not be written, or an earlier one not be synced to the disk.
        """
        if self._sync_error is not None:
            raise JournalError(f'{self._folder}: {self._sync_error}')
        if len(payload) > MAXIMUM_PAYLOAD:
            raise JournalError(f'a record of {len(payload)} bytes is above {MAXIMUM_PAYLOAD}')
        if self._size >= self._segment_bytes:
            self._next_segment()
        body = _HEAD.pack(kind, stamp_ns) + payload
        if kind == RecordKind.TRANSITION:
            self._transitions.append(self._segment << _OFFSET_BITS | self._size)
        try:
            self._write(_FRAME.pack(len(payload), zlib.crc32(body)) + body)
        except JournalError:
            if kind == RecordKind.TRANSITION:
                self._transitions.pop()
            raise

    def read_transitions(self, first: int, count: int) -> list[bytes]:
        """Give up to ``count`` payloads of transitions from number ``first`` on."""
        payloads = []
        opened: dict[int, int] = {}
        try:
            for entry in self._transitions[first:first + count]:
                segment, offset = entry >> _OFFSET_BITS, entry & (1 << _OFFSET_BITS) - 1
                if segment not in opened:
                    opened[segment] = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
                file = opened[segment]
                length, _ = _FRAME.unpack(os.pread(file, _FRAME.size, offset))
                payloads.append(os.pread(file, length, offset + _FRAME.size + _HEAD.size))
        finally:
            for file in opened.values():
                os.close(file)
        return payloads

    def sync(self) -> None:
        """Bring to the disk what was appended; errors are raised by the next append."""
        with self._lock:
            if not self._dirty:
                return
            retired, self._retired = self._retired, []
            file, new_segment = self._file, self._new_segment
            self._dirty = self._new_segment = False
        try:
            for old in retired:
                os.fsync(old)
                os.close(old)
            os.fdatasync(file)
            if new_segment:
                folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            self._sync_error = error

    def close(self) -> None:
        """Sync and close; no other thread may use the journal any more."""
        self.sync()
        os.close(self._file)
        os.close(self._lock_file)

    def _check(self, meta: Mapping[str, Any]) -> None:
        found = read_meta(self._folder)
        if found is None:
            return
        wanted = json.loads(json.dumps(dict(meta)))
        for key, old, new in _differences(found, wanted):
            raise ConfigError(
                f'{self._folder}: this run folder was made with {key} {old!r}, not {new!r}; resume '
                f'it with the same task and robot, or choose another run folder')

    def _recover(self) -> tuple[int, int]:
        """Index the transitions, set aside what is torn; give last segment and its size."""
        paths = segments(self._folder)
        for place, path in enumerate(paths):
            data = _read(path)
            segment = int(path.stem)
            end = len(MAGIC) if data.startswith(MAGIC) else 0
            for offset, record in _frames(data):
                if record.kind == RecordKind.TRANSITION:
                    self._transitions.append(segment << _OFFSET_BITS | offset)
                end = offset + _FRAME.size + _HEAD.size + len(record.payload)
            if end == len(data) and end > 0:
                continue
            # Numbering must stay without gaps, so nothing after the damage may be used.
            self.torn_bytes = len(data) - end
            if self.torn_bytes:
                with open(path.with_suffix('.torn'), 'ab') as torn:
                    torn.write(data[end:])
            os.truncate(path, end)
            for later in paths[place + 1:]:
                self.torn_bytes += later.stat().st_size
                later.rename(later.with_suffix('.torn'))
            return segment, end
        if not paths:
            return 0, 0
        return int(paths[-1].stem), paths[-1].stat().st_size

    def _next_segment(self) -> None:
        path = self._path(self._segment + 1)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with self._lock:
            self._retired.append(self._file)
            self._file, self._new_segment, self._dirty = file, True, True
        self._segment += 1
        self._size = 0
        self._write(MAGIC)

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            os.truncate(self._path(self._segment), self._size)
            raise JournalError(f'{self._folder}: {error}') from error
        self._size += len(data)
        with self._lock:
            self._dirty = True

    def _path(self, segment: int) -> Path:
        return self._folder / f'{segment:06d}.log'


class SyncThread:
    """Bring a journal to the disk all the while, so that nobody has to wait for the disk."""

    def __init__(self, journal: Journal, period_s: float = SYNC_PERIOD_S) -> None:
        """Start; at power loss what was appended in the last period, and a sync, is lost."""
        self._journal = journal
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='journal_sync', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the journal may be closed then."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._journal.sync()


def _read(path: Path) -> bytes:
    """Read a segment.

    Raises:
        ConfigError: it is larger than any that a journal has.
    """
    size = path.stat().st_size
    if size > _SEGMENT_MOST:
        raise ConfigError(f'{path}: {size} bytes, more than the {_SEGMENT_MOST} of a segment; not '
                          'part of a journal: move it away')
    return path.read_bytes()


def _frames(data: bytes) -> Iterator[tuple[int, Record]]:
    """Yield (offset, record) of each frame of a segment up to the first that is not whole."""
    if not data.startswith(MAGIC):
        return
    offset = len(MAGIC)
    while (record := _frame(data, offset)) is not None:
        yield offset, record
        offset += _FRAME.size + _HEAD.size + len(record.payload)


def _frame(data: bytes, offset: int) -> Record | None:
    """Give the frame at a place; None if there is no whole one."""
    begin = offset + _FRAME.size
    if begin + _HEAD.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, offset)
    end = begin + _HEAD.size + length
    if (length > MAXIMUM_PAYLOAD or end > len(data)
            or zlib.crc32(memoryview(data)[begin:end]) != crc):
        return None
    kind, stamp_ns = _HEAD.unpack_from(data, begin)
    return Record(RecordKind(kind), stamp_ns, data[begin + _HEAD.size:end]) if (
        kind in _KINDS) else None


def _differences(old: Any, new: Any, key: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old, new) where two JSON values differ, in the order of the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*new, *old]):
            where = f'{key}.{name}' if key else name
            yield from _differences(old.get(name), new.get(name), where)
    elif old != new:
        yield key, old, new
