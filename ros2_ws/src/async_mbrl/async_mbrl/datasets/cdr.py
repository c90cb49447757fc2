"""Serialised ROS messages, many at a time: CDR read through numpy.

Strings and arrays make the places of fields vary, but within a recording they seldom do. So the
layout is found once, by walking through one message, and every message of the same lengths is read
through it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Schema = tuple[tuple[str, Any], ...]
"""Fields of a message in order: (name, kind), a kind being one of :data:`SIZES`, ``string``, these
with ``[]`` behind them for a sequence, or a schema again for a sequence of such messages."""

SIZES = {'u1': 1, 'i4': 4, 'u4': 4, 'f4': 4, 'f8': 8, 'u8': 8, 'i8': 8}

MOST_NESTED = 1024
"""Strings or messages in a sequence."""

_HEAD = 4
"""Bytes before the message that say how it is encoded."""
_ORDERS = {b'\x00\x00': '>', b'\x00\x01': '<'}
_MOST_PADDING = 7

_HEADER: Schema = (('sec', 'i4'), ('nanosec', 'u4'), ('frame_id', 'string'))

TRANSITION: Schema = (
    *_HEADER, ('number', 'u8'), ('episode', 'u4'), ('step', 'u4'), ('observation', 'f4[]'),
    ('action_requested', 'f4[]'), ('action_applied', 'f4[]'), ('next_observation', 'f4[]'),
    ('reward', 'f8'), ('terminated', 'u1'), ('truncated', 'u1'), ('incarnation', 'u4'),
    ('counter', 'u8'), ('log_probability', 'f4'), ('intervened', 'u1'), ('takeover', 'u1'),
    ('publish_time_ns', 'i8'))
"""async_mbrl_interfaces/msg/Transition."""

JOINT_STATE: Schema = (
    *_HEADER, ('name', 'string[]'), ('position', 'f8[]'), ('velocity', 'f8[]'), ('effort', 'f8[]'))
"""sensor_msgs/msg/JointState."""

FLOAT64_MULTI_ARRAY: Schema = (
    ('dim', (('label', 'string'), ('size', 'u4'), ('stride', 'u4'))), ('data_offset', 'u4'),
    ('data', 'f8[]'))
"""std_msgs/msg/Float64MultiArray."""

JOINT_TRAJECTORY: Schema = (
    *_HEADER, ('joint_names', 'string[]'), ('points', (
        ('positions', 'f8[]'), ('velocities', 'f8[]'), ('accelerations', 'f8[]'),
        ('effort', 'f8[]'), ('sec', 'i4'), ('nanosec', 'u4'))))
"""trajectory_msgs/msg/JointTrajectory."""


class CdrError(ValueError):
    """A message is not what it should be; ``index`` is its place among those given."""

    def __init__(self, what: str, index: int = 0) -> None:
        """Say what is wrong with which message."""
        super().__init__(what)
        self.index = index


@dataclass
class Layout:
    """Where the fields lie in messages of equal lengths.

    Attributes:
        dtype: structured type of a whole message, encoding included; sequences are subarrays, those
            of messages are taken apart: ``points.0.positions``.
        lengths: elements of strings and sequences, by name.
        texts: the strings of sequences of strings, by name.
    """

    dtype: np.dtype[Any]
    lengths: dict[str, int]
    texts: dict[str, tuple[str, ...]]
    same: list[tuple[str, np.ndarray]] = field(default_factory=list)
    """Bytes that all messages of this layout share, by the name of a field that covers them."""

    def fits(self, messages: np.ndarray) -> np.ndarray:
        """Say (n,) of messages (n,) of this length whether they are laid out so."""
        fit = np.ones(len(messages), bool)
        for name, value in self.same:
            fit &= (messages[name] == value).all(1)
        return fit


class Decoder:
    """Read messages of one schema; remembers layouts that it has met."""

    def __init__(self, schema: Schema) -> None:
        """Begin with no layout known."""
        self._schema = schema
        self._known: dict[int, list[Layout]] = {}

    def decode(self, messages: Sequence[bytes | memoryview]
               ) -> Iterator[tuple[np.ndarray, Layout, np.ndarray]]:
        """Read serialised messages.

        Yields:
            For each layout: places (n,) among the messages, in order; the layout; the messages (n,)
            as a structured array.

        Raises:
            CdrError: one is not of this schema; says which.
        """
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            block = np.frombuffer(b''.join([messages[row] for row in rows.tolist()]), np.uint8)
            yield from self._equal(rows, block.reshape(len(rows), int(length)), messages)

    def _equal(self, rows: np.ndarray, block: np.ndarray, messages: Sequence[bytes | memoryview]
               ) -> Iterator[tuple[np.ndarray, Layout, np.ndarray]]:
        length = block.shape[1]
        known = self._known.setdefault(length, [])
        for place in range(len(known) + len(rows)):
            if place == len(known):
                try:
                    known.append(_Walk(self._schema, messages[rows[0]]).layout())
                except CdrError as error:
                    raise CdrError(str(error), int(rows[0])) from None
            layout = known[place]
            found = block.view(layout.dtype)[:, 0]
            fit = layout.fits(found)
            if fit.all():
                yield rows, layout, found
                return
            if fit.any():
                yield rows[fit], layout, found[fit]
                rows, block = rows[~fit], np.ascontiguousarray(block[~fit])


class _Walk:
    """Go through one message and note where its fields lie."""

    def __init__(self, schema: Schema, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        order = _ORDERS.get(bytes(self._data[:2]))
        if order is None or len(self._data) < _HEAD:
            raise CdrError(f'encoded as {bytes(self._data[:2]).hex() or "nothing"}, not as plain '
                           'CDR')
        self._order = order
        self._place = 0
        self._fields: dict[str, tuple[Any, int]] = {}
        self._same: list[str] = []
        self._lengths: dict[str, int] = {}
        self._texts: dict[str, tuple[str, ...]] = {}
        self._cover('!encoding', -_HEAD, -_HEAD + 2)
        self._struct(schema, '')
        left = len(self._data) - _HEAD - self._place
        if not 0 <= left <= _MOST_PADDING:
            raise CdrError(f'{left} bytes are left after its last field')

    def layout(self) -> Layout:
        """Give what was found."""
        names = list(self._fields)
        dtype = np.dtype({
            'names': names, 'formats': [self._fields[name][0] for name in names],
            'offsets': [_HEAD + self._fields[name][1] for name in names],
            'itemsize': len(self._data)})
        message = np.frombuffer(self._data, dtype)[0]
        return Layout(dtype, self._lengths, self._texts,
                      [(name, message[name].copy()) for name in self._same])

    def _struct(self, schema: Schema, prefix: str) -> None:
        for name, kind in schema:
            self._field(prefix + name, kind)

    def _field(self, name: str, kind: Any) -> None:
        if kind in SIZES:
            begin = self._take(name, SIZES[kind], SIZES[kind])
            self._fields[name] = (self._order + kind, begin)
            return
        begin = self._take(name, 4, 4)
        count = int.from_bytes(self._data[_HEAD + begin:_HEAD + begin + 4],
                               'little' if self._order == '<' else 'big')
        self._lengths[name] = count
        if kind == 'string':
            self._take(name, count, 1)
            self._cover(f'!{name}', begin, begin + 4)
        elif kind == 'string[]':
            self._strings(name, begin, count)
        elif isinstance(kind, str):
            size = SIZES[kind.removesuffix('[]')]
            first = self._take(name, count * size, size) if count else self._place
            self._fields[name] = ((self._order + kind.removesuffix('[]'), (count,)), first)
            self._cover(f'!{name}', begin, begin + 4)
        else:
            self._cover(f'!{name}', begin, begin + 4)
            for place in range(self._nested(name, count)):
                self._struct(kind, f'{name}.{place}.')

    def _strings(self, name: str, begin: int, count: int) -> None:
        texts = []
        for _ in range(self._nested(name, count)):
            first = self._take(name, 4, 4)
            length = int.from_bytes(self._data[_HEAD + first:_HEAD + first + 4],
                                    'little' if self._order == '<' else 'big')
            first = self._take(name, length, 1)
            raw = bytes(self._data[_HEAD + first:_HEAD + first + length])
            texts.append(raw.removesuffix(b'\0').decode(errors='replace'))
        self._texts[name] = tuple(texts)
        self._cover(f'!{name}', begin, self._place)

    def _nested(self, name: str, count: int) -> int:
        if count > MOST_NESTED:
            raise CdrError(f'{count} elements of {name}, more than {MOST_NESTED}')
        return count

    def _take(self, name: str, size: int, alignment: int) -> int:
        """Go on behind something; give where it begins."""
        begin = -(-self._place // alignment) * alignment
        if begin + size > len(self._data) - _HEAD:
            raise CdrError(f'ends within {name}: {begin + size} bytes are needed, it has '
                           f'{len(self._data) - _HEAD}')
        self._place = begin + size
        return begin

    def _cover(self, name: str, begin: int, end: int) -> None:
        self._fields[name] = (('u1', (end - begin,)), begin)
        self._same.append(name)
