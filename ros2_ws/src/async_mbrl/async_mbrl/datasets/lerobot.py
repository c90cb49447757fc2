"""Import of LeRobot datasets, version 2 and 3, from a folder: no hub is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
_SUFFIXES = {
    'position': ('.pos', '_pos', '.position', '_position'),
    'velocity': ('.vel', '_vel', '.velocity', '_velocity'),
    'effort': ('.effort', '_effort', '.eff', '_eff', '.torque', '_torque')}
"""What names of joints have behind them, by what the numbers are."""
_MAXIMUM_INFO_BYTES = 16 * 1024**2


def read_lerobot(folder: Path, task: Any, builder: EpisodeBuilder, tally: Tally, *,
                 degrees: bool = False) -> Iterator[Columns]:
    """Make transitions out of states and actions.

    ``observation.state`` must have the positions of the robot's joints, and may have their
    velocities; velocities that are missing are the differences of positions. ``action`` is
    what was commanded, in the command interface of the robot: efforts, velocities, or positions.
    Joints go by the names of the features; where these have none, by their order.

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
        self._sizes = {name: _size(folder / INFO, self._features, name)
                       for name in (STATE, ACTION)}
        joints = {STATE: robot.state_names, ACTION: robot.joint_names}
        sizes = {STATE: (robot.states, 2 * robot.states), ACTION: (robot.joints,)}
        self._order: dict[str, np.ndarray] = {}
        for name, by_name in ((STATE, _states_by_name), (ACTION, _actions_by_name)):
            names, size = _names(self._features[name].get('names')), self._sizes[name]
            if names:
                if len(names) != size:
                    raise DatasetError(f'{folder / INFO}: {len(names)} names for the {size} '
                                       f'numbers of {name}')
                self._order[name] = by_name(f'{folder / INFO}: ', names, robot)
                continue
            if size not in sizes[name]:
                raise DatasetError(
                    f'{folder / INFO}: {self._sizes[STATE]} numbers of {STATE} and '
                    f'{self._sizes[ACTION]} of {ACTION}, but robot {robot.name} has '
                    f'{robot.states} positions, as many velocities, and {robot.joints} commands')
            tally.note(f'{name}: has no names; its numbers were taken to be in the order '
                       f'{", ".join(joints[name])}')
            self._order[name] = np.arange(size)
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
        values = {name: self._table(path, batch, name)[:, self._order[name]]
                  for name in (STATE, ACTION)}
        episode, frame = (self._whole(path, batch, name) for name in (EPISODE, FRAME))
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
        position = state[:, :robot.states]
        if state.shape[1] == robot.states:
            change = np.diff(position, axis=0) * self._fps
            velocity = np.concatenate([change[:1], change])
        else:
            velocity = state[:, robot.states:]
        grouped = action[:steps * stride].reshape(steps, stride, -1)
        command = grouped[:, -1] if robot.command_interface == 'position' else grouped.mean(1)
        position, velocity = (value[:steps * stride + 1:stride] for value in (position, velocity))
        action = normalised(robot, command, position[:-1, commanded(robot)])
        self._tally.leave_out(NOT_KNOWN_BEFORE)
        yield from self._builder.build(position[1:], velocity[1:], action[1:], action[0])

    def _table(self, path: Path, batch: Any, name: str) -> np.ndarray:
        """Give the numbers (rows, size) of a feature."""
        from pyarrow import compute, types

        column, size = batch.column(name), self._sizes[name]
        kind = column.type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            lengths = compute.list_value_length(column)
            fits = not column.null_count and bool((np.asarray(lengths) == size).all())
            kind, column = kind.value_type, column.flatten()
        else:
            fits = size == 1
        if not fits or not (types.is_integer(kind) or types.is_floating(kind)):
            raise DatasetError(f'{path}: {name} is not {size} numbers in every frame')
        return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(-1, size)

    def _whole(self, path: Path, batch: Any, name: str) -> np.ndarray:
        """Give the whole numbers (rows,) of a column."""
        from pyarrow import types

        column = batch.column(name)
        if not types.is_integer(column.type) or column.null_count:
            raise DatasetError(f'{path}: {name} is not a whole number in every frame')
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.int64)


def _places(names: list[str], joints: Sequence[str], suffixes: Sequence[str]) -> list[list[int]]:
    """Give the places of names that are those of each joint with something behind it."""
    return [[place for place, name in enumerate(names)
             if name in {joint + suffix for suffix in suffixes}] for joint in joints]


def _states_by_name(where: str, names: list[str], robot: Any) -> np.ndarray:
    """Give the places of the joints' positions, and then of their velocities if there are any.

    Raises:
        DatasetError: the names do not tell them.
    """
    joints = robot.state_names
    plain = _places(names, joints, ('',))
    position, velocity = (
        [told or bare[part] for told, bare in zip(
            _places(names, joints, _SUFFIXES[kind]), plain, strict=True)]
        for kind, part in (('position', slice(0, 1)), ('velocity', slice(1, None))))
    counts = {len(places) for places in velocity}
    if {len(places) for places in position} != {1} or counts not in ({0}, {1}):
        raise _misnamed(where, STATE, names, joints, 'a position, and all or none a velocity')
    # Of two numbers of one name the second is the velocity only where all positions come first.
    if max(map(len, plain)) > 1 and max(position) > min(velocity):
        raise _misnamed(where, STATE, names, joints, 'a position, and .vel behind a velocity')
    return np.array([*position, *(velocity if counts == {1} else [])])[:, 0]


def _actions_by_name(where: str, names: list[str], robot: Any) -> np.ndarray:
    """Give the places of the commands of the joints.

    Raises:
        DatasetError: the names do not tell them.
    """
    kind, joints = robot.command_interface, robot.joint_names
    found = [told or bare for told, bare in zip(
        _places(names, joints, _SUFFIXES[kind]), _places(names, joints, ('',)), strict=True)]
    if {len(places) for places in found} != {1}:
        raise _misnamed(where, ACTION, names, joints, f'one {kind}')
    return np.array(found)[:, 0]


def _misnamed(where: str, feature: str, names: list[str], joints: Sequence[str],
              wanted: str) -> DatasetError:
    return DatasetError(f'{where}names of {feature} are {", ".join(names)[:300]}, but each of the '
                        f'joints {", ".join(joints)} needs {wanted}; name them so')


def _names(told: Any) -> list[str]:
    """Flatten the names of a feature: a list, or a mapping of one, perhaps with what they are."""
    if isinstance(told, dict):
        lists = [value for value in told.values() if isinstance(value, list)]
        told = lists[0] if len(lists) == 1 else list(told)
    if not isinstance(told, list):
        return []
    return [str(name) for name in told]


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
