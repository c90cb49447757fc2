"""The episodes of a dataset in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.datasets.store import read_about, read_columns


@dataclass(frozen=True)
class Episodes:
    """The episodes of a dataset in the order in which they begin; arrays have n numbers.

    Attributes:
        number: of each, int64.
        steps: transitions of each, int64.
        returns: sum of the rewards of each, float64.
        actors: (n, 256), bool: who, as :class:`Source`, chose an action of each.
        sources: transitions by who chose the action.
    """

    number: np.ndarray
    steps: np.ndarray
    returns: np.ndarray
    actors: np.ndarray
    sources: dict[str, int]

    def __len__(self) -> int:
        return len(self.number)


def runs(columns: Columns) -> np.ndarray:
    """Give the rows (k + 1,) at which episodes begin among at least one, and their number."""
    changes = np.flatnonzero(columns.episode[1:] != columns.episode[:-1]) + 1
    return np.concatenate([[0], changes, [len(columns)]])


def read_episodes(folder: Path, *, skip_damaged: bool = False,
                  report: Callable[[str], None] = print) -> Episodes:
    """Go through a dataset once.

    Raises:
        DatasetError: no dataset, or damaged.
    """
    table: dict[int, list[float]] = {}
    actors: dict[int, np.ndarray] = {}
    sources = np.zeros(256, np.int64)
    for columns in read_columns(folder, skip_damaged=skip_damaged, report=report):
        sources += np.bincount(columns.source, minlength=256)
        edges = runs(columns)
        sums = np.add.reduceat(columns.reward, edges[:-1])
        for first, steps, total in zip(edges[:-1], np.diff(edges), sums, strict=True):
            entry = table.setdefault(int(columns.episode[first]), [0, 0.0])
            entry[0] += int(steps)
            entry[1] += float(total)
            who = actors.setdefault(int(columns.episode[first]), np.zeros(256, bool))
            who[columns.source[first:first + steps]] = True
    names = {int(source): source.name.lower() for source in Source}
    return Episodes(
        number=np.array(list(table), np.int64),
        steps=np.array([entry[0] for entry in table.values()], np.int64),
        returns=np.array([entry[1] for entry in table.values()], np.float64),
        actors=np.array(list(actors.values()), bool).reshape(-1, 256),
        sources={names.get(value, f'source {value}'): int(count)
                 for value, count in enumerate(sources) if count})


def describe(folder: Path, *, skip_damaged: bool = False,
             report: Callable[[str], None] = print) -> dict[str, Any]:
    """Describe a dataset, ready for JSON.

    Raises:
        DatasetError: no dataset, or damaged.
    """
    about = read_about(folder)
    episodes = read_episodes(folder, skip_damaged=skip_damaged, report=report)
    identity = about.identity
    return {
        'folder': str(folder), 'task': identity.task['name'], 'robot': identity.robot['name'],
        'command_interface': identity.robot['command_interface'],
        'observation_size': identity.observation_size, 'action_size': identity.action_size,
        'policy_rate_hz': identity.policy_rate_hz, 'transitions': about.transitions,
        'episodes': about.episodes, 'robot_time_s': about.robot_time_s,
        'terminated': about.terminated, 'truncated': about.truncated,
        'intervened': about.intervened, 'actors': episodes.sources,
        'steps_of_an_episode': _spread(episodes.steps), 'return': _spread(episodes.returns),
        'shards': len(about.shards), 'bytes': about.bytes, 'sources': list(about.sources)}


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    low, median, high = np.quantile(values, [0.0, 0.5, 1.0])
    return {'least': float(low), 'median': float(median), 'mean': float(values.mean()),
            'greatest': float(high)}
