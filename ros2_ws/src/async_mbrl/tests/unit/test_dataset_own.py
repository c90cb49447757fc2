"""Import of own runs gives exactly what a live learner had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_rig import (
    all_columns,
    identity,
    serialised,
    task,
    transitions,
    write_bag,
    write_dataset,
    write_journal,
)
from live_rig import assert_like_live, compressed
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from async_mbrl.collection.recording import write_recording
from async_mbrl.core.run import RunFolder
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns, joined
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.store import read_about
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.transitions import columns_of_messages

SKIP = ImportOptions(skip_damaged=True)


def run_folder(path: Path, live: list[Transition]) -> Path:
    write_journal(path, live)
    return path


def recorded(path: Path, live: list[Transition]) -> Path:
    """The recording of a run, taken out of its folder."""
    write_journal(path / 'run', live)
    write_recording(RunFolder(path / 'run'))
    shutil.copytree(path / 'run' / 'recording', path / 'recording')
    return path / 'recording'


def bag(**options: Any) -> Callable[[Path, list[Transition]], Path]:
    def make(path: Path, live: list[Transition]) -> Path:
        write_bag(path, live, **options)
        return path
    return make


@pytest.mark.parametrize('make', [
    run_folder, recorded, bag(), bag(plugin=StoragePlugin.SQLITE3), bag(frame='base_link'),
    compressed(CompressionMode.STORAGE, StoragePlugin.MCAP),
    compressed(CompressionMode.MESSAGE, StoragePlugin.SQLITE3),
    compressed(CompressionMode.FILE, StoragePlugin.SQLITE3),
    compressed(CompressionMode.FILE, StoragePlugin.MCAP),
], ids=['journal', 'recording', 'mcap', 'sqlite', 'frame', 'mcap-zstd', 'sqlite-message',
        'sqlite-file', 'mcap-file'])
def test_import_equals_the_live_buffer_bit_for_bit(
        tmp_path: Path, make: Callable[[Path, list[Transition]], Path]) -> None:
    live = transitions(123)
    source = make(tmp_path / 'source', live)
    about = import_sources([source], tmp_path / 'dataset', task(), ImportOptions(), print)
    assert about.identity == identity() and about.transitions == 123
    assert_like_live(tmp_path / 'dataset', live)


def test_a_run_tells_its_task_and_robot_itself(tmp_path: Path) -> None:
    source = recorded(tmp_path / 'source', transitions(20))
    for place, path in enumerate((source, tmp_path / 'source' / 'run')):
        about = import_sources([path], tmp_path / f'{place}', None, ImportOptions(), print)
        assert about.identity.differences(identity()) == []


def test_a_bag_that_does_not_tell_them_needs_them(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(5))
    with pytest.raises(DatasetError, match='give --task and --robot'):
        import_sources([tmp_path / 'bag'], tmp_path / 'dataset', None, ImportOptions(), print)
    assert not (tmp_path / 'dataset').exists()


def test_episodes_of_several_sources_are_numbered_on(tmp_path: Path) -> None:
    write_journal(tmp_path / 'a', transitions(12))
    write_journal(tmp_path / 'b', transitions(10, seed=1))
    about = import_sources([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'dataset', None,
                           ImportOptions(), print)
    columns = joined(all_columns(tmp_path / 'dataset'))
    assert columns.episode.tolist() == [number // 5 for number in range(12)] + [
        3 + number // 5 for number in range(10)]
    assert about.episodes == 5
    assert [source['transitions'] for source in about.sources] == [12, 10]


def columns_from(items: list[Transition], tally: Tally) -> Columns:
    return joined(list(columns_of_messages(map(serialised, items), identity(), tally, 'here')))


def test_missing_numbers_end_an_episode_and_repeated_ones_are_left_out() -> None:
    live = transitions(40)
    tally = Tally()
    found = columns_from([*live[3:12], *live[10:12], *live[17:30], live[35]], tally)
    kept = [*live[3:12], *live[17:30], live[35]]
    assert found.step.tolist() == [item.step for item in kept]
    expected = np.array([item.truncated for item in kept])
    expected[8] = True          # before the gap, transition 11, step 1
    assert found.truncated.tolist() == expected.tolist()
    assert tally.left_out == {'missing numbers': 10, 'repeated or out of order': 2}
    assert tally.notes == ['here: begins with transition 3']


def test_two_that_are_swapped_are_no_damage() -> None:
    live = transitions(8)
    tally = Tally()
    found = columns_from([live[place] for place in (0, 1, 3, 2, 4, 5, 6, 7)], tally)
    assert len(found) == 7
    assert tally.left_out == {'missing numbers': 1, 'repeated or out of order': 1}


@pytest.mark.parametrize('batch', [1, 2, 7])
def test_gaps_between_batches_are_seen(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr('async_mbrl.datasets.transitions.BATCH', batch)
    live = transitions(40)
    tally = Tally()
    found = columns_from([*live[:12], *live[17:30]], tally)
    assert len(found) == 25 and bool(found.truncated[11]) and tally.left_out.total() == 5


def test_two_runs_in_one_bag_are_two() -> None:
    tally = Tally()
    found = columns_from([*transitions(12), *transitions(7, seed=1)], tally)
    assert found.episode.tolist() == [0] * 5 + [1] * 5 + [2] * 2 + [3] * 5 + [4] * 2
    assert tally.notes == ['here: another run begins within it']


def test_another_task_is_refused_with_what_differs(tmp_path: Path) -> None:
    write_journal(tmp_path / 'run', transitions(5))
    with pytest.raises(DatasetError, match=r'task\.velocity_cost is 0\.0125, not 1\.0'):
        import_sources([tmp_path / 'run'], tmp_path / 'dataset', task(velocity_cost=1.0),
                       ImportOptions(), print)


def test_sizes_that_do_not_fit_are_named() -> None:
    own = identity()
    smaller = type(own)(own.task, own.robot, {'size': 30})
    with pytest.raises(DatasetError, match='transition 0 has 39 numbers of observation, but'):
        list(columns_of_messages(map(serialised, transitions(3)), smaller, Tally(), 'here'))


def test_a_message_that_is_none_is_named_and_costs_only_itself() -> None:
    messages = [serialised(item) for item in transitions(5)]
    messages[2] = messages[2][:60]
    with pytest.raises(DatasetError, match='here: message 2: ends within'):
        list(columns_of_messages(messages, identity(), Tally(), 'here'))
    tally = Tally(skip_damaged=True)
    found = joined(list(columns_of_messages(messages, identity(), tally, 'here')))
    assert found.step.tolist() == [0, 1, 3, 4] and bool(found.truncated[1])
    assert tally.left_out == {'damaged messages': 1, 'missing numbers': 1}


def test_of_many_notes_the_first_are_kept() -> None:
    messages = [serialised(item) for item in transitions(150)]
    tally = Tally(skip_damaged=True)
    list(columns_of_messages([messages[0], *(message[:60] for message in messages[1:])],
                             identity(), tally, 'here'))
    told = tally.told()
    assert len(told) == 101 and told[-1] == 'and 49 more' and 'message 100:' in told[99]
    assert tally.left_out == {'damaged messages': 149}


def test_a_foreign_row_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    live = transitions(12)
    live[7].action_applied[3] = np.nan
    write_bag(tmp_path / 'bag', live)
    write_journal(tmp_path / 'run', live)
    about = import_sources([tmp_path / 'bag'], tmp_path / 'a', task(), ImportOptions(), print)
    assert about.transitions == 11 and about.sources[0]['left_out'] == {'not finite': 1}
    assert np.flatnonzero(joined(all_columns(tmp_path / 'a')).truncated).tolist() == [6, 8]
    import_sources([tmp_path / 'run'], tmp_path / 'b', None, ImportOptions(), print)
    assert np.isnan(joined(all_columns(tmp_path / 'b')).action_applied[7, 3])


@pytest.mark.parametrize('content', [b'', b'nonsense', b'\x89MCAP0\r\n', b'\x89MCAP0\r\n' * 20])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ('a.mcap', 'b.db3', 'c.hdf5', 'd.txt'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=name[:1]):
            import_sources([tmp_path / name], tmp_path / 'x', task(), ImportOptions(), print)
        assert not (tmp_path / 'x').exists()


def test_a_dataset_is_merged_not_imported(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'a', transitions(5))
    with pytest.raises(DatasetError, match='dataset merge'):
        import_sources([tmp_path / 'a'], tmp_path / 'x', None, ImportOptions(), print)


def test_sources_are_told(tmp_path: Path) -> None:
    write_journal(tmp_path / 'run', transitions(5))
    told: list[str] = []
    import_sources([tmp_path / 'run'], tmp_path / 'x', None, ImportOptions(), told.append)
    assert told == [f'{tmp_path}/run/journal: journal, 5 transitions, 1 episodes']
    assert json.loads((tmp_path / 'x' / 'dataset.json').read_text())['sources'] == [
        dict(source) for source in read_about(tmp_path / 'x').sources]


def test_a_recording_in_several_files_is_one(tmp_path: Path) -> None:
    live = transitions(60)
    write_bag(tmp_path / 'bag', live[:31])
    write_bag(tmp_path / 'bag_1', live[31:])
    (tmp_path / 'bag_1' / 'bag_1.mcap').rename(tmp_path / 'bag' / 'bag_1.mcap')
    metadata = tmp_path / 'bag' / 'metadata.yaml'
    text = metadata.read_text()
    metadata.write_text(text.replace('  - bag.mcap\n', '  - bag.mcap\n  - bag_1.mcap\n', 1))
    assert metadata.read_text() != text
    import_sources([tmp_path / 'bag'], tmp_path / 'dataset', task(), ImportOptions(), print)
    assert_like_live(tmp_path / 'dataset', live)
    (tmp_path / 'bag' / 'bag.mcap').unlink()
    with pytest.raises(DatasetError, match=r'bag\.mcap: missing, although metadata\.yaml names it'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    about = import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), SKIP, print)
    assert about.transitions == 29
