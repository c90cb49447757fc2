"""A reader of serialised messages that shares nothing with the middleware's."""

from __future__ import annotations

import struct
from typing import Any

_SIZES = {'B': 1, '?': 1, 'h': 2, 'i': 4, 'I': 4, 'f': 4, 'q': 8, 'Q': 8, 'd': 8}

HEADER = [('sec', 'i'), ('nanosec', 'I'), ('frame_id', 's')]
VERSION = [('incarnation', 'I'), ('counter', 'Q')]
TRANSITION = [*HEADER, ('number', 'Q'), ('episode', 'I'), ('step', 'I'), ('observation', '[f'),
              ('action_requested', '[f'), ('action_applied', '[f'), ('next_observation', '[f'),
              ('reward', 'd'), ('terminated', '?'), ('truncated', '?'), *VERSION,
              ('log_probability', 'f'), ('intervened', '?'), ('takeover', '?'),
              ('publish_time_ns', 'q')]
CONTROL_STEP = [*HEADER, ('number', 'Q'), ('session', 'Q'), ('command_number', 'Q'), ('kind', 'B'),
                ('episode', 'I'), ('step', 'I'), ('mode', 'B'), ('observation', '[f'),
                ('action_requested', '[f'), ('previous_action_applied', '[f'),
                ('previous_intervened', '?'), *VERSION, ('log_probability', 'f'),
                ('exploration_std', 'f'), ('takeover', '?'), ('reason', 's')]
EPISODE_COMMAND = [*HEADER, ('number', 'Q'), ('session', 'Q'), ('kind', 'B'), ('episode', 'I'),
                   ('mode', 'B'), ('start_pose', '[d'), ('move_duration_s', 'd'), ('goal', '[f'),
                   ('steps', 'I'), *VERSION, ('seed', 'Q')]
TAKEOVER = [*HEADER, ('active', '?'), ('action', '[f')]
JOY = [*HEADER, ('axes', '[f'), ('buttons', '[i')]
JOINT_STATE = [*HEADER, ('name', '[s'), ('position', '[d'), ('velocity', '[d'), ('effort', '[d')]


class NotCdr(ValueError):
    """The bytes are not such a message."""


def read(data: bytes, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Give the fields of a message in plain CDR.

    Raises:
        NotCdr: the bytes end early, or do not hold what they say.
    """
    if data[:2] not in (b'\x00\x00', b'\x00\x01') or len(data) < 4:
        raise NotCdr('unknown encapsulation')
    order = '<' if data[1] else '>'
    at = 4

    def number(kind: str) -> Any:
        nonlocal at
        size = _SIZES[kind]
        begin = 4 + -(-(at - 4) // size) * size
        at = begin + size
        if at > len(data):
            raise NotCdr('ends early')
        value = struct.unpack_from(order + ('B' if kind == '?' else kind), data, begin)[0]
        return bool(value) if kind == '?' else value

    def text() -> str:
        nonlocal at
        length = number('I')
        begin, at = at, at + length
        if at > len(data):
            raise NotCdr('ends early')
        return data[begin:at].split(b'\0')[0].decode('utf-8', 'replace')

    values: dict[str, Any] = {}
    for name, kind in fields:
        if kind[0] == '[':
            count = number('I')
            if count > len(data):
                raise NotCdr('more elements than bytes')
            values[name] = [text() if kind[1] == 's' else number(kind[1]) for _ in range(count)]
        else:
            values[name] = text() if kind == 's' else number(kind)
    return values
