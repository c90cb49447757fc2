"""MCAP files as rosbag2 writes them, read record by record: what is whole is given, the rest named.

https://mcap.dev/spec: a magic number, then records ``uint8 opcode | uint64 length | content``,
little endian; a chunk holds records again, compressed or not.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import lz4.frame

from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.tally import Tally

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b'\x89MCAP0\r\n'
MAXIMUM_RECORD_BYTES = 256 * 1024**2
"""Of a record that is read."""
MAXIMUM_CHUNK_BYTES = 64 * 1024**2
"""Of a chunk before it was compressed; rosbag2 writes chunks of some MiB."""
UNPACKING = (zstd.ZstdError, RuntimeError, EOFError)
"""What is raised where compressed data are damaged."""

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 11, 15
_RECORD = struct.Struct('<BQ')
_TOP = struct.Struct('<HIQQ')          # of a message: channel, sequence, log time, publish time
_WHOLE = struct.Struct('<BQHIQQ')      # all that stands before the data of a message
_BATCH_BYTES = 1024**2
_BATCH = 4096
"""Messages of a chunk that are given at a time."""


class Message(NamedTuple):
    """A message as it was serialised, with the time at which it was logged, ns."""

    topic: str
    stamp_ns: int
    data: memoryview


class McapFile:
    """One file; may be one that its writer could not end."""

    def __init__(self, path: Path, name: Path | None = None) -> None:
        """Look at the beginning and, for its topics, the end.

        Args:
            path: where it is.
            name: what it was unpacked from, for messages; None if from nothing.

        Raises:
            DatasetError: not an MCAP file.
        """
        self.path = path
        self.name = name or path
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        self._data_end: int | None = None
        """Where the summary says that it begins, which is where the data end."""
        self._messages_told: int | None = None
        self._messages_seen = 0
        self._harmed = False
        with open(path, 'rb') as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DatasetError(f'{self.name}: not an MCAP file; name a rosbag2 folder')
            self._size = file.seek(0, 2)
            self.whole = self._read_summary(file)

    def topics(self, tally: Tally) -> dict[str, str]:
        """Give the type of each topic; of a file without an end by reading all of it."""
        if not self._channels:
            for _ in self.batches((), tally):
                pass
        return dict(self._channels.values())

    def batches(self, topics: Collection[str], tally: Tally) -> Iterator[list[Message]]:
        """Give the messages of some topics in the order of the file, about 1 MiB at a time.

        Args:
            topics: their names.
            tally: told of damage.

        Raises:
            DatasetError: damaged, and damage is not to be skipped.
        """
        loose: list[Message] = []
        loose_bytes = place = 0
        self._messages_seen, self._harmed = 0, False
        with open(self.path, 'rb') as file:
            file.seek(len(MAGIC))
            while True:
                place = file.tell()
                head = file.read(_RECORD.size)
                if len(head) < _RECORD.size:
                    break
                opcode, length = _RECORD.unpack(head)
                if opcode in (_DATA_END, _FOOTER):
                    place += len(head) + length
                    break
                read = opcode in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK)
                if (place + len(head) + length > self._size or not opcode
                        or (read and length > MAXIMUM_RECORD_BYTES)):
                    self._damaged(place, f'a record of kind {opcode} and {length} bytes; '
                                  f'{self._size - place} bytes from there on cannot be read', tally)
                    break
                if not read:
                    file.seek(length, 1)
                    continue
                content = file.read(length)
                if opcode == _CHUNK:
                    yield from self._chunk(content, place, topics, tally)
                    continue
                try:
                    found = self._record(opcode, memoryview(content), topics)
                except (struct.error, ValueError) as error:
                    self._damaged(place, str(error), tally)
                    continue
                if found is not None:
                    loose.append(found)
                    loose_bytes += length
                if loose_bytes >= _BATCH_BYTES:
                    yield loose
                    loose, loose_bytes = [], 0
        yield loose
        self._check_end(place, tally)

    def _check_end(self, place: int, tally: Tally) -> None:
        """See whether everything was met; ``place`` is behind the last record of the data."""
        if not self.whole:
            tally.note(f'{self.name}: its writer has not ended it; what stands in it was taken')
        elif self._harmed:
            return
        elif self._data_end is not None and place != self._data_end:
            self._damaged(place, f'its data end there, and not at byte {self._data_end}', tally)
        elif self._messages_told is not None and self._messages_seen != self._messages_told:
            self._damaged(place, f'up to there {self._messages_seen} messages, but its summary '
                          f'tells of {self._messages_told}', tally)

    def _damaged(self, place: int, what: str, tally: Tally) -> None:
        self._harmed = True
        tally.damaged(f'{self.name}: damaged at byte {place}: {what}')

    def _chunk(self, content: bytes, place: int, topics: Collection[str],
               tally: Tally) -> Iterator[list[Message]]:
        try:
            yield from self._messages(_unpack(content), topics)
        except (struct.error, ValueError) as error:
            self._damaged(place, f'a chunk of {len(content)} bytes ({error})', tally)

    def _messages(self, data: memoryview, topics: Collection[str]) -> Iterator[list[Message]]:
        found: list[Message] = []
        place, end, seen = 0, len(data), 0
        # The one loop that runs for every message of a bag.
        unpack, before, limit = _WHOLE.unpack_from, _WHOLE.size, end - _WHOLE.size
        names = self._wanted(topics)
        add = found.append
        while place <= limit:
            opcode, length, channel, _, stamp_ns, _ = unpack(data, place)
            following = place + 9 + length
            if following > end:
                raise ValueError(f'a record of {length} bytes goes over its end')
            if opcode == _MESSAGE:
                if channel in names:
                    seen += 1
                    add(Message(names[channel], stamp_ns, data[place + before:following]))
                    if len(found) == _BATCH:
                        yield found
                        found = []
                        add = found.append
                else:       # of no known channel it is none that the summary counts
                    seen += channel in self._channels
            elif not opcode:
                raise ValueError('a record of kind 0')
            elif opcode in (_SCHEMA, _CHANNEL):
                self._record(opcode, data[place + 9:following], topics)
                names = self._wanted(topics)
            place = following
        if place != end:
            raise ValueError(f'{end - place} bytes are left over')
        self._messages_seen += seen
        yield found

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {channel: topic for channel, (topic, _) in self._channels.items()
                if topic in topics}

    def _record(self, opcode: int, content: memoryview, topics: Collection[str]) -> Message | None:
        if opcode == _MESSAGE:
            channel, _, stamp_ns, _ = _TOP.unpack_from(content)
            topic, _ = self._channels.get(channel, ('', ''))
            self._messages_seen += channel in self._channels
            return Message(topic, stamp_ns, content[_TOP.size:]) if topic in topics else None
        identifier = int.from_bytes(content[:2], 'little')
        if opcode == _SCHEMA:
            self._schemas[identifier] = _text(content, 2)[0]
        elif opcode == _CHANNEL:
            topic, after = _text(content, 4)
            encoding, _ = _text(content, after)
            kind = self._schemas.get(int.from_bytes(content[2:4], 'little'), '')
            known, _ = self._channels.get(identifier, (topic, ''))
            if known != topic:
                raise ValueError(f'channel {identifier} is of {topic}, not of {known} as elsewhere')
            self._channels[identifier] = (topic, kind if encoding == 'cdr' else encoding)
        return None

    def _read_summary(self, file: IO[bytes]) -> bool:
        """Read the topics from the end of the file; say whether there is an end."""
        footer = 9 + 20 + len(MAGIC)
        if self._size < len(MAGIC) + footer:
            return False
        file.seek(-footer, 2)
        end = file.read()
        if end[-len(MAGIC):] != MAGIC or _RECORD.unpack_from(end) != (_FOOTER, 20):
            return False
        (begin,) = struct.unpack_from('<Q', end, 9)
        if not 0 < begin < self._size - footer <= begin + MAXIMUM_RECORD_BYTES:
            return True
        self._data_end = begin
        file.seek(begin)
        data = memoryview(file.read(self._size - footer - begin))
        place = 0
        try:
            while place + _RECORD.size <= len(data):
                opcode, length = _RECORD.unpack_from(data, place)
                place += _RECORD.size
                if opcode in (_SCHEMA, _CHANNEL):
                    self._record(opcode, data[place:place + length], ())
                elif opcode == _STATISTICS:
                    (self._messages_told,) = struct.unpack_from('<Q', data, place)
                place += length
        except (struct.error, ValueError):
            self._channels.clear()      # they are found by reading all of it instead
        return True


def _unpack(content: bytes) -> memoryview:
    """Give the records of a chunk.

    Raises:
        ValueError: damaged, too large, or compressed in an unknown way.
        struct.error: it ends too early.
    """
    _, _, size, crc = struct.unpack_from('<QQQI', content)
    kind, after = _text(memoryview(content), 28)
    (packed,) = struct.unpack_from('<Q', content, after)
    data = memoryview(content)[after + 8:]
    if size > MAXIMUM_CHUNK_BYTES or packed != len(data):
        raise ValueError(f'{size} bytes packed in {packed} of {len(data)}')
    try:
        if kind == 'zstd':
            data = memoryview(zstd.ZstdDecompressor().decompress(data, size + 1))
        elif kind == 'lz4':
            data = memoryview(lz4.frame.LZ4FrameDecompressor().decompress(data, size + 1))
        elif kind:
            raise ValueError(f'compressed with {kind[:20]!r}, which is not known')
    except UNPACKING as error:
        raise ValueError(str(error)) from None
    if len(data) != size:
        raise ValueError(f'{len(data)} bytes, not the {size} that it says')
    if crc and zlib.crc32(data) != crc:
        raise ValueError('its CRC-32 is not the one that it says')
    return data


def _text(content: memoryview, place: int) -> tuple[str, int]:
    """Give a string, and the place behind it."""
    (length,) = struct.unpack_from('<I', content, place)
    end = place + 4 + length
    if end > len(content):
        raise struct.error(f'a text of {length} bytes goes over its end')
    return str(content[place + 4:end], 'utf-8'), end
