"""rosbag2 folders, and single files of them: MCAP and sqlite3, compressed or not."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from async_mbrl.core.config import ConfigError, look_up, read_yaml
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.mcap import MAXIMUM_CHUNK_BYTES, UNPACKING, McapFile, Message, zstd
from async_mbrl.datasets.sqlite import SqliteFile
from async_mbrl.datasets.tally import Tally

METADATA = 'metadata.yaml'
FILES = ('.mcap', '.db3')
PACKED = '.zstd'
MOST_RATIO = 1000
"""Bytes of a file that is compressed as a whole, for each one of the compressed file; ..."""
ANYWAY_BYTES = 256 * 1024**2
"""... or these, if that is more."""
_BLOCK_BYTES = 1024**2


def is_bag(path: Path) -> bool:
    """Whether a path looks like a rosbag2 folder, or one file of it."""
    if path.is_dir():
        return any(map(_is_file, path.iterdir()))
    return _is_file(path)


def _is_file(path: Path) -> bool:
    return Path(path.name.removesuffix(PACKED)).suffix in FILES


class Bag:
    """A rosbag2 folder, or one file of one.

    Attributes:
        path: where it is.
        topics: type of each topic.
        about: what ``async-mbrl record`` has noted of the run in it; None in other bags.
    """

    def __init__(self, path: Path, tally: Tally) -> None:
        """Find its files and topics.

        Args:
            path: the folder, or one file.
            tally: told of damage.

        Raises:
            DatasetError: not a bag, or not one that can be read; or damaged, and damage is not to
                be skipped.
        """
        self.path = path
        self._tally = tally
        metadata = path / METADATA
        information: dict[str, Any] = {}
        try:
            information = _information(metadata) if metadata.exists() else {}
        except DatasetError as error:
            tally.damaged(str(error))
        if path.is_dir() and not information:
            tally.note(f'{path}: no {METADATA}; its files were taken in the order of their names')
        self.about = _note(information, path)
        self._each_packed = str(information.get('compression_mode')).lower() == 'message'
        self._unpacked: Path | None = None
        self._files = self._open(information)
        self.topics: dict[str, str] = {}
        for file in self._files:
            self.topics.update(file.topics(tally))

    def find(self, kinds: Collection[str], usual: str, *, given: str | None = None,
             option: str = '') -> str:
        """Give a topic of some message types.

        Args:
            kinds: message types.
            usual: its name; if there is none, the only topic of these types is taken, and noted.
            given: the name that was asked for, which must be there.
            option: names another one; with it, none is taken in place of the usual one.

        Raises:
            DatasetError: there is none, or there are several.
        """
        found = sorted(topic for topic, kind in self.topics.items() if kind in kinds)
        wanted = usual if given is None else given
        for topic in (wanted, f'/{wanted}'):
            if topic in found:
                return topic
        kind = ' or '.join(sorted(kinds))
        if not found or given is not None:
            there = ', '.join(f'{topic} ({self.topics[topic]})' for topic in sorted(self.topics))
            raise DatasetError(f'{self.path}: no topic {"" if given is None else f"{given} "}of '
                               f'{kind}; there are: {there[:400] or "none"}')
        if option:
            raise DatasetError(f'{self.path}: no topic {usual} of {kind}, which is that of the '
                               f'robot; name the one to take with {option}: '
                               f'{", ".join(found)[:400]}')
        if len(found) > 1:
            raise DatasetError(f'{self.path}: several topics of {kind}: {", ".join(found)[:400]}; '
                               'name the one to take')
        self._tally.note(f'{self.path}: no topic {usual}; {found[0]}, the only one of {kind}, was '
                         'taken')
        return found[0]

    def batches(self, topics: Collection[str]) -> Iterator[list[Message]]:
        """Give the messages of some topics as they were recorded, many at a time.

        Raises:
            DatasetError: damaged, and damage is not to be skipped.
        """
        for file in self._files:
            for batch in file.batches(topics, self._tally):
                yield self._messages(file.name, batch) if self._each_packed else batch

    def _messages(self, path: Path, batch: list[Message]) -> list[Message]:
        """Unpack messages that are compressed one by one."""
        found = []
        for message in batch:
            try:
                unpacker = zstd.ZstdDecompressor()
                data = unpacker.decompress(message.data, MAXIMUM_CHUNK_BYTES)
                if not unpacker.eof:
                    raise EOFError(f'not whole in {len(data)} bytes')
            except UNPACKING as error:
                self._tally.damaged(f'{path}: the message of {message.stamp_ns} ns on '
                                    f'{message.topic}: {error}')
                self._tally.leave_out('damaged messages')
                continue
            found.append(Message(message.topic, message.stamp_ns, memoryview(data)))
        return found

    def _open(self, information: dict[str, Any]) -> list[McapFile | SqliteFile]:
        paths = [self.path]
        if self.path.is_dir():
            paths = sorted(filter(_is_file, self.path.iterdir()))
            named = information.get('relative_file_paths')
            if isinstance(named, list):
                beside = {path.name for path in paths}
                paths = [self.path / Path(str(name)).name for name in named]
                beside -= {path.name for path in paths}
                if beside:
                    self._tally.note(f'{self.path}: {METADATA} does not name '
                                     f'{", ".join(sorted(beside))[:400]}; passed over')
        files: list[McapFile | SqliteFile] = []
        for path in paths:
            if not path.exists():
                self._tally.damaged(f'{path}: missing, although {METADATA} names it')
                continue
            try:
                plain = self._unpack(path) if path.suffix == PACKED else path
                files.append(McapFile(plain, path) if plain.suffix == '.mcap'
                             else SqliteFile(plain, path))
            except DatasetError as error:
                self._tally.damaged(str(error))
        if not files:
            raise DatasetError(f'{self.path}: none of its files can be read')
        return files

    def _unpack(self, path: Path) -> Path:
        """Unpack a file into a folder that goes with this object; of a damaged one what is whole.

        Raises:
            DatasetError: damaged, and damage is not to be skipped; or larger than is credible.
            OSError: the disk is full.
        """
        if self._unpacked is None:
            self._unpacked = Path(tempfile.mkdtemp(prefix='async_mbrl_'))
            weakref.finalize(self, shutil.rmtree, self._unpacked, ignore_errors=True)
        target = self._unpacked / path.stem
        left = max(ANYWAY_BYTES, MOST_RATIO * path.stat().st_size)
        with zstd.open(path, 'rb') as packed, open(target, 'wb') as file:
            while True:
                try:
                    block = packed.read(_BLOCK_BYTES)
                except UNPACKING as error:
                    self._tally.damaged(f'{path}: {error}')
                    break
                left -= len(block)
                if left < 0:
                    raise DatasetError(f'{path}: much larger than what it was compressed from can '
                                       f'be, beyond {file.tell()} bytes')
                if not block:
                    break
                file.write(block)
        return target


def _information(path: Path) -> dict[str, Any]:
    try:
        found = look_up(read_yaml(path), 'rosbag2_bagfile_information')
    except ConfigError as error:
        raise DatasetError(str(error)) from None
    if not isinstance(found, dict):
        raise DatasetError(f'{path}: not that of a rosbag2 folder')
    return found


def _note(information: dict[str, Any], path: Path) -> Any:
    text = look_up(information, 'custom_data.async_mbrl')
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DatasetError(f'{path / METADATA}: what it says of the run is damaged; make the '
                           'recording again: async-mbrl record') from None
