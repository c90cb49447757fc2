"""rosbag2 folders: MCAP read by our own reader, everything else through the rosbags library."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import apsw
from rosbags.rosbag2 import Reader, ReaderError

from async_mbrl.core.config import ConfigError, look_up, read_yaml
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.mcap import McapFile, Message
from async_mbrl.datasets.tally import Tally

METADATA = 'metadata.yaml'
FILES = ('.mcap', '.db3')
_BATCH = 2048


def is_bag(path: Path) -> bool:
    """Whether a path looks like a rosbag2 folder, or one file of it."""
    if path.is_dir():
        return any(any(path.glob(f'*{suffix}*')) for suffix in FILES)
    return path.suffix in FILES


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
        packed = str(information.get('compression_mode') or 'none').lower() != 'none'
        self._files: list[McapFile] = []
        if not packed and (path.suffix == '.mcap' or any(path.glob('*.mcap'))):
            self._files = self._open(information)
            self.topics: dict[str, str] = {}
            for file in self._files:
                self.topics.update(file.topics(tally))
        else:
            self.topics = self._through_rosbags()

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
        if self._files:
            for file in self._files:
                yield from file.batches(topics, self._tally)
            return
        batch: list[Message] = []
        try:
            with Reader(self.path) as reader:
                chosen = [connection for connection in reader.connections
                          if connection.topic in topics]
                for connection, stamp_ns, data in reader.messages(chosen) if chosen else ():
                    batch.append(Message(connection.topic, stamp_ns, memoryview(data)))
                    if len(batch) == _BATCH:
                        yield batch
                        batch = []
        except (ReaderError, apsw.Error, OSError, ValueError, RuntimeError) as error:
            self._tally.damaged(f'{self.path}: damaged, behind {self._place(batch)}: {error}')
        yield batch

    def _place(self, batch: list[Message]) -> str:
        return f'the message of {batch[-1].stamp_ns} ns' if batch else 'its beginning'

    def _open(self, information: dict[str, Any]) -> list[McapFile]:
        if self.path.is_dir():
            named = information.get('relative_file_paths')
            paths = ([self.path / Path(str(name)).name for name in named]
                     if isinstance(named, list) else sorted(self.path.glob('*.mcap')))
        else:
            paths = [self.path]
        files = []
        for path in paths:
            if not path.exists():
                self._tally.damaged(f'{path}: missing, although {METADATA} names it')
                continue
            try:
                files.append(McapFile(path))
            except DatasetError as error:
                self._tally.damaged(str(error))
        if not files:
            raise DatasetError(f'{self.path}: none of its files can be read')
        return files

    def _through_rosbags(self) -> dict[str, str]:
        try:
            with Reader(self.path) as reader:
                return {connection.topic: connection.msgtype for connection in reader.connections}
        except (ReaderError, apsw.Error, OSError, ValueError, RuntimeError) as error:
            raise DatasetError(f'{self.path}: not a rosbag2 recording that can be read '
                               f'({error})') from None


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
