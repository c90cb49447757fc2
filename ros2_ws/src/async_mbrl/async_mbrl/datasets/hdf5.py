"""Import of HDF5 files of Minari and D4RL: observations and actions as they are.

Observations must be those of the task, actions normalised, as the benchmark bodies have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from async_mbrl.datasets.arrays import ArrayRules
from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.tally import Tally

SUFFIXES = ('.hdf5', '.h5')
MINARI = Path('data') / 'main_data.hdf5'
BLOCK = 65_536
"""Rows read at a time."""
MOST_STEPS = 1_000_000
"""Of an episode in a file of Minari, which is read as a whole."""

MOST_CHUNK_BYTES = 256 * 1024**2
"""Of a chunk, which is unpacked as a whole."""
MOST_RATIO = 4096
"""An array has so many times the bytes of the file that it takes, or it says more than it holds."""
_SMALL_BYTES = 64 * 1024**2
"""Of an array whose values need not be in the file, as those that were never written."""

CUT = 'ends of episodes that were not marked, marked as truncated'
_EPISODE = 'episode_'
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError)
"""What h5py raises where a file is damaged."""
_LOG_PROBABILITY = 'infos/action_log_probs'


def find_hdf5(path: Path) -> Path | None:
    """Give the HDF5 file that a path means: itself, or that of a Minari folder; None if none."""
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    return path / MINARI if (path / MINARI).is_file() else None


def read_hdf5(path: Path, rules: ArrayRules, tally: Tally) -> Iterator[Columns]:
    """Read a file of Minari or D4RL, whichever it is, piece by piece.

    Raises:
        DatasetError: it is neither, its sizes do not fit the task, or it is damaged.
    """
    try:
        with h5py.File(path, 'r') as file:
            if 'observations' in file:
                yield from _flat(path, file, rules, tally)
            elif any(name.startswith(_EPISODE) for name in file):
                yield from _episodes(path, file, rules, tally)
            else:
                raise DatasetError(f'{path}: neither D4RL (observations, actions, ...) nor Minari '
                                   f'(episode_0, ...); it has: {", ".join(file)[:200]}')
    except _DAMAGE as error:
        tally.damaged(f'{path}: cannot be read on ({error})')


def _flat(path: Path, file: h5py.File, rules: ArrayRules, tally: Tally) -> Iterator[Columns]:
    """Read the layout of D4RL: all steps in a row, ends of episodes marked.

    Without ``next_observations`` what came of the last step of an episode is not known; it is left
    out, and the one before it marked as truncated.
    """
    task = rules.task
    rows = len(_array(path, file, 'actions', task.action_size))
    observations = _array(path, file, 'observations', task.observation_size, rows)
    actions = _array(path, file, 'actions', task.action_size, rows)
    rewards, terminals, timeouts = (_array(path, file, name, None, rows)
                                    for name in ('rewards', 'terminals', 'timeouts'))
    nexts = (_array(path, file, 'next_observations', task.observation_size, rows)
             if 'next_observations' in file else None)
    logged = (_array(path, file, _LOG_PROBABILITY, None, rows) if _LOG_PROBABILITY in file
              else None)
    episode = step = 0
    for begin in range(0, rows, BLOCK):
        end = min(begin + BLOCK, rows)
        more = min(end + 1, rows)      # one row of what follows, to see how this block goes on
        terminated = terminals[begin:more].astype(bool)
        truncated = timeouts[begin:more].astype(bool)
        if more == rows and not (terminated[-1] or truncated[-1]):
            truncated[-1] = True
            tally.mark(CUT, int(end == rows and nexts is not None))
        done = terminated | truncated
        count = end - begin
        numbers, steps = _numbering(done[:count], episode, step)
        episode = int(numbers[-1]) + bool(done[count - 1])
        step = 0 if done[count - 1] else int(steps[-1]) + 1
        keep = np.ones(count, bool)
        if nexts is None:
            seen = observations[begin:more]
            following = np.concatenate([seen[1:], seen[-1:]])[:count]
            keep = ~done[:count]
            truncated[:len(done) - 1] |= keep[:len(done) - 1] & done[1:]
            tally.leave_out('ends of episodes without next_observations',
                            int((~keep & ~terminated[:count]).sum()))
            tally.leave_out('terminations without next_observations',
                            int((~keep & terminated[:count]).sum()))
        else:
            following = nexts[begin:end]
        if not keep.any():
            continue
        yield rules.columns(
            observations[begin:end][keep], actions[begin:end][keep], following[keep],
            rewards[begin:end][keep], terminated[:count][keep], truncated[:count][keep],
            numbers[keep], steps[keep], None if logged is None else logged[begin:end][keep])


def _numbering(done: np.ndarray, episode: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Give (n,) numbers of episodes and steps, going on from those of the first row."""
    begins = np.concatenate([[False], done[:-1]])
    numbers = episode + np.cumsum(begins)
    places = np.arange(len(done))
    first = np.maximum.accumulate(np.where(begins, places, 0))
    return numbers, places - first + np.where(numbers == episode, step, 0)


def _episodes(path: Path, file: h5py.File, rules: ArrayRules, tally: Tally) -> Iterator[Columns]:
    """Read the layout of Minari: a group for each episode, with one observation more than steps."""
    names = [name for name in file
             if name.startswith(_EPISODE) and name.removeprefix(_EPISODE).isdigit()]
    names.sort(key=lambda name: int(name.removeprefix(_EPISODE)))
    flaw: DatasetError | None = None
    taken = False
    for number, name in enumerate(names):
        try:
            columns = _one_episode(path, file, name, number, rules, tally)
        except (DatasetError, *_DAMAGE) as error:
            own = error if isinstance(error, DatasetError) else None
            if own is not None and not tally.skip_damaged:
                raise
            flaw = flaw or own
            tally.damaged(str(error) if own else f'{path}: {name} cannot be read ({error})')
            tally.leave_out('damaged episodes')
            continue
        if columns is not None:
            taken = True
            yield columns
    if flaw is not None and not taken:
        raise flaw


def _one_episode(path: Path, file: h5py.File, name: str, number: int, rules: ArrayRules,
                 tally: Tally) -> Columns | None:
    """Read an episode; None if it is empty."""
    task = rules.task
    actions = _array(path, file, f'{name}/actions', task.action_size)
    rows = len(actions)
    if rows > MOST_STEPS:
        raise DatasetError(f'{path}: {name} has {rows} steps, more than {MOST_STEPS}; divide it')
    if not rows:
        tally.leave_out('empty episodes')
        return None
    observations = _array(path, file, f'{name}/observations', task.observation_size, rows + 1)[:]
    reward, terminated, truncated = (
        _array(path, file, f'{name}/{part}', None, rows)[:]
        for part in ('rewards', 'terminations', 'truncations'))
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    actions = actions[:]
    if not (terminated[-1] or truncated[-1]):
        truncated[-1] = True
        tally.mark(CUT)
    return rules.columns(observations[:-1], actions, observations[1:], reward, terminated,
                         truncated, np.full(rows, number), np.arange(rows))


def _array(path: Path, file: h5py.File, name: str, size: int | None,
           rows: int | None = None) -> h5py.Dataset:
    """Find an array (rows, size), or (rows,) for size None, that lies in the file itself.

    Raises:
        DatasetError: there is none, or it is of another kind or shape.
    """
    where: h5py.Group = file
    for part in name.split('/'):
        link = where.get(part, getlink=True) if isinstance(where, h5py.Group) else None
        if link is None:
            raise DatasetError(f'{path}: {name} is missing')
        if not isinstance(link, h5py.HardLink):
            raise DatasetError(f'{path}: {name} is a link to elsewhere, which is not followed')
        where = where[part]
    if not isinstance(where, h5py.Dataset):
        raise DatasetError(f'{path}: {name} is a group of {", ".join(where)[:100]}; only plain '
                           'arrays are read, no observations of several parts')
    if where.external or where.is_virtual:
        raise DatasetError(f'{path}: {name} lies in other files; copy the data into this one')
    shape = where.shape
    fits = where.dtype.kind in 'fiub' and len(shape) == (1 if size is None else 2)
    if not fits or (rows is not None and shape[0] != rows) or (
            size is not None and shape[1] != size):
        wanted = f'({"rows" if rows is None else rows},{"" if size is None else f" {size}"})'
        raise DatasetError(f'{path}: {name} is {where.dtype} of shape {shape}, but numbers of '
                           f'{wanted} are needed; give the task and robot it was recorded with')
    chunk_bytes = math.prod(where.chunks or ()) * where.dtype.itemsize
    stored_bytes = where.id.get_storage_size()
    if chunk_bytes > MOST_CHUNK_BYTES:
        raise DatasetError(f'{path}: {name} has chunks of {chunk_bytes} bytes, more than '
                           f'{MOST_CHUNK_BYTES}; write it anew with smaller ones')
    if where.nbytes > max(_SMALL_BYTES, MOST_RATIO * stored_bytes):
        raise DatasetError(f'{path}: {name} says that it has {where.nbytes} bytes, but takes only '
                           f'{stored_bytes} of the file; restore it')
    return where
