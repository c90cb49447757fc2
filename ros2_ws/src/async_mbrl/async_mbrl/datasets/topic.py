"""The messages of one topic, decoded; what cannot be decoded is named and costs only itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from async_mbrl.datasets.cdr import CdrError, Decoder, Layout, Schema
from async_mbrl.datasets.tally import Tally


class Topic:
    """Decodes the messages of a topic, batch after batch.

    Attributes:
        where: the topic, for messages.
    """

    def __init__(self, schema: Schema, where: str, tally: Tally) -> None:
        """Begin.

        Args:
            schema: of its messages.
            where: file or folder, and topic.
            tally: told of messages that are damaged.
        """
        self.where = where
        self._decoder = Decoder(schema)
        self._tally = tally
        self._seen = 0

    def decode(self, messages: Sequence[bytes | memoryview]
               ) -> Iterator[tuple[np.ndarray, Layout, np.ndarray]]:
        """Decode a batch.

        Yields:
            For each layout: places (n,) among the messages, in order; the layout; the messages (n,)
            as a structured array.

        Raises:
            DatasetError: a message is damaged, and damage is not to be skipped.
        """
        places = list(range(len(messages)))
        while places:
            try:
                found = list(self._decoder.decode([messages[place] for place in places]))
            except CdrError as error:
                bad = places.pop(error.index)
                self._tally.damaged(f'{self.where}: message {self._seen + bad}: {error}')
                self._tally.leave_out('damaged messages')
                continue
            rows = np.array(places)
            yield from ((rows[among], layout, values) for among, layout, values in found)
            break
        self._seen += len(messages)
