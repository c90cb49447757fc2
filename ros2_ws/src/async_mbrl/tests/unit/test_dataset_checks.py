"""What is wrong with a dataset is found with its place; merging and dividing lose nothing."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_rig import (
    all_columns,
    assert_same,
    damage,
    identity,
    other,
    transitions,
    write_dataset,
)
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.datasets import store
from async_mbrl.datasets.checking import Finding, check
from async_mbrl.datasets.columns import Columns, Source, columns_of, joined
from async_mbrl.datasets.editing import (
    best_of_episodes,
    merge,
    share_of_episodes,
    split,
)
from async_mbrl.datasets.identity import DatasetError, Identity
from async_mbrl.datasets.statistics import Episodes, describe, read_episodes
from async_mbrl.datasets.store import DatasetWriter, read_about


def write(folder: Path, columns: Columns, shard_rows: int = 7,
          of: Identity | None = None) -> Path:
    with DatasetWriter(folder, of or identity(), shard_rows=shard_rows) as writer:
        writer.append(columns)
    return folder


def columns(count: int = 25, seed: int = 0) -> Columns:
    return columns_of(transitions(count, seed), Source.POLICY)


@pytest.mark.parametrize('shard_rows', [1, 3, 5, 100])
def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path, shard_rows: int) -> None:
    assert check(write(tmp_path / 'a', columns(), shard_rows)) == []


def put(name: str, rows: Any, value: Any) -> Callable[[Columns], Columns]:
    def change(whole: Columns) -> Columns:
        getattr(whole, name)[rows] = value
        return whole
    return change


def without(row: int) -> Callable[[Columns], Columns]:
    return lambda whole: whole[np.arange(len(whole)) != row]


def again(whole: Columns) -> Columns:
    repeated = dataclasses.replace(whole[5:10], episode=np.full(5, 99))
    return joined([whole, repeated])


def back(whole: Columns) -> Columns:
    episode = whole.episode.copy()
    episode[20:] = 1
    return dataclasses.replace(whole, episode=episode)


@pytest.mark.parametrize('shard_rows', [1, 4, 100])
@pytest.mark.parametrize(('change', 'expected'), [
    (put('observation', (8, 3), np.nan), [
        (True, 'observation is not finite', 1, 8, 1, 3)]),
    (put('reward', [3, 9], np.inf), [(True, 'reward is not finite', 2, 3, 0, 3)]),
    (put('action_applied', (slice(6, 9), 0), 1.2), [
        (True, 'action_applied is beyond 1, the greatest normalised action', 3, 6, 1, 1)]),
    (put('log_probability', 4, np.nan), []),
    (put('log_probability', 4, -np.inf), [(True, 'log_probability is infinite', 1, 4, 0, 4)]),
    (put('terminated', 9, True), [(True, 'both terminated and truncated', 1, 9, 1, 4)]),
    (put('truncated', 9, False), [
        (False, 'an episode ends without being terminated or truncated', 1, 9, 1, 4)]),
    (put('truncated', 7, True), [
        (True, 'an episode goes on after it was terminated or truncated', 1, 8, 1, 3)]),
    (without(7), [(True, 'steps are missing or out of order within an episode', 1, 7, 1, 3)]),
    (without(5), [(False, 'an episode does not begin with step 0', 1, 5, 1, 1)]),
    (put('next_observation', (11, 2), 5.0), [
        (True, 'next_observation is not the observation of the next step', 1, 12, 2, 2)]),
    (back, [(True, 'an episode number comes again', 1, 20, 1, 0)]),
])
def test_what_is_wrong_is_found_with_its_place(
        tmp_path: Path, change: Callable[[Columns], Columns],
        expected: list[tuple[bool, str, int, int, int, int]], shard_rows: int) -> None:
    found = check(write(tmp_path / 'a', change(columns()), shard_rows))
    assert found == [Finding(error, what, count, f'at transition {row} (episode {episode}, step '
                                                 f'{step})')
                     for error, what, count, row, episode, step in expected]


def test_a_gap_behind_a_cut_is_no_error(tmp_path: Path) -> None:
    whole = columns()
    whole.truncated[6] = True
    (found,) = check(write(tmp_path / 'a', whole[np.arange(25) != 7]))
    assert not found.error and found.what == 'steps are missing behind a cut within an episode'


def test_degrees_are_suspected(tmp_path: Path) -> None:
    whole = columns()
    whole.observation[:, 2] *= 180.0 / np.pi
    whole.next_observation[:, 2] *= 180.0 / np.pi
    found = check(write(tmp_path / 'a', whole))
    assert [finding.what for finding in found] == [
        'position of a joint is beyond 12.6 rad; are they in degrees?']
    assert str(found[0]).startswith('note: ') and found[0].count > 5


@pytest.mark.parametrize('shard_rows', [2, 100])
def test_episodes_that_come_twice_are_found(tmp_path: Path, shard_rows: int) -> None:
    found = check(write(tmp_path / 'a', again(columns()), shard_rows))
    assert found == [Finding(False, 'an episode has the same content as another', 1,
                             'episode 99 as episode 1')]


def test_damage_is_found_and_the_rest_checked(tmp_path: Path) -> None:
    whole = columns()
    whole.reward[22] = np.nan
    folder = write(tmp_path / 'a', whole, 5)
    damage(folder / 'part-00001.safetensors')
    found = check(folder)
    assert [finding.error for finding in found] == [True, True]
    assert 'part-00001.safetensors: damaged' in found[0].what
    assert found[1].place == 'at transition 22 (episode 4, step 2)'


@pytest.mark.parametrize('shard_rows', [2, 3, 4])
def test_behind_damage_nothing_is_found_that_is_not_there(tmp_path: Path, shard_rows: int) -> None:
    folder = write(tmp_path / 'a', columns(), shard_rows)
    damage(folder / 'part-00001.safetensors')
    found = check(folder)
    assert len(found) == 1 and 'part-00001.safetensors: damaged' in found[0].what


def test_merging_keeps_everything_and_numbers_episodes_on(tmp_path: Path) -> None:
    parts = [columns(12), columns(10, seed=1), columns(5, seed=2)]
    folders = [write(tmp_path / f'{place}', part) for place, part in enumerate(parts)]
    about = merge(folders, tmp_path / 'all')
    found = joined(all_columns(tmp_path / 'all'))
    assert found.episode.tolist() == [*np.repeat([0, 1, 2], [5, 5, 2]), *np.repeat([3, 4, 5], 5)]
    expected = joined(parts)
    assert_same(dataclasses.replace(found, episode=expected.episode), expected)
    assert about.episodes == 6 and check(tmp_path / 'all')[0].what.startswith('an episode ends')


def test_merging_another_task_is_refused(tmp_path: Path) -> None:
    write(tmp_path / 'a', columns())
    write(tmp_path / 'b', columns(), of=other(velocity_cost=1.0))
    with pytest.raises(DatasetError, match=r'b: made with another task or robot: task\.velocity'
                                           r'_cost is 1\.0, not 0\.0125'):
        merge([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'all')
    assert not (tmp_path / 'all').exists()


@given(count=st.integers(11, 60), share=st.floats(0.2, 0.8), seed=st.integers(0, 3),
       shard_rows=st.integers(1, 40))
def test_dividing_by_share_loses_nothing(tmp_path_factory: pytest.TempPathFactory, count: int,
                                         share: float, seed: int, shard_rows: int) -> None:
    tmp_path = tmp_path_factory.mktemp('split')
    whole = columns(count)
    write(tmp_path / 'a', whole, shard_rows)
    first, second = split(tmp_path / 'a', tmp_path / 'b', tmp_path / 'c', share=share, seed=seed)
    parts = [joined(all_columns(about.folder)) for about in (first, second)]
    assert not set(parts[0].episode) & set(parts[1].episode)
    both = joined(parts)
    assert_same(both[np.lexsort([both.step, both.episode])], whole)
    assert first.episodes == round(share * (first.episodes + second.episodes) + 1e-9) or (
        abs(first.episodes - share * (first.episodes + second.episodes)) <= 0.5)


def test_dividing_is_the_same_for_a_seed_and_by_return(tmp_path: Path) -> None:
    whole = columns(100)
    write(tmp_path / 'a', whole)
    drawn = [split(tmp_path / 'a', tmp_path / f'{seed}{again}', tmp_path / f'x{seed}{again}',
                   share=0.5, seed=seed)[0] for seed, again in ((1, 0), (1, 1), (2, 0))]
    numbers = [set(joined(all_columns(about.folder)).episode.tolist()) for about in drawn]
    assert numbers[0] == numbers[1] != numbers[2]
    best, rest = split(tmp_path / 'a', tmp_path / 'best', tmp_path / 'rest', return_quantile=0.7)
    assert (best.episodes, rest.episodes) == (6, 14)
    assert min(read_episodes(best.folder).returns) > max(read_episodes(rest.folder).returns)
    assert best.sources == () and read_about(tmp_path / 'best').transitions == 30


def test_what_a_person_took_over_is_taken_out(tmp_path: Path) -> None:
    whole = columns(50)
    whole.source[:] = Source.POLICY
    whole.source[[7, 8, 31]] = Source.HUMAN
    write(tmp_path / 'a', whole)
    theirs, rest = split(tmp_path / 'a', tmp_path / 'b', tmp_path / 'c', actor=Source.HUMAN)
    numbers = {int(whole.episode[row]) for row in (7, 31)}
    assert set(joined(all_columns(theirs.folder)).episode.tolist()) == numbers
    assert (joined(all_columns(theirs.folder)).source == Source.HUMAN).sum() == 3
    assert (joined(all_columns(rest.folder)).source == Source.POLICY).all()
    with pytest.raises(DatasetError, match='actor: script gives 0 of'):
        split(tmp_path / 'a', tmp_path / 'd', tmp_path / 'e', actor=Source.SCRIPT)


@pytest.mark.parametrize('which', [0, 1])
def test_half_of_a_division_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    which: int) -> None:
    write(tmp_path / 'a', columns())
    written: list[Path] = []
    whole = store.write_atomically

    def full(path: Path, data: str) -> None:
        written.append(path)
        if len(written) > which:
            raise OSError(errno.ENOSPC, 'No space left on device')
        whole(path, data)

    monkeypatch.setattr(store, 'write_atomically', full)
    with pytest.raises(OSError, match='No space'):
        split(tmp_path / 'a', tmp_path / 'b', tmp_path / 'c', share=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_nothing_is_divided_into_nothing() -> None:
    episodes = Episodes(np.arange(3), np.ones(3, np.int64), np.zeros(3),
                        np.zeros((3, 256), bool), {})
    with pytest.raises(DatasetError, match=r'share: 0\.1 gives 0 of 3'):
        share_of_episodes(episodes, 0.1, 0)
    with pytest.raises(DatasetError, match=r'return_quantile: 0\.5 gives 3 of 3'):
        best_of_episodes(episodes, 0.5)


@pytest.mark.parametrize('how', [
    {}, {'share': 0.5, 'return_quantile': 0.5}, {'share': 0.5, 'actor': Source.HUMAN},
    {'share': 1.5}])
def test_dividing_wrongly_is_refused(tmp_path: Path, how: dict[str, float]) -> None:
    write(tmp_path / 'a', columns())
    with pytest.raises(DatasetError):
        split(tmp_path / 'a', tmp_path / 'b', tmp_path / 'c', **how)  # type: ignore[arg-type]
    assert not (tmp_path / 'b').exists()


def test_both_parts_are_not_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path / 'a', columns())
    with pytest.raises(DatasetError, match='split: both parts would be .*name two folders'):
        split(tmp_path / 'a', tmp_path / 'b', tmp_path / 'x' / '..' / 'b', share=0.5)
    assert not (tmp_path / 'b').exists()


def test_a_dataset_is_described(tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / 'a', transitions(23), shard_rows=4)
    told = describe(tmp_path / 'a')
    assert (told['transitions'], told['episodes'], told['robot_time_s']) == (23, 5, 2.3)
    assert told['actors'] == {'policy': 23} and told['task'] == 'reach'
    returns = [whole.reward[whole.episode == number].sum() for number in range(5)]
    assert told['return']['greatest'] == pytest.approx(max(returns))
    assert told['steps_of_an_episode'] == {'least': 3, 'median': 5, 'mean': 4.6, 'greatest': 5}
