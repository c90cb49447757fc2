"""HDF5 files of D4RL and Minari become datasets, or it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bodies
import h5py
import numpy as np
import pytest
from dataset_rig import all_columns

from async_mbrl.datasets import hdf5
from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import CLIPPED
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.store import read_about

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


@pytest.mark.parametrize('block', [65_536, 5, 1])
def test_rows_that_are_not_finite_are_left_out(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(hdf5, 'BLOCK', block)
    arrays = d4rl(30, ENDS)
    arrays['next_observations'] = arrays['observations'].astype(np.float64)
    arrays['next_observations'][5, 3] = 1e200       # more than single precision has
    arrays['actions'][[0, 10, 15, 16], 1] = np.nan
    arrays['rewards'][29] = -np.inf
    found, source = load(write(tmp_path / 'a.hdf5', arrays), tmp_path, bodies.task('hopper'))
    kept = [row for row in range(30) if row not in (0, 5, 10, 15, 16, 29)]
    assert source['left_out'] == {'not finite': 6}
    assert np.array_equal(found.observation, arrays['observations'][kept])
    ends = [kept[row] for row in np.flatnonzero(found.truncated)]
    assert ends == [4, 14, 24, 28]      # not 9, which was terminated


def test_an_episode_that_does_not_fit_costs_only_itself(tmp_path: Path) -> None:
    minari(tmp_path / 'minari', [4, 3, 5])
    path = tmp_path / 'minari' / 'data' / 'main_data.hdf5'
    with h5py.File(path, 'a') as file:
        del file['episode_1/rewards']
        file['episode_1/rewards'] = np.zeros(17)
    with pytest.raises(DatasetError, match='episode_1/rewards is float64 of shape'):
        load(tmp_path / 'minari', tmp_path, bodies.task('hopper'))
    found, source = load(tmp_path / 'minari', tmp_path, bodies.task('hopper'), skip_damaged=True)
    assert found.episode.tolist() == [0] * 4 + [2] * 5
    assert source['left_out'] == {'damaged episodes': 1}
    with pytest.raises(DatasetError, match='give the task and robot it was recorded with'):
        load(tmp_path / 'minari', tmp_path / 'x', bodies.task('walker2d'), skip_damaged=True)


def test_a_damaged_episode_costs_only_itself(tmp_path: Path) -> None:
    minari(tmp_path / 'minari', [4, 3, 5])
    path = tmp_path / 'minari' / 'data' / 'main_data.hdf5'
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file['episode_1/observations'].id).addr
    data = bytearray(path.read_bytes())
    data[place:place + 16] = b'\xff' * 16
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match='episode_1 cannot be read'):
        load(tmp_path / 'minari', tmp_path, bodies.task('hopper'))
    found, _ = load(tmp_path / 'minari', tmp_path, bodies.task('hopper'), skip_damaged=True)
    assert found.episode.tolist() == [0] * 4 + [2] * 5


def test_sizes_are_not_taken_on_trust(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.hdf5', d4rl(5, {}))
    with h5py.File(path, 'a') as file:
        for name in d4rl(5, {}):
            shape = file[name].shape[1:]
            del file[name]
            file.create_dataset(name, (10**12, *shape), np.float32, chunks=(64, *shape))
    with pytest.raises(DatasetError, match='actions says that it has 12000000000000 bytes, but'):
        load(path, tmp_path, bodies.task('hopper'))
    path = write(tmp_path / 'b.hdf5', d4rl(5, {}))
    with h5py.File(path, 'a') as file:
        del file['rewards']
        file.create_dataset('rewards', (5,), np.float32, maxshape=(None,), chunks=(2**27,))
    with pytest.raises(DatasetError, match='rewards has chunks of 536870912 bytes'):
        load(path, tmp_path, bodies.task('hopper'))
