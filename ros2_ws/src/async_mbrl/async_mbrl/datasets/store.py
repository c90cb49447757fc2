"""Datasets on disk: a folder of ``dataset.json`` and shards of safetensors, read piece by piece.

Nothing is executed when they are read. A folder is a dataset only once its ``dataset.json`` is
there, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from async_mbrl.core.files import write_atomically
from async_mbrl.datasets.columns import Columns, empty_columns
from async_mbrl.datasets.identity import DatasetError, Identity, identity_from_mapping

FORMAT = 1
INDEX = 'dataset.json'
SHARD_ROWS = 65_536
SHARD_BYTES = 64 * 1024**2
"""A shard ends with so many rows or bytes, whichever comes first."""

MAXIMUM_INDEX_BYTES = 16 * 1024**2
MAXIMUM_SHARD_BYTES = 1024**3
"""Of a shard that is read; its index says how many it has."""

_NAMES = tuple(field.name for field in fields(Columns))
_FILE = re.compile(r'part-\d{5}\.safetensors')
_COUNTS = ('transitions', 'episodes', 'terminated', 'truncated', 'intervened')

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One file of a dataset: its name, rows, SHA-256 (hex) and bytes."""

    file: str
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True)
class DatasetAbout:
    """What a dataset says of itself.

    Attributes:
        folder: where it is.
        identity: task, robot and layout that it belongs to.
        transitions: rows of all shards together.
        episodes: runs of rows of one episode number.
        terminated, truncated, intervened: rows marked so.
        shards: its files, in order.
        sources: what it was made from, ready for JSON: format, path, and what was left out.
    """

    folder: Path
    identity: Identity
    transitions: int
    episodes: int
    terminated: int
    truncated: int
    intervened: int
    shards: tuple[Shard, ...]
    sources: tuple[Mapping[str, Any], ...]

    @property
    def bytes(self) -> int:
        """Size of all shards, bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """Identify what is in the shards, hex: equal digests have equal transitions."""
        return hashlib.sha256(' '.join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @property
    def robot_time_s(self) -> float:
        """Motion that the transitions stand for, s."""
        return self.transitions / self.identity.policy_rate_hz


class DatasetWriter:
    """Write a dataset row by row; memory holds one shard.

    A context manager: what ends with an exception leaves no folder. Killed, it leaves one without
    ``dataset.json``, which is no dataset.
    """

    def __init__(self, folder: Path, identity: Identity, *, shard_rows: int = SHARD_ROWS) -> None:
        """Make the folder.

        Args:
            folder: must not exist.
            identity: what the rows belong to.
            shard_rows: most rows of a shard.

        Raises:
            DatasetError: something has that name already.
            OSError: the folder cannot be made.
        """
        if folder.exists() or folder.is_symlink():
            whole = '' if (folder / INDEX).exists() else ', and is not a whole dataset'
            raise DatasetError(f'{folder}: exists already{whole}; choose another folder, or remove '
                               'it first')
        self._folder = folder
        self._identity = identity
        sizes = identity.observation_size, identity.action_size
        row_bytes = sum(getattr(empty_columns(1, *sizes), name).nbytes for name in _NAMES)
        self._rows = empty_columns(max(1, min(shard_rows, SHARD_BYTES // row_bytes)), *sizes)
        self._filled = 0
        self._shards: list[Shard] = []
        self._sources: list[dict[str, Any]] = []
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._last_episode: int | None = None
        self._next_episode = 0
        self._about: DatasetAbout | None = None
        folder.mkdir(parents=True)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.finish()
        except BaseException:
            self.discard()
            raise

    @property
    def next_episode(self) -> int:
        """An episode number above all that were written."""
        return self._next_episode

    @property
    def transitions(self) -> int:
        """Rows taken so far."""
        return self._counts['transitions']

    @property
    def episodes(self) -> int:
        """Episodes begun so far."""
        return self._counts['episodes']

    def append(self, columns: Columns) -> None:
        """Take rows; what is full is written.

        Raises:
            DatasetError: the rows are not of this identity's sizes.
            OSError: the disk is full.
        """
        for name in _NAMES:
            given, own = getattr(columns, name), getattr(self._rows, name)
            if given.shape != (len(columns), *own.shape[1:]) or given.dtype != own.dtype:
                raise DatasetError(
                    f'{self._folder}: {name} of shape {given.shape}, {given.dtype}, does not fit '
                    f'{(len(columns), *own.shape[1:])}, {own.dtype}, of task '
                    f'{self._identity.task["name"]} and robot {self._identity.robot["name"]}')
        if not len(columns):
            return
        self._count(columns)
        taken = 0
        while taken < len(columns):
            count = min(len(columns) - taken, len(self._rows) - self._filled)
            for name in _NAMES:
                getattr(self._rows, name)[self._filled:self._filled + count] = getattr(
                    columns, name)[taken:taken + count]
            self._filled += count
            taken += count
            if self._filled == len(self._rows):
                self._write()

    def add_source(self, source: Mapping[str, Any]) -> None:
        """Note where rows came from, ready for JSON."""
        self._sources.append(dict(source))

    def finish(self) -> DatasetAbout:
        """Write what is left, then the index: now it is a dataset, to which nothing is added."""
        if self._about is not None:
            return self._about
        if self._filled:
            self._write()
        identity = self._identity
        index = {'format': FORMAT, **identity.to_mapping(),
                 'observation_size': identity.observation_size,
                 'action_size': identity.action_size, 'policy_rate_hz': identity.policy_rate_hz,
                 'counts': self._counts, 'shards': [asdict(shard) for shard in self._shards],
                 'sources': self._sources}
        write_atomically(self._folder / INDEX, json.dumps(index, indent=1) + '\n')
        self._about = DatasetAbout(self._folder, identity, **self._counts,
                                   shards=tuple(self._shards), sources=tuple(self._sources))
        return self._about

    def discard(self) -> None:
        """Remove what was written, the index first: without it the rest is no dataset."""
        (self._folder / INDEX).unlink(missing_ok=True)
        for shard in self._shards:
            (self._folder / shard.file).unlink(missing_ok=True)
        for path in self._folder.glob('part-*'):
            path.unlink()
        self._folder.rmdir()

    def _count(self, columns: Columns) -> None:
        episode = columns.episode
        begun = int((episode[1:] != episode[:-1]).sum()) + (episode[0] != self._last_episode)
        self._last_episode = int(episode[-1])
        self._next_episode = max(self._next_episode, int(episode.max()) + 1)
        self._counts['transitions'] += len(columns)
        self._counts['episodes'] += int(begun)
        for name in ('terminated', 'truncated', 'intervened'):
            self._counts[name] += int(getattr(columns, name).sum())

    def _write(self) -> None:
        data = safetensors.numpy.save(
            {name: getattr(self._rows, name)[:self._filled] for name in _NAMES})
        shard = Shard(f'part-{len(self._shards):05d}.safetensors', self._filled,
                      hashlib.sha256(data).hexdigest(), len(data))
        with open(self._folder / shard.file, 'xb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._shards.append(shard)
        self._filled = 0


def read_about(folder: Path, wanted: Identity | None = None) -> DatasetAbout:
    """Read what a dataset says of itself.

    Args:
        folder: of the dataset.
        wanted: task and robot that it must be of; None takes any.

    Raises:
        DatasetError: no dataset, damaged, of a newer format, or of another task or robot.
    """
    path = folder / INDEX
    try:
        size = path.stat().st_size
        if size > MAXIMUM_INDEX_BYTES:
            raise ValueError(f'{size} bytes, more than {MAXIMUM_INDEX_BYTES}')
        index = json.loads(path.read_text())
        if not isinstance(index, dict):
            raise ValueError('not a mapping')
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f'{folder}: not a dataset (it has no {INDEX}); make one with: '
                           'async-mbrl dataset import') from None
    except OSError as error:
        raise DatasetError(f'{path}: cannot be read ({error.strerror})') from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path}: damaged ({error}); import the data again') from None
    if index.get('format') != FORMAT:
        raise DatasetError(f'{path}: format {str(index.get("format"))[:20]}, but this version '
                           f'reads {FORMAT}; import the data again')
    identity = identity_from_mapping(index, str(path))
    try:
        shards = tuple(Shard(str(item['file']), _count(item['rows']), str(item['sha256']),
                             _count(item['bytes'])) for item in index['shards'])
        counts = {name: _count(index['counts'][name]) for name in _COUNTS}
        sources = tuple(dict(source) for source in index['sources'])
        for shard in shards:
            if not _FILE.fullmatch(shard.file):
                raise ValueError(f'shards: {shard.file[:40]!r} is not the name of one')
        if sum(shard.rows for shard in shards) != counts['transitions']:
            raise ValueError('its shards have another number of transitions')
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f'{path}: damaged ({error}); import the data again') from None
    if wanted is not None:
        identity.require(wanted, str(folder))
    return DatasetAbout(folder, identity, **counts, shards=shards, sources=sources)


def read_columns(folder: Path, *, skip_damaged: bool = False,
                 report: Callable[[str], None] = _LOG.warning) -> Iterator[Columns]:
    """Read a dataset shard by shard, each one verified; memory holds one.

    Args:
        folder: of the dataset.
        skip_damaged: go on after a damaged shard, which costs its own rows only.
        report: told of each shard that was left out then.

    Raises:
        DatasetError: no dataset; or a shard is missing or damaged, without ``skip_damaged``.
    """
    about = read_about(folder)
    for shard in about.shards:
        try:
            columns = read_shard(about, shard)
        except DatasetError as error:
            if not skip_damaged:
                raise
            report(f'{error}; its {shard.rows} transitions are left out')
            continue
        yield columns


def read_shard(about: DatasetAbout, shard: Shard) -> Columns:
    """Read and verify one shard.

    Raises:
        DatasetError: it is missing or damaged.
    """
    path = about.folder / shard.file
    remedy = 'restore the file, or import the data again'
    try:
        size = path.stat().st_size
        if size != shard.bytes or size > MAXIMUM_SHARD_BYTES:
            raise DatasetError(f'{path}: damaged: {size} bytes, not the {shard.bytes} in {INDEX} '
                               f'(at most {MAXIMUM_SHARD_BYTES}); {remedy}')
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f'{path}: cannot be read ({error.strerror}); {remedy}') from None
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DatasetError(f'{path}: damaged: its SHA-256 is not the one in {INDEX}; {remedy}')
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f'{path}: not safetensors ({error}); {remedy}') from None
    like = empty_columns(0, about.identity.observation_size, about.identity.action_size)
    if set(tensors) != set(_NAMES):
        wrong = sorted(set(tensors) ^ set(_NAMES))
        raise DatasetError(f'{path}: not a shard: {", ".join(wrong)[:200]} missing or unknown; '
                           f'{remedy}')
    for name in _NAMES:
        found, own = tensors[name], getattr(like, name)
        if found.dtype != own.dtype or found.shape != (shard.rows, *own.shape[1:]):
            raise DatasetError(f'{path}: {name} is {found.dtype} of shape {found.shape}, expected '
                               f'{own.dtype} of {(shard.rows, *own.shape[1:])}; {remedy}')
    return Columns(**tensors)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f'{str(value)[:40]!r} is not a number of anything')
    return int(value)
