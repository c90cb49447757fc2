"""sqlite3 files as rosbag2 writes them, read through the rosbags library."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import apsw
from rosbags.rosbag2 import Reader, ReaderError

from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.mcap import Message
from async_mbrl.datasets.tally import Tally

_BATCH = 2048
_DAMAGE = (ReaderError, apsw.Error, OSError, ValueError, RuntimeError)


class SqliteFile:
    """One file."""

    def __init__(self, path: Path, name: Path | None = None) -> None:
        """Look at its topics.

        Args:
            path: where it is.
            name: what it was unpacked from, for messages; None if from nothing.

        Raises:
            DatasetError: not a file of rosbag2, or one that cannot be read.
        """
        self.path = path
        self.name = name or path
        try:
            with Reader(path) as reader:
                self._topics = {connection.topic: connection.msgtype
                                for connection in reader.connections}
        except _DAMAGE as error:
            raise DatasetError(f'{self.name}: not a rosbag2 recording that can be read '
                               f'({error})') from None

    def topics(self, tally: Tally) -> dict[str, str]:
        """Give the type of each topic."""
        return self._topics

    def batches(self, topics: Collection[str], tally: Tally) -> Iterator[list[Message]]:
        """Give the messages of some topics in the order of their times, many at a time.

        Raises:
            DatasetError: damaged, and damage is not to be skipped.
        """
        batch: list[Message] = []
        place = 'its beginning'
        try:
            with Reader(self.path) as reader:
                chosen = [connection for connection in reader.connections
                          if connection.topic in topics]
                for connection, stamp_ns, data in reader.messages(chosen) if chosen else ():
                    batch.append(Message(connection.topic, stamp_ns, memoryview(data)))
                    if len(batch) == _BATCH:
                        yield batch
                        place, batch = f'the message of {stamp_ns} ns', []
        except _DAMAGE as error:
            if batch:
                place = f'the message of {batch[-1].stamp_ns} ns'
            tally.damaged(f'{self.name}: damaged, behind {place}: {error}')
        yield batch
