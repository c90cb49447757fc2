"""Import of LeRobot datasets, version 2 and 3, from a folder: no hub is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.episodes import (
    NOT_KNOWN_BEFORE,
    EpisodeBuilder,
    commanded,
    normalised,
    plausible,
)
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.tally import Tally

INFO = Path('meta') / 'info.json'
STATE, ACTION, EPISODE, FRAME = 'observation.state', 'action', 'episode_index', 'frame_index'
MOST_FRAMES = 1_000_000
"""Of an episode, which is held as a whole."""

_ROWS = 8192
_MAXIMUM_INFO_BYTES = 16 * 1024**2


def read_lerobot(folder: Path, task: Any, builder: EpisodeBuilder, tally: Tally, *,
                 degrees: bool = False) -> Iterator[Columns]:
    """Make transitions out of states and actions.

    ``observation.state`` must be the positions of the robot's joints, or their positions and then
    their velocities; velocities that are missing are the differences of positions. ``action`` is
    what was commanded, in the command interface of the robot: efforts, velocities, or positions.

    Args:
        folder: of the dataset.
        task: gives the policy rate; the frame rate must be a multiple of it.
        builder: makes episodes.
        tally: told of what is left out.
        degrees: angles are in degrees, not in rad.

    Raises:
        DatasetError: pyarrow is not installed, or the dataset does not fit task and robot, or is
            damaged.
    """
    reader = _Reader(folder, task, builder, tally, degrees)
    for path in sorted((folder / 'data').rglob('*.parquet')):
        yield from reader.read(path)
    yield from reader.rest()
    if not reader.files:
        raise DatasetError(f'{folder}: no Parquet file below data/; fetch the whole dataset first')


class _Reader:
    def __init__(self, folder: Path, task: Any, builder: EpisodeBuilder, tally: Tally,
                 degrees: bool) -> None:
        self._task = task
        self._robot = robot = task.robot
        self._builder = builder
        self._tally = tally
        self._degrees = degrees
        self.files = 0
        info = _info(folder / INFO)
        self._features = info['features']
        ratio = info['fps'] / task.config.policy_rate_hz
        self._stride = round(ratio)
        if self._stride < 1 or abs(ratio - self._stride) > 1e-3:
            raise DatasetError(
                f'{folder / INFO}: {info["fps"]:g} frames a second, but task {task.name} takes '
                f'{task.config.policy_rate_hz:g} steps a second, of which that is no multiple; '
                f'set a rate that fits: --set task.policy_rate_hz={info["fps"]:g}')
        self._fps = info['fps']
        sizes = {name: _size(folder / INFO, self._features, name) for name in (STATE, ACTION)}
        if sizes[STATE] not in (robot.states, 2 * robot.states) or sizes[ACTION] != robot.joints:
            raise DatasetError(
                f'{folder / INFO}: {sizes[STATE]} numbers of {STATE} and {sizes[ACTION]} of '
                f'{ACTION}, but robot {robot.name} has {robot.states} positions, as many '
                f'velocities, and {robot.joints} commands')
        self._order = {STATE: self._places(STATE, robot.state_names, sizes[STATE]),
                       ACTION: self._places(ACTION, robot.joint_names, sizes[ACTION])}
        self._sizes = sizes
        self._episode: int | None = None
        self._frame = 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._frames = 0

    def read(self, path: Path) -> Iterator[Columns]:
        """Read one file."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise DatasetError('pyarrow: not installed, and LeRobot datasets are Parquet files; '
                               'install it: pip install pyarrow') from None
        self.files += 1
        try:
            with parquet.ParquetFile(path) as file:
                missing = {STATE, ACTION, EPISODE, FRAME} - set(file.schema_arrow.names)
                if missing:
                    raise DatasetError(f'{path}: columns {sorted(missing)} are missing')
                for batch in file.iter_batches(_ROWS, columns=[STATE, ACTION, EPISODE, FRAME]):
                    yield from self._take(path, batch)
        except (pyarrow.ArrowException, OSError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._tally.damaged(f'{path}: damaged, within episode {self._episode}: {text[:200]}')
            yield from self.rest()

    def rest(self) -> Iterator[Columns]:
        """Give the episode that is complete now."""
        parts, self._parts, self._frames = self._parts, [], 0
        if not parts:
            return
        state = np.concatenate([part[0] for part in parts]).astype(np.float64)
        action = np.concatenate([part[1] for part in parts]).astype(np.float64)
        finite = plausible(state) & plausible(action)
        # Between what is not finite lie stretches, each an episode of its own.
        edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]]).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            yield from self._stretch(state[begin:end], action[begin:end])
        self._tally.leave_out('frames that are not finite', int((~finite).sum()))

    def _take(self, path: Path, batch: Any) -> Iterator[Columns]:
        values = {name: self._table(path, batch, name) for name in (STATE, ACTION)}
        episode = batch.column(EPISODE).to_numpy(zero_copy_only=False)
        frame = batch.column(FRAME).to_numpy(zero_copy_only=False)
        row = 0
        while row < len(episode):
            if self._episode != episode[row] or frame[row] != self._frame + 1:
                if self._episode == episode[row]:
                    self._tally.leave_out('missing frames', max(0, int(frame[row]) - self._frame
                                                                - 1))
                yield from self.rest()
            going_on = (episode[row + 1:] == episode[row:-1]) & (
                frame[row + 1:] == frame[row:-1] + 1)
            ends = np.flatnonzero(~going_on)
            end = row + 1 + (int(ends[0]) if len(ends) else len(going_on))
            self._parts.append((values[STATE][row:end], values[ACTION][row:end]))
            self._frames += end - row
            if self._frames > MOST_FRAMES:
                raise DatasetError(f'{path}: episode {int(episode[row])} has more than '
                                   f'{MOST_FRAMES} frames')
            self._episode, self._frame = int(episode[row]), int(frame[end - 1])
            row = end

    def _stretch(self, state: np.ndarray, action: np.ndarray) -> Iterator[Columns]:
        stride, robot = self._stride, self._robot
        steps = (len(state) - 1) // stride
        if steps < 1:
            self._tally.leave_out('frames that make no step', len(state))
            return
        if self._degrees:
            state = np.deg2rad(state)
            if robot.command_interface != 'effort':
                action = np.deg2rad(action)
        state = state[:, self._order[STATE]]
        position = state[:, :robot.states]
        if state.shape[1] == robot.states:
            change = np.diff(position, axis=0) * self._fps
            velocity = np.concatenate([change[:1], change])
        else:
            velocity = state[:, robot.states:]
        action = action[:, self._order[ACTION]]
        grouped = action[:steps * stride].reshape(steps, stride, -1)
        command = grouped[:, -1] if robot.command_interface == 'position' else grouped.mean(1)
        position, velocity = (value[:steps * stride + 1:stride] for value in (position, velocity))
        action = normalised(robot, command, position[:-1, commanded(robot)])
        self._tally.leave_out(NOT_KNOWN_BEFORE)
        yield from self._builder.build(position[1:], velocity[1:], action[1:], action[0])

    def _table(self, path: Path, batch: Any, name: str) -> np.ndarray:
        column = batch.column(name)
        flat = column.flatten() if hasattr(column, 'flatten') else column
        values = np.asarray(flat.to_numpy(zero_copy_only=False))
        if len(values) != len(column) * self._sizes[name] or values.dtype.kind not in 'fiu':
            raise DatasetError(f'{path}: {name} is not {self._sizes[name]} numbers in every frame')
        return values.reshape(len(column), -1)

    def _places(self, name: str, joints: tuple[str, ...], size: int) -> np.ndarray:
        """Give the places of our joints among the numbers of a feature, by name if it has names."""
        names = _names(self._features[name].get('names'))[:len(joints)]
        if set(names) == set(joints):
            order = np.array([names.index(joint) for joint in joints])
        else:
            order = np.arange(len(joints))
            self._tally.note(f'{name}: its names are not those of the joints; they were taken to '
                             f'be in the order {", ".join(joints)}')
        return np.concatenate([order + first for first in range(0, size, len(joints))])


def _names(told: Any) -> list[str]:
    """Flatten the names of a feature: a list, or a mapping of one, perhaps with what they are."""
    if isinstance(told, dict):
        lists = [value for value in told.values() if isinstance(value, list)]
        told = lists[0] if len(lists) == 1 else list(told)
    if not isinstance(told, list):
        return []
    return [str(name).removesuffix('.pos') for name in told]


def _info(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAXIMUM_INFO_BYTES:
            raise ValueError(f'more than {_MAXIMUM_INFO_BYTES} bytes')
        content = json.loads(path.read_text())
        version = str(content['codebase_version']).removeprefix('v')
        fps = float(content['fps'])
        features = dict(content['features'])
        if not 0.0 < fps < 1e6 or not all(isinstance(value, dict) for value in features.values()):
            raise ValueError('fps or features')
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f'{path}: not that of a LeRobot dataset ({error})') from None
    if version.split('.')[0] not in ('2', '3'):
        raise DatasetError(f'{path}: version {version[:20]}, but versions 2 and 3 are read; '
                           'convert it with the tools of LeRobot')
    return {'fps': fps, 'features': features}


def _size(path: Path, features: dict[str, Any], name: str) -> int:
    shape = features.get(name, {}).get('shape')
    if not (isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int):
        raise DatasetError(f'{path}: {name} is missing, or no vector')
    return int(shape[0])
