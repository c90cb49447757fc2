"""Import: from whatever holds transitions, or what they can be made of, to a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from async_mbrl.core.run import RunFolder
from async_mbrl.datasets.arrays import ArrayRules, only_finite
from async_mbrl.datasets.bags import Bag, is_bag
from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.datasets.episodes import EpisodeBuilder, GoalRule
from async_mbrl.datasets.hdf5 import find_hdf5, read_hdf5
from async_mbrl.datasets.identity import (
    DatasetError,
    Identity,
    identity_from_mapping,
    identity_of,
)
from async_mbrl.datasets.joint_states import GAP_S, read_joint_states
from async_mbrl.datasets.lerobot import INFO, read_lerobot
from async_mbrl.datasets.store import INDEX, DatasetAbout, DatasetWriter
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.transitions import (
    TYPE,
    journal_identity,
    read_journal,
    read_transition_bag,
)

_USED = {
    'journal': frozenset[str](), 'transitions': frozenset[str](),
    'joint_states': frozenset({'goal', 'actor', 'joint_states', 'commands', 'gap_s', 'seed'}),
    'hdf5': frozenset({'actor', 'own_rewards'}),
    'lerobot': frozenset({'goal', 'actor', 'degrees', 'seed'})}
"""Options of each format; ``skip_damaged`` is one of all."""


@dataclass(frozen=True)
class ImportOptions:
    """How foreign data are taken; what this project has recorded needs none of it.

    Attributes:
        goal: of the episodes, where the task has goals.
        actor: who chose the actions.
        joint_states, commands: topics of a bag; None takes those of the robot, and in place of its
            joint states the only ones there are.
        gap_s: a pause of joint states above this divides a bag, and a command that is older counts
            no more, s.
        own_rewards: the rewards of the task, also where others were recorded.
        degrees: angles of a LeRobot dataset are in degrees.
        seed: of goals that are drawn.
        skip_damaged: leave out what is damaged, and tell of it, instead of giving up.
    """

    goal: GoalRule | None = None
    actor: Source = Source.UNKNOWN
    joint_states: str | None = None
    commands: str | None = None
    gap_s: float = GAP_S
    own_rewards: bool = False
    degrees: bool = False
    seed: int = 0
    skip_damaged: bool = False


class _Opened(NamedTuple):
    path: Path
    kind: str
    identity: Identity
    read: Callable[[], Iterator[Columns]]
    tally: Tally


def import_sources(sources: Sequence[Path], output: Path, task: Any | None,
                   options: ImportOptions, say: Callable[[str], None] = print) -> DatasetAbout:
    """Make a dataset of some sources; memory holds one shard and one episode.

    Args:
        sources: run folders, rosbag2 folders, HDF5 files, Minari or LeRobot folders; at least one.
        output: folder of the dataset; must not exist.
        task: as ``make_task`` builds it, with its robot; may be None where all sources tell theirs.
        options: how foreign data are taken.
        say: told what was taken, a line each.

    Raises:
        DatasetError: a source is none of these, damaged, or does not fit the others or the task;
            an option does not apply; or there is no transition in them. Nothing is left behind.
    """
    opened = [_open(path, task, options) for path in sources]
    identity = opened[0].identity
    for source in opened[1:]:
        source.identity.require(identity, str(source.path))
    _require_use(options, opened)
    with DatasetWriter(output, identity) as writer:
        for source in opened:
            transitions, episodes = writer.transitions, writer.episodes
            first = writer.next_episode
            for columns in source.read():
                writer.append(dataclasses.replace(columns, episode=columns.episode + first)
                              if first else columns)
            transitions, episodes = writer.transitions - transitions, writer.episodes - episodes
            tally = source.tally
            writer.add_source({
                'path': str(source.path), 'format': source.kind, 'transitions': transitions,
                'episodes': episodes, 'left_out': dict(tally.left_out),
                'marked': dict(tally.marked), 'notes': tally.told()})
            say(f'{source.path}: {source.kind}, {transitions} transitions, {episodes} episodes')
            for title, counts in (('left out', tally.left_out), ('marked', tally.marked)):
                for reason, count in sorted(counts.items()):
                    say(f'  {title}: {count} {reason}')
            for line in tally.told():
                say(f'  {line}')
        if not writer.transitions:
            raise DatasetError(f'{", ".join(map(str, sources))}: no transition in it; nothing was '
                               'written')
        return writer.finish()


def _open(path: Path, task: Any | None, options: ImportOptions) -> _Opened:
    """Find out what a source is.

    Raises:
        DatasetError: none of the formats that are read.
    """
    tally = Tally(options.skip_damaged)
    if not path.exists():
        raise DatasetError(f'{path}: no such file or folder')
    if (path / INDEX).exists():
        raise DatasetError(f'{path}: a dataset already; put datasets together with: async-mbrl '
                           'dataset merge')
    if (RunFolder(path).journal / 'meta.json').exists():
        path = RunFolder(path).journal
    if (path / 'meta.json').exists() and any(path.glob('*.log')):
        identity = _own(journal_identity(path), path, task)
        return _Opened(path, 'journal', identity,
                       lambda: read_journal(path, identity, tally), tally)
    if is_bag(RunFolder(path).recording):
        path = RunFolder(path).recording
    if is_bag(path):
        return _open_bag(Bag(path, tally), task, options, tally)
    wanted = _wanted(path, task)
    identity = identity_of(wanted)
    if (path / INFO).exists():
        builder = _builder(wanted, options, tally)
        return _Opened(path, 'lerobot', identity, lambda: read_lerobot(
            path, wanted, builder, tally, degrees=options.degrees), tally)
    file = find_hdf5(path)
    if file is not None:
        rules = ArrayRules(wanted, options.actor, options.own_rewards, tally)
        return _Opened(path, 'hdf5', identity,
                       lambda: only_finite(read_hdf5(file, rules, tally), tally), tally)
    raise DatasetError(f'{path}: nothing that can be imported: no run folder, rosbag2 folder, HDF5 '
                       'file, Minari or LeRobot folder')


def _open_bag(bag: Bag, task: Any | None, options: ImportOptions, tally: Tally) -> _Opened:
    path = bag.path
    if not bag.topics:
        raise DatasetError(f'{path}: no message in it can be read; restore it')
    if TYPE in bag.topics.values():
        topic = bag.find((TYPE,), 'transitions')
        if bag.about is not None:
            identity = _own(identity_from_mapping(bag.about, str(path)), path, task)
            return _Opened(path, 'transitions', identity,
                           lambda: read_transition_bag(bag, topic, identity, tally), tally)
        foreign = identity_of(_wanted(path, task))
        return _Opened(path, 'transitions', foreign, lambda: only_finite(
            read_transition_bag(bag, topic, foreign, tally), tally), tally)
    wanted = _wanted(path, task)
    builder = _builder(wanted, options, tally)
    return _Opened(path, 'joint_states', identity_of(wanted), lambda: read_joint_states(
        bag, wanted, builder, tally, joint_states=options.joint_states, commands=options.commands,
        gap_s=options.gap_s), tally)


def _require_use(options: ImportOptions, opened: Sequence[_Opened]) -> None:
    """Refuse options that none of the sources has a use for."""
    used = frozenset({'skip_damaged'}).union(*(_USED[source.kind] for source in opened))
    for field in dataclasses.fields(options):
        if field.name not in used and getattr(options, field.name) != field.default:
            formats = ', '.join(f'{source.path} ({source.kind})' for source in opened)
            raise DatasetError(f'--{field.name.removesuffix("_s").replace("_", "-")}: says nothing '
                               f'about {formats[:400]}; leave it out')


def _own(identity: Identity, path: Path, task: Any | None) -> Identity:
    """Check what a recording says of itself against a task that was asked for, if any was."""
    if task is not None:
        identity.require(identity_of(task), str(path))
    return identity


def _wanted(path: Path, task: Any | None) -> Any:
    if task is None:
        raise DatasetError(f'{path}: does not say which task and robot it is of; give --task and '
                           '--robot')
    return task


def _builder(task: Any, options: ImportOptions, tally: Tally) -> EpisodeBuilder:
    return EpisodeBuilder(task, options.goal, options.actor, np.random.default_rng(options.seed),
                          tally)
