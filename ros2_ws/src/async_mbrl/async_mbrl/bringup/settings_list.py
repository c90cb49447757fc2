"""The settings of a run, each with its value, its range and what it means."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from async_mbrl.bringup.composition import SECTIONS, Composition
from async_mbrl.core.config import Leaf, leaves, look_up, to_mapping

NOT_SET = ('run.', 'robot.kinematics.')
"""What is given by arguments, or follows from the model of the robot."""
WIDTH = 100


def settings_list(composition: Composition, patterns: Sequence[str]) -> Iterator[str]:
    """Tell the settings whose names, or meanings, contain one of some patterns; all without one.

    Args:
        composition: a configuration.
        patterns: in any case.
    """
    wanted = [pattern.lower() for pattern in patterns]
    for section in SECTIONS:
        part = getattr(composition, section)
        if part is None:
            continue
        mapping = to_mapping(part)
        for leaf in leaves(type(part), f'{section}.', mapping):
            text = f'{leaf.name} {leaf.doc}'.lower()
            if leaf.name.startswith(NOT_SET) or (
                    wanted and not any(pattern in text for pattern in wanted)):
                continue
            yield _line(leaf, look_up(mapping, leaf.name.partition('.')[2]))
            yield textwrap.fill(leaf.doc, WIDTH, initial_indent=4 * ' ',
                                subsequent_indent=4 * ' ')


def _line(leaf: Leaf, value: Any) -> str:
    """Give name, value, and what else it may be."""
    notes = []
    if leaf.required:
        notes.append('no default')
    elif value != (default := list(leaf.default) if isinstance(leaf.default, tuple)
                   else leaf.default):
        notes.append(f'default {_told(default)}')
    if leaf.choices:
        notes.append('one of ' + ', '.join(leaf.choices))
    elif leaf.minimum is not None and leaf.maximum is not None:
        notes.append(f'{leaf.minimum:g} to {leaf.maximum:g}')
    elif leaf.minimum is not None:
        notes.append(f'at least {leaf.minimum:g}')
    elif leaf.maximum is not None:
        notes.append(f'at most {leaf.maximum:g}')
    return f'{leaf.name}={_told(value)}' + (f'    ({"; ".join(notes)})' if notes else '')


def _told(value: Any) -> str:
    """Give a value as --set takes it."""
    return value if isinstance(value, str) and value else json.dumps(value)
