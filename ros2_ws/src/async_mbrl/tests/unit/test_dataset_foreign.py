"""Data sets of D4RL, Minari and LeRobot become datasets, or it is said why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import arm7
import bodies
import h5py
import numpy as np
import pytest
from dataset_rig import all_columns

from async_mbrl.datasets import hdf5
from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import CLIPPED, NOT_KNOWN_BEFORE, GoalRule
from async_mbrl.datasets.identity import DatasetError, identity_of
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.store import read_about
from async_mbrl.tasks import make_task

OBSERVATION, ACTION = 11, 3      # of the hopper


def load(source: Path, tmp_path: Path, built: Any, **options: Any
         ) -> tuple[Columns, dict[str, Any]]:
    import_sources([source], tmp_path / 'dataset', built, ImportOptions(**options), print)
    return (joined(all_columns(tmp_path / 'dataset')),
            dict(read_about(tmp_path / 'dataset').sources[0]))


def d4rl(rows: int, ends: dict[int, str], seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as D4RL has them; ``ends``: row -> terminals or timeouts."""
    rng = np.random.default_rng(seed)
    arrays = {'observations': rng.normal(size=(rows, OBSERVATION)).astype(np.float32),
              'actions': rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
              'rewards': rng.normal(size=rows).astype(np.float32),
              'terminals': np.zeros(rows, bool), 'timeouts': np.zeros(rows, bool)}
    for row, name in ends.items():
        arrays[name][row] = True
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, 'w') as file:
        for name, values in arrays.items():
            file[name] = values
    return path


ENDS = {9: 'terminals', 24: 'timeouts', 25: 'terminals'}


@pytest.mark.parametrize('block', [65_536, 5, 1])
def test_d4rl_with_next_observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     block: int) -> None:
    monkeypatch.setattr(hdf5, 'BLOCK', block)
    arrays = d4rl(30, ENDS)
    arrays['next_observations'] = arrays['observations'][::-1].copy()
    arrays['infos/action_log_probs'] = np.arange(30, dtype=np.float32)
    found, source = load(write(tmp_path / 'a.hdf5', arrays), tmp_path, bodies.task('hopper'),
                         actor=Source.POLICY)
    assert np.array_equal(found.observation, arrays['observations'])
    assert np.array_equal(found.next_observation, arrays['next_observations'])
    assert np.array_equal(found.reward, arrays['rewards'])
    assert np.flatnonzero(found.terminated).tolist() == [9, 25]
    assert np.flatnonzero(found.truncated).tolist() == [24, 29]
    assert found.episode.tolist() == [0] * 10 + [1] * 15 + [2] + [3] * 4
    assert found.step.tolist() == [*range(10), *range(15), 0, *range(4)]
    assert np.array_equal(found.log_probability, np.arange(30))
    assert set(found.source.tolist()) == {Source.POLICY}
    assert source['marked'] == {hdf5.CUT: 1} and not source['left_out']


@pytest.mark.parametrize('block', [65_536, 5, 1])
def test_d4rl_without_next_observations_loses_the_ends(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(hdf5, 'BLOCK', block)
    arrays = d4rl(30, ENDS)
    found, source = load(write(tmp_path / 'a.h5', arrays), tmp_path, bodies.task('hopper'))
    kept = [*range(9), *range(10, 24), *range(26, 29)]
    assert np.array_equal(found.observation, arrays['observations'][kept])
    assert np.array_equal(found.next_observation, arrays['observations'][np.array(kept) + 1])
    assert np.flatnonzero(found.truncated).tolist() == [8, 22, 25] and not found.terminated.any()
    assert found.episode.tolist() == [0] * 9 + [1] * 14 + [3] * 3
    assert source['left_out'] == {'terminations without next_observations': 2,
                                  'ends of episodes without next_observations': 2}


def test_rewards_can_be_those_of_the_task(tmp_path: Path) -> None:
    arrays = d4rl(20, {})
    arrays['actions'][3] *= 2.0 / np.abs(arrays['actions'][3]).max()
    built = bodies.task('hopper')
    found, source = load(write(tmp_path / 'a.hdf5', arrays), tmp_path, built, own_rewards=True)
    assert np.array_equal(found.reward, built.reward(
        np, found.next_observation.astype(np.float64), found.action_applied.astype(np.float64)))
    assert found.intervened.tolist() == [row == 3 for row in range(19)]
    assert source['marked'][CLIPPED] == 1 and np.abs(found.action_applied).max() == 1.0


def minari(path: Path, lengths: list[int]) -> dict[str, np.ndarray]:
    arrays = {}
    rng = np.random.default_rng(1)
    for number, length in enumerate(lengths):
        arrays.update({
            f'episode_{number}/observations': rng.normal(size=(length + 1, OBSERVATION)),
            f'episode_{number}/actions': rng.uniform(-1, 1, (length, ACTION)),
            f'episode_{number}/rewards': rng.normal(size=length),
            f'episode_{number}/terminations': np.arange(length) == (
                length - 1 if number % 3 == 0 else -1),
            f'episode_{number}/truncations': np.arange(length) == (
                length - 1 if number % 3 == 1 else -1)})
    (path / 'data').mkdir(parents=True)
    write(path / 'data' / 'main_data.hdf5', arrays)
    return arrays


def test_minari(tmp_path: Path) -> None:
    lengths = [4, 3, 5, 2, 0, 1, 2, 3, 4, 2, 6, 3]      # more than ten: 10 comes after 9
    arrays = minari(tmp_path / 'minari', lengths)
    found, source = load(tmp_path / 'minari', tmp_path, bodies.task('hopper'))
    assert found.episode.tolist() == [number for number, length in enumerate(lengths)
                                      for _ in range(length)]
    np.testing.assert_array_equal(found.observation[-3:], np.float32(
        arrays['episode_11/observations'][:-1]))
    np.testing.assert_array_equal(found.next_observation[-3:], np.float32(
        arrays['episode_11/observations'][1:]))
    ends = np.cumsum(lengths) - 1
    assert np.flatnonzero(found.terminated).tolist() == ends[[0, 3, 6, 9]].tolist()
    assert source['left_out'] == {'empty episodes': 1} and source['marked'] == {hdf5.CUT: 4}


@pytest.mark.parametrize(('change', 'words'), [
    ({'observations': np.zeros((5, 17))}, r'observations is float64 of shape \(5, 17\), but'),
    ({'rewards': np.zeros((4,))}, r'rewards is float64 of shape \(4,\)'),
    ({'actions': np.zeros((5, ACTION), 'S3')}, 'actions is .S3'),
    ({'observations/camera': np.zeros((5, 3))}, 'observations is a group of camera'),
    ({'timeouts': None}, 'timeouts is missing'),
    ({'observations': None}, 'neither D4RL'),
])
def test_hdf5_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any],
                                           words: str) -> None:
    arrays = d4rl(5, {})
    for name, values in change.items():
        arrays.pop(name.split('/')[0])
        if values is not None:
            arrays[name] = values
    with pytest.raises(DatasetError, match=r'a\.hdf5: ' + words):
        load(write(tmp_path / 'a.hdf5', arrays), tmp_path, bodies.task('hopper'))
    assert not (tmp_path / 'dataset').exists()


def test_hdf5_does_not_reach_into_other_files(tmp_path: Path) -> None:
    write(tmp_path / 'secret.hdf5', d4rl(5, {}))
    with h5py.File(tmp_path / 'a.hdf5', 'w') as file:
        for name in d4rl(5, {}):
            file[name] = h5py.ExternalLink('secret.hdf5', name)
    with pytest.raises(DatasetError, match='a link to elsewhere'):
        load(tmp_path / 'a.hdf5', tmp_path, bodies.task('hopper'))


def test_damaged_hdf5_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.hdf5', d4rl(500, {}))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r'a\.hdf5: cannot be read on'):
        load(path, tmp_path, bodies.task('hopper'))
    good = write(tmp_path / 'b.hdf5', d4rl(500, {}))
    about = import_sources([path, good], tmp_path / 'x', bodies.task('hopper'),
                           ImportOptions(skip_damaged=True), print)
    assert about.transitions == 499


def arm(interface: str = 'position', **changes: Any) -> Any:
    scale = (0.2,) * 7 if interface == 'position' else (5.0,) * 7
    return make_task(arm7.task(**changes),
                     arm7.robot(command_interface=interface, action_scale=scale))


NAMES = list(arm7.robot().joint_names)
PREVIOUS = identity_of(arm()).part('previous_action')


def lerobot(folder: Path, lengths: list[int], *, version: str = 'v3.0', fps: float = 30.0,
            velocities: bool = False, names: Any = None, files: int = 1,
            scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """A LeRobot folder; gives state and action of each episode, joints in our order, in rad."""
    pyarrow = pytest.importorskip('pyarrow', reason='LeRobot datasets are Parquet files')
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    width = 14 if velocities else 7
    episodes = []
    for length in lengths:
        state = np.cumsum(rng.normal(0.0, 0.01, (length, width)), 0)
        episodes.append((state, state[:, :7] + rng.uniform(-0.1, 0.1, (length, 7))))
    order = [3, 1, 0, 2, 6, 5, 4] if names == 'other' else list(range(7))
    told = [f'{NAMES[place]}.pos' for place in order] if names is not None else None
    (folder / 'meta').mkdir(parents=True)
    (folder / 'meta' / 'info.json').write_text(json.dumps({
        'codebase_version': version, 'fps': fps, 'features': {
            'observation.state': {'dtype': 'float32', 'shape': [width], 'names': told},
            'action': {'dtype': 'float32', 'shape': [7],
                       'names': None if told is None else {'motors': told}}}}))
    columns = [*order, *(7 + place for place in order)] if velocities else order
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
        velocity = state[:, 7:] if 'velocities' in options else np.concatenate(
            [change[:1], change])
        for step in range(1, (len(state) - 1) // stride):
            first, after = stride * step, stride * (step + 1)
            led = np.clip((action[after - 1] - position[first]) / 0.2, -1, 1)
            np.testing.assert_allclose(found.action_applied[row], led, atol=1e-4)
            np.testing.assert_allclose(found.observation[row, :7], position[first], atol=1e-5)
            np.testing.assert_allclose(found.observation[row, 7:14], velocity[first], atol=1e-3)
            np.testing.assert_allclose(found.next_observation[row, :7], position[after], atol=1e-5)
            before = np.clip((action[first - 1] - position[first - stride]) / 0.2, -1, 1)
            np.testing.assert_allclose(found.observation[row, PREVIOUS], before, atol=1e-4)
            row += 1
    assert row == len(found) and source['left_out'][NOT_KNOWN_BEFORE] == 3


def test_lerobot_efforts_are_means(tmp_path: Path) -> None:
    episodes = lerobot(tmp_path / 'lerobot', [31])
    found, _ = load(tmp_path / 'lerobot', tmp_path, arm('effort'), **REACHED)
    np.testing.assert_allclose(found.action_applied, episodes[0][1][3:30].reshape(
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
