"""Data sets of LeRobot become datasets, or it is said why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arm7
import bodies
import numpy as np
import pytest
from dataset_rig import all_columns

from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import NOT_KNOWN_BEFORE, GoalRule
from async_mbrl.datasets.identity import DatasetError, identity_of
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.store import read_about
from async_mbrl.tasks import make_task


def load(source: Path, tmp_path: Path, built: Any, **options: Any
         ) -> tuple[Columns, dict[str, Any]]:
    import_sources([source], tmp_path / 'dataset', built, ImportOptions(**options), print)
    return (joined(all_columns(tmp_path / 'dataset')),
            dict(read_about(tmp_path / 'dataset').sources[0]))


def arm(interface: str = 'position', **changes: Any) -> Any:
    scale = (0.2,) * 7 if interface == 'position' else (5.0,) * 7
    return make_task(arm7.task(**changes),
                     arm7.robot(command_interface=interface, action_scale=scale))


NAMES = list(arm7.robot().joint_names)
PREVIOUS = identity_of(arm()).part('previous_action')


Layout = Sequence[tuple[str, int]]


def lerobot(folder: Path, lengths: list[int], *, version: str = 'v3.0', fps: float = 30.0,
            velocities: bool = False, names: Any = None, files: int = 1, scale: float = 1.0,
            layout: tuple[Layout, Layout] | None = None, **changes: Any
            ) -> list[tuple[np.ndarray, np.ndarray]]:
    """A LeRobot folder; gives state and action of each episode, joints in our order, in rad.

    A layout says what stands in it: names, and places among positions, velocities and a gripper.
    """
    pyarrow = pytest.importorskip('pyarrow', reason='LeRobot datasets are Parquet files')
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    episodes = []
    for length in lengths:
        state = np.cumsum(rng.normal(0.0, 0.01, (length, 15)), 0)
        action = np.concatenate([state[:, :7] + rng.uniform(-0.1, 0.1, (length, 7)),
                                 state[:, 14:]], 1)
        episodes.append((state, action))
    order = [3, 1, 0, 2, 6, 5, 4] if names == 'other' else list(range(7))
    told: Any = [f'{NAMES[place]}.pos' for place in order] if names is not None else None
    acted: Any = None if told is None else {'motors': told}
    columns = [*order, *(7 + place for place in order)] if velocities else order
    if layout is not None:
        told, columns = [name for name, _ in layout[0]], [place for _, place in layout[0]]
        acted, order = [name for name, _ in layout[1]], [place for _, place in layout[1]]
    (folder / 'meta').mkdir(parents=True)
    (folder / 'meta' / 'info.json').write_text(json.dumps({
        'codebase_version': version, 'fps': fps, 'features': {
            'observation.state': {'dtype': 'float32', 'shape': [len(columns)], 'names': told},
            'action': {'dtype': 'float32', 'shape': [len(order)], 'names': acted}}}))
    rows = [(scale * state[frame, columns], scale * action[frame, order], number, frame)
            for number, (state, action) in enumerate(episodes) for frame in range(len(state))]
    (folder / 'data' / 'chunk-000').mkdir(parents=True)
    for file in range(files):
        part = rows[len(rows) * file // files:len(rows) * (file + 1) // files]
        vector = pyarrow.list_(pyarrow.float32())
        parquet.write_table(pyarrow.table({
            'observation.state': pyarrow.array([list(map(float, row[0])) for row in part], vector),
            'action': pyarrow.array([list(map(float, row[1])) for row in part], vector),
            'episode_index': pyarrow.array([row[2] for row in part], pyarrow.int64()),
            'frame_index': pyarrow.array([row[3] for row in part], pyarrow.int64()),
            **{name: pyarrow.array(values) for name, values in changes.items()},
        }), folder / 'data' / 'chunk-000' / f'file-{file:03d}.parquet')
    return episodes


REACHED = {'goal': GoalRule('reached'), 'actor': Source.HUMAN}


@pytest.mark.parametrize(('options', 'degrees'), [
    ({}, False), ({'names': 'other', 'files': 3}, False), ({'velocities': True}, False),
    ({'version': 'v2.1', 'names': 'same', 'files': 2}, False),
    ({'scale': 180.0 / np.pi}, True), ({'fps': 10.0}, False),
])
def test_lerobot_states_become_steps(tmp_path: Path, options: dict[str, Any],
                                     degrees: bool) -> None:
    episodes = lerobot(tmp_path / 'lerobot', [64, 5, 33], **options)
    stride = round(options.get('fps', 30.0) / 10.0)
    built = arm()
    found, source = load(tmp_path / 'lerobot', tmp_path, built, **REACHED, degrees=degrees)
    row = 0
    for state, action in episodes:
        position = state[:, :7]
        change = np.diff(position, axis=0) * 10.0 * stride
        velocity = state[:, 7:14] if 'velocities' in options else np.concatenate(
            [change[:1], change])
        for step in range(1, (len(state) - 1) // stride):
            first, after = stride * step, stride * (step + 1)
            led = np.clip((action[after - 1, :7] - position[first]) / 0.2, -1, 1)
            np.testing.assert_allclose(found.action_applied[row], led, atol=1e-4)
            np.testing.assert_allclose(found.observation[row, :7], position[first], atol=1e-5)
            np.testing.assert_allclose(found.observation[row, 7:14], velocity[first], atol=1e-3)
            np.testing.assert_allclose(found.next_observation[row, :7], position[after], atol=1e-5)
            before = np.clip((action[first - 1, :7] - position[first - stride]) / 0.2, -1, 1)
            np.testing.assert_allclose(found.observation[row, PREVIOUS], before, atol=1e-4)
            row += 1
    assert row == len(found) and source['left_out'][NOT_KNOWN_BEFORE] == 3


def test_lerobot_efforts_are_means(tmp_path: Path) -> None:
    episodes = lerobot(tmp_path / 'lerobot', [31])
    found, _ = load(tmp_path / 'lerobot', tmp_path, arm('effort'), **REACHED)
    np.testing.assert_allclose(found.action_applied, episodes[0][1][3:30, :7].reshape(
        9, 3, 7).mean(1) / 5.0, atol=1e-6)


def test_a_damaged_parquet_file_costs_only_itself(tmp_path: Path) -> None:
    lerobot(tmp_path / 'lerobot', [40, 40, 40], files=3)
    path = tmp_path / 'lerobot' / 'data' / 'chunk-000' / 'file-001.parquet'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r'file-001\.parquet: damaged'):
        load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED)
    found, source = load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED, skip_damaged=True)
    assert len(found) == 24 and 'file-001.parquet' in str(source['notes'])


def test_frames_that_are_missing_divide_an_episode(tmp_path: Path) -> None:
    lerobot(tmp_path / 'lerobot', [40, 40, 40], files=3)
    (tmp_path / 'lerobot' / 'data' / 'chunk-000' / 'file-001.parquet').unlink()
    found, _ = load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED)
    assert found.episode.tolist() == [0] * 12 + [1] * 12


@pytest.mark.parametrize(('built', 'options', 'words'), [
    (arm(), {'fps': 25.0}, '25 frames a second, but task reach takes 10 steps a second'),
    (arm(), {'version': 'v1.6'}, 'version 1.6, but versions 2 and 3 are read'),
    (bodies.task('hopper'), {'fps': 125.0}, '7 numbers of observation.state and 7 of action, but'),
])
def test_lerobot_that_does_not_fit_is_refused(tmp_path: Path, built: Any, options: dict[str, Any],
                                              words: str) -> None:
    lerobot(tmp_path / 'lerobot', [10], **options)
    with pytest.raises(DatasetError, match=words):
        load(tmp_path / 'lerobot', tmp_path, built, goal=GoalRule('drawn'))


def test_without_pyarrow_the_remedy_is_said(tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'lerobot'
    (folder / 'meta').mkdir(parents=True)
    (folder / 'data').mkdir()
    feature = {'shape': [7], 'names': NAMES}
    (folder / 'meta' / 'info.json').write_text(json.dumps({
        'codebase_version': 'v3.0', 'fps': 10,
        'features': {'observation.state': feature, 'action': feature}}))
    with pytest.raises(DatasetError, match='no Parquet file below data'):
        load(folder, tmp_path, arm(), **REACHED)
    (folder / 'data' / 'file-000.parquet').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(DatasetError, match='pip install pyarrow'):
        load(folder, tmp_path, arm(), **REACHED)


@pytest.mark.parametrize('content', ['', '[]', '{"codebase_version": "v3.0"}',
                                     '{"codebase_version": "v3.0", "fps": 0, "features": {}}',
                                     '{"codebase_version": "v3", "fps": 5, "features": {"a": 1}}'])
def test_a_wrong_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / 'a' / 'meta').mkdir(parents=True)
    (tmp_path / 'a' / 'meta' / 'info.json').write_text(content)
    with pytest.raises(DatasetError, match=r'info\.json: not that of a LeRobot dataset'):
        load(tmp_path / 'a', tmp_path, arm(), **REACHED)


def named(suffix: str, first: int = 0) -> list[tuple[str, int]]:
    return [(name + suffix, first + place) for place, name in enumerate(NAMES)]


POSITIONS, COMMANDS = named('.pos'), named('.pos')
GRIPPER = ('gripper.pos', 14)
INTERLEAVED = [item for pair in zip(named(''), named('_velocity', 7), strict=True)
               for item in pair]


@pytest.mark.parametrize('layout', [
    ([*POSITIONS, *named('.vel', 7), *named('.effort', 7)], COMMANDS),
    ([*named(''), *named('', 7)], named('')),
    (INTERLEAVED, COMMANDS),
    ([GRIPPER, *POSITIONS[::-1], *named('_vel', 7)], [*named(''), ('gripper', 7)]),
])
def test_numbers_go_by_their_names(tmp_path: Path, layout: tuple[Layout, Layout]) -> None:
    (state, action), = lerobot(tmp_path / 'lerobot', [31], layout=layout)
    found, source = load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED)
    np.testing.assert_allclose(found.observation[:, :14], state[3:30:3, :14], atol=1e-5)
    np.testing.assert_allclose(found.action_applied, np.clip(
        (action[5:30:3, :7] - state[3:30:3, :7]) / 0.2, -1, 1), atol=1e-4)
    assert not source['notes']


@pytest.mark.parametrize('layout', [
    (POSITIONS[:6], COMMANDS),
    ([(f'x{place}', place) for place in range(7)], COMMANDS),
    ([*POSITIONS, *named('.vel', 7)[:5], ('x', 0), ('y', 1)], COMMANDS),
    ([item for pair in zip(named(''), named('', 7), strict=True) for item in pair], COMMANDS),
    (POSITIONS, named('.vel')), (POSITIONS, [(f'tool_{place}', place) for place in range(7)]),
])
def test_names_that_are_not_those_of_the_joints_are_refused(
        tmp_path: Path, layout: tuple[Layout, Layout]) -> None:
    lerobot(tmp_path / 'lerobot', [10], layout=layout)
    with pytest.raises(DatasetError, match=r'info\.json: names of .*; name them so'):
        load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED)


@pytest.mark.parametrize(('changes', 'words'), [
    ({'episode_index': [0.5] * 10}, 'episode_index is not a whole number'),
    ({'frame_index': [*range(9), None]}, 'frame_index is not a whole number'),
    ({'action': [[0.0] * (8 - row % 3) for row in range(9)] + [[0.0] * 7]}, 'action is not 7 num'),
    ({'action': [['a'] * 7] * 10}, 'action is not 7 numbers'),
    ({'observation.state': [{'a': 1.0}] * 10}, 'observation.state is not 7 numbers'),
])
def test_columns_of_other_kinds_are_refused(tmp_path: Path, changes: dict[str, Any],
                                            words: str) -> None:
    lerobot(tmp_path / 'lerobot', [10], **changes)
    with pytest.raises(DatasetError, match=r'file-000\.parquet: ' + words):
        load(tmp_path / 'lerobot', tmp_path, arm(), **REACHED)
