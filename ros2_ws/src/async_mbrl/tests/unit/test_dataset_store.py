"""A dataset is whole or none; what is read is what was written, or said to be damaged."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

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
from async_mbrl.datasets.columns import Source, columns_of, empty_columns, joined
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.store import INDEX, DatasetWriter, read_about, read_columns


@given(counts=st.lists(st.integers(0, 30), max_size=6), shard_rows=st.integers(1, 25))
def test_what_is_read_is_what_was_written(counts: list[int], shard_rows: int) -> None:
    items = transitions(sum(counts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'dataset'
        with DatasetWriter(folder, identity(), shard_rows=shard_rows) as writer:
            first = 0
            for count in counts:
                writer.append(columns_of(items[first:first + count], Source.POLICY) if count
                              else empty_columns(0, 39, 7))
                first += count
        about = read_about(folder, identity())
        found = all_columns(folder)
    assert about.transitions == len(items) == sum(len(part) for part in found)
    assert [shard.rows for shard in about.shards] == [len(part) for part in found]
    assert about.episodes == len({item.episode for item in items})
    assert about.terminated == sum(item.terminated for item in items)
    assert about.intervened == sum(item.intervened for item in items)
    if items:
        assert_same(joined(found), columns_of(items, Source.POLICY))


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'a', transitions(3))
    with pytest.raises(DatasetError, match='exists already; choose another'):
        DatasetWriter(tmp_path / 'a', identity())
    (tmp_path / 'b').mkdir()
    with pytest.raises(DatasetError, match='not a whole dataset'):
        DatasetWriter(tmp_path / 'b', identity())


def test_what_ends_early_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path / 'a', identity(),
                                                         shard_rows=2) as writer:
        writer.append(columns_of(transitions(7), Source.POLICY))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_no_dataset(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / 'a', identity(), shard_rows=2)
    writer.append(columns_of(transitions(7), Source.POLICY))
    assert (tmp_path / 'a').is_dir()      # as a kill leaves it
    with pytest.raises(DatasetError, match='not a dataset'):
        read_about(tmp_path / 'a')


@pytest.mark.parametrize('early', [True, False])
def test_a_disk_that_is_full_at_the_end_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    write = store.write_atomically

    def full(path: Path, data: str) -> None:
        if not early:
            write(path, data)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(store, 'write_atomically', full)
    with pytest.raises(OSError, match='No space'):
        write_dataset(tmp_path / 'a', transitions(7), shard_rows=2)
    assert not list(tmp_path.iterdir())


def test_rows_of_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='observation of shape'), DatasetWriter(
            tmp_path / 'a', identity()) as writer:
        writer.append(empty_columns(3, 38, 7))
    assert not list(tmp_path.iterdir())


def test_rows_of_a_shard_are_bounded_by_its_bytes(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, 'SHARD_BYTES', 2000)
    write_dataset(tmp_path / 'a', transitions(20))
    assert {shard.rows for shard in read_about(tmp_path / 'a').shards} == {4}


@pytest.mark.parametrize(('harm', 'words'), [
    (damage, 'SHA-256'),
    (lambda path: path.write_bytes(path.read_bytes()[:-5]), 'bytes, not the'),
    (Path.unlink, 'cannot be read'),
])
def test_a_damaged_shard_is_named_and_costs_only_itself(tmp_path: Path, harm: object,
                                                        words: str) -> None:
    columns = write_dataset(tmp_path / 'a', transitions(10), shard_rows=4)
    harm(tmp_path / 'a' / 'part-00001.safetensors')      # type: ignore[operator]
    with pytest.raises(DatasetError, match=r'part-00001\.safetensors.*' + words):
        list(read_columns(tmp_path / 'a'))
    told: list[str] = []
    found = list(read_columns(tmp_path / 'a', skip_damaged=True, report=told.append))
    assert_same(joined(found), joined([columns[:4], columns[8:]]))
    assert len(told) == 1 and '4 transitions are left out' in told[0]


def test_a_shard_of_another_dataset_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'a', transitions(4))
    index = json.loads((tmp_path / 'a' / INDEX).read_text())
    index['observation']['size'] = 40
    (tmp_path / 'a' / INDEX).write_text(json.dumps(index))
    with pytest.raises(DatasetError, match='observation is float32 of shape'):
        list(read_columns(tmp_path / 'a'))


@pytest.mark.parametrize(('change', 'words'), [
    ({'format': 2}, 'format 2, but this version reads 1'),
    ({'task': {'name': 'reach'}}, 'does not say which task'),
    ({'robot': []}, 'does not say which task'),
    ({'shards': [{'file': '../../etc/passwd', 'rows': 4, 'sha256': '', 'bytes': 1}]}, 'not the na'),
    ({'shards': []}, 'another number of transitions'),
    ({'counts': {}}, 'damaged'),
    ({'counts': {'transitions': -1}}, 'damaged'),
    ({'sources': 3}, 'damaged'),
])
def test_a_wrong_index_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    write_dataset(tmp_path / 'a', transitions(4))
    path = tmp_path / 'a' / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=words):
        read_about(tmp_path / 'a')


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_no_bytes_are_taken_for_an_index(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / INDEX).write_bytes(data)
        with pytest.raises(DatasetError):
            read_about(Path(name))


def test_another_task_or_robot_is_refused_with_what_differs(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'a', transitions(4))
    read_about(tmp_path / 'a', identity())
    read_about(tmp_path / 'a', other(episode_steps=50, success_rate=0.5))
    with pytest.raises(DatasetError, match=r'task\.policy_rate_hz is 10\.0, not 20\.0; robot\.comm'
                                           r'and_interface is .effort., not .velocity.; use data'):
        read_about(tmp_path / 'a', other(policy_rate_hz=20.0, command_interface='velocity'))


def test_the_distance_of_success_counts_where_the_reward_is_made_of_it() -> None:
    assert identity().differences(other(success_distance_m=0.05)) == []
    assert other(sparse=True).differences(other(sparse=True, success_distance_m=0.05)) == [
        'task.success_distance_m is 0.01, not 0.05']


def test_of_another_robot_the_name_says_enough() -> None:
    assert identity().differences(other(name='arm9', action_scale=[1.0] * 7)) == [
        "task.name is 'reach', not 'arm9'", "robot.name is 'arm7', not 'arm9'"]


def test_columns_keep_what_transitions_say() -> None:
    item = transitions(1)[0]
    columns = columns_of([item], Source.HUMAN)
    assert columns.reward[0] == item.reward and columns.source[0] == Source.HUMAN
    assert np.array_equal(columns.policy_version[0], item.policy_version)
