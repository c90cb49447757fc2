"""Datasets put together, and divided; what they belong to stays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Source
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.statistics import Episodes, read_episodes
from async_mbrl.datasets.store import DatasetAbout, DatasetWriter, read_about, read_columns


def merge(folders: Sequence[Path], output: Path) -> DatasetAbout:
    """Put datasets of one task and robot one after the other; episodes are numbered on.

    Args:
        folders: at least one dataset.
        output: folder of the new one; must not exist.

    Raises:
        DatasetError: they are not of one task and robot, one is damaged, or ``output`` exists.
    """
    abouts = [read_about(folder) for folder in folders]
    for about in abouts[1:]:
        about.identity.require(abouts[0].identity, str(about.folder))
    with DatasetWriter(output, abouts[0].identity) as writer:
        for about in abouts:
            first = writer.next_episode
            for columns in read_columns(about.folder):
                writer.append(dataclasses.replace(columns, episode=columns.episode + first))
            for source in about.sources:
                writer.add_source(source)
        return writer.finish()


def share_of_episodes(episodes: Episodes, share: float, seed: int) -> np.ndarray:
    """Draw a share of the episodes at random; give their numbers.

    Raises:
        DatasetError: the share leaves nothing on one side.
    """
    count = math.floor(share * len(episodes) + 0.5)
    _both_sides(count, len(episodes), f'share: {share:g}')
    return np.random.default_rng(seed).permutation(episodes.number)[:count]


def best_of_episodes(episodes: Episodes, quantile: float) -> np.ndarray:
    """Give the numbers of the episodes whose return is at least a quantile of all returns.

    Raises:
        DatasetError: the quantile leaves nothing on one side.
    """
    best = episodes.returns >= np.quantile(episodes.returns, quantile)
    _both_sides(int(best.sum()), len(episodes), f'return_quantile: {quantile:g}')
    return episodes.number[best]


def episodes_by(episodes: Episodes, actor: Source) -> np.ndarray:
    """Give the numbers of the episodes in which somebody chose at least one action.

    Raises:
        DatasetError: that leaves nothing on one side.
    """
    acted = episodes.actors[:, actor]
    _both_sides(int(acted.sum()), len(episodes), f'actor: {actor.name.lower()}')
    return episodes.number[acted]


def split(folder: Path, first: Path, second: Path, *, share: float | None = None,
          return_quantile: float | None = None, actor: Source | None = None, seed: int = 0
          ) -> tuple[DatasetAbout, DatasetAbout]:
    """Divide a dataset by whole episodes, which keep their order and numbers.

    Args:
        folder: the dataset.
        first: takes a share of the episodes, drawn at random; or those of the greatest returns; or
            those in which somebody acted.
        second: takes the others.
        share: in (0, 1), of the episodes.
        return_quantile: in (0, 1), of the returns, from which on an episode goes to ``first``.
        actor: an episode goes to ``first`` if they chose an action of it. One of these three must
            be given.
        seed: of what is drawn.

    Raises:
        DatasetError: damaged; one of both folders exists; or nothing would be left on one side.
    """
    for name, value in (('share', share), ('return_quantile', return_quantile)):
        if value is not None and not 0.0 < value < 1.0:
            raise DatasetError(f'{name}: {value:g} is not between 0 and 1')
    if sum(value is not None for value in (share, return_quantile, actor)) != 1:
        raise DatasetError('split: give one of --share, --return-quantile and --actor')
    if first.resolve() == second.resolve():
        raise DatasetError(f'split: both parts would be {first}; name two folders')
    about = read_about(folder)
    episodes = read_episodes(folder)
    if not len(episodes):
        raise DatasetError(f'{folder}: has no episodes to divide')
    if share is not None:
        chosen = share_of_episodes(episodes, share, seed)
        how: dict[str, Any] = {'split': 'share', 'share': share, 'seed': seed}
    elif actor is not None:
        chosen = episodes_by(episodes, actor)
        how = {'split': 'actor', 'actor': actor.name.lower()}
    else:
        assert return_quantile is not None
        chosen = best_of_episodes(episodes, return_quantile)
        how = {'split': 'return_quantile', 'return_quantile': return_quantile}
    with ExitStack() as stack:
        writers = [stack.enter_context(DatasetWriter(path, about.identity))
                   for path in (first, second)]
        for columns in read_columns(folder):
            among = np.isin(columns.episode, chosen)
            for writer, rows in zip(writers, (among, ~among), strict=True):
                writer.append(columns[rows])
        for writer, part in zip(writers, ('first', 'second'), strict=True):
            for source in about.sources:
                writer.add_source({**source, 'divided': {**how, 'part': part}})
        # Within the block: if the second one cannot be ended, the first one goes, too.
        one, other = (writer.finish() for writer in writers)
    return one, other


def _both_sides(count: int, total: int, what: str) -> None:
    if not 0 < count < total:
        raise DatasetError(f'{what} gives {count} of {total} episodes to the first dataset; choose '
                           'a value that leaves some to both')
