"""Damage of own recordings is named with its place, and costs only itself."""

from __future__ import annotations

import dataclasses
import errno
import io
import struct
import tempfile
import zlib
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
    write_journal,
)
from hypothesis import given
from hypothesis import strategies as st
from live_rig import assert_like_live, compressed
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from async_mbrl.core.transition import Transition
from async_mbrl.datasets import bags, mcap
from async_mbrl.datasets.bags import Bag
from async_mbrl.datasets.columns import joined
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.transitions import columns_of_messages

SKIP = ImportOptions(skip_damaged=True)


def rewards(folder: Path) -> list[float]:
    return joined(all_columns(folder)).reward.tolist()


def test_a_torn_journal_gives_what_is_whole(tmp_path: Path) -> None:
    live = transitions(30)
    write_journal(tmp_path / 'run', live)
    last = sorted((tmp_path / 'run' / 'journal').glob('*.log'))[-1]
    last.write_bytes(last.read_bytes()[:-7])
    about = import_sources([tmp_path / 'run'], tmp_path / 'dataset', None, ImportOptions(), print)
    assert_like_live(tmp_path / 'dataset', live[:29])
    assert 'torn or damaged' in about.sources[0]['notes'][0]


def segment(folder: Path, place: int) -> Path:
    return sorted((folder / 'journal').glob('*.log'))[place]


def test_damage_within_a_journal_is_no_torn_end(tmp_path: Path) -> None:
    live = transitions(60)
    write_journal(tmp_path / 'run', live)
    path = segment(tmp_path / 'run', 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=rf'{path.name}: damaged at byte \d+; \d+ bytes from'):
        import_sources([tmp_path / 'run'], tmp_path / 'x', None, ImportOptions(), print)
    about = import_sources([tmp_path / 'run'], tmp_path / 'y', None, SKIP, print)
    lost = about.sources[0]['left_out']['missing numbers']
    assert about.transitions + lost == 60 and 0 < lost < 8
    first = rewards(tmp_path / 'y').index(live[40].reward) + lost - 40
    assert first == 0 and 'damaged at byte' in about.sources[0]['notes'][0]


def test_a_whole_frame_behind_damage_is_no_torn_end(tmp_path: Path) -> None:
    write_journal(tmp_path / 'run', transitions(30))
    path = segment(tmp_path / 'run', -1)
    data = bytearray(path.read_bytes())
    data[8:12] = b'\xff' * 4       # the length of its first frame
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=rf'{path.name}: damaged at byte 8;'):
        import_sources([tmp_path / 'run'], tmp_path / 'x', None, ImportOptions(), print)
    path.write_bytes(bytes(data[:12]) + bytes(5000))      # zeros, as a power failure leaves them
    import_sources([tmp_path / 'run'], tmp_path / 'y', None, ImportOptions(), print)


@pytest.mark.parametrize('batch', [2, 7, 4096])
@pytest.mark.parametrize('wrong', [0, 11, 13, 39])
def test_a_wrong_number_costs_only_its_transition(monkeypatch: pytest.MonkeyPatch, batch: int,
                                                  wrong: int) -> None:
    monkeypatch.setattr('async_mbrl.datasets.transitions.BATCH', batch)
    live = transitions(40)
    messages = [serialised(dataclasses.replace(
        item, number=item.number + (2**40 if item.number == wrong else 0))) for item in live]
    tally = Tally(skip_damaged=True)
    found = joined(list(columns_of_messages(messages, identity(), tally, 'here')))
    if wrong == 39:     # nothing tells that it is wrong
        assert len(found) == 40 and tally.left_out == {'missing numbers': 2**40}
        return
    assert found.reward.tolist() == [item.reward for item in live if item.number != wrong]
    assert tally.left_out['damaged messages'] == 1
    with pytest.raises(DatasetError, match=f'here: transition {wrong} says that it is number'):
        list(columns_of_messages(messages, identity(), Tally(), 'here'))


def file_of(folder: Path) -> Path:
    (path,) = folder.glob('*.mcap')
    return path


def many_chunks(folder: Path) -> list[Transition]:
    live = transitions(6000)
    write_bag(folder, live)
    return live


def chunks(data: bytes) -> list[int]:
    """Where the chunks of an MCAP file begin."""
    places, place = [], 8
    while place < len(data) - 8:
        opcode, length = struct.unpack_from('<BQ', data, place)
        places += [place] * (opcode == 6)
        place += 9 + length
    return places


def test_a_damaged_chunk_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    live = many_chunks(tmp_path / 'bag')
    path = file_of(tmp_path / 'bag')
    data = bytearray(path.read_bytes())
    places = chunks(data)
    second, messages = places[1], places[1] + 9 + 40     # no compression, no CRC
    data[messages + 1:messages + 9] = b'\xff' * 8       # the length of its first record
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=rf'bag\.mcap: damaged at byte {second}: a chunk'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    assert not (tmp_path / 'x').exists()
    about = import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), SKIP, print)
    lost = about.sources[0]['left_out']['missing numbers']
    assert about.transitions + lost == 6000 and 0 < lost < 3000
    found = joined(all_columns(tmp_path / 'y'))
    first = int(np.flatnonzero(np.diff(found.policy_version[:, 1]) > 1)[0]) + 1
    kept = [*live[:first], *live[first + lost:]]
    assert found.reward.tolist() == [item.reward for item in kept]


def test_a_wrong_bit_is_found_where_the_recorder_wrote_a_checksum(tmp_path: Path) -> None:
    live = many_chunks(tmp_path / 'bag')
    path = file_of(tmp_path / 'bag')
    data = bytearray(path.read_bytes())
    for place in chunks(data):
        (size,) = struct.unpack_from('<Q', data, place + 9 + 16)
        records = data[place + 9 + 40:place + 9 + 40 + size]
        struct.pack_into('<I', data, place + 9 + 24, zlib.crc32(records))
    path.write_bytes(bytes(data))
    import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    assert_like_live(tmp_path / 'x', live)
    data[chunks(data)[0] + 300_000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match='a chunk of .*its CRC-32 is not'):
        import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), ImportOptions(), print)


@pytest.mark.parametrize('share', [0.45, 0.7, 0.999])
def test_a_recording_that_was_killed_gives_what_is_whole(tmp_path: Path, share: float) -> None:
    live = many_chunks(tmp_path / 'bag')
    path = file_of(tmp_path / 'bag')
    data = path.read_bytes()
    path.write_bytes(data[:round(share * len(data))])
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    about = import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), SKIP, print)
    assert 0 < about.transitions <= 6000
    assert_like_live(tmp_path / 'y', live[:about.transitions])
    assert any('writer has not ended it' in line for line in about.sources[0]['notes'])


@pytest.mark.parametrize('kind', [2, 7, 14])        # the footer, an index, none: one wrong bit
def test_a_wrong_kind_of_record_is_seen(tmp_path: Path, kind: int) -> None:
    many_chunks(tmp_path / 'bag')
    path = file_of(tmp_path / 'bag')
    data = bytearray(path.read_bytes())
    data[chunks(data)[1]] = kind
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r'bag\.mcap: damaged at byte \d+: (its data end there|'
                       r'up to there \d+ messages, but its summary tells of 6000)'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    about = import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), SKIP, print)
    assert 0 < about.transitions < 6000 and 'damaged at byte' in str(about.sources[0]['notes'])


def records(data: bytes | bytearray) -> list[int]:
    """Places of the records in the only chunk."""
    (begin,) = chunks(data)
    places, place = [], begin + 9 + 40
    while place < begin + 9 + struct.unpack_from('<Q', data, begin + 1)[0]:
        places.append(place)
        place += 9 + struct.unpack_from('<Q', data, place + 1)[0]
    return places


def test_a_message_of_no_known_channel_is_missed(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(50))
    path = file_of(tmp_path / 'bag')
    data = bytearray(path.read_bytes())
    data[records(data)[-1] + 10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match='up to there 49 messages, but its summary tells of 50'):
        import_sources([path], tmp_path / 'x', task(), ImportOptions(), print)
    about = import_sources([path], tmp_path / 'y', task(), SKIP, print)
    assert about.transitions == 49


def test_a_channel_is_of_one_topic(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(50))
    path = file_of(tmp_path / 'bag')
    data = path.read_bytes()
    assert data.count(b'/transitions') > 1
    path.write_bytes(data.replace(b'/transitions', b'/transistors', 1))
    with pytest.raises(DatasetError, match=r'a chunk of .*channel \d+ is of /transistors, not of'):
        import_sources([path], tmp_path / 'x', task(), ImportOptions(), print)


def test_records_of_no_kind_are_damage(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(50))
    path = file_of(tmp_path / 'bag')
    data = bytearray(path.read_bytes())
    place = records(data)[3]
    data[place:place + 9] = bytes(9)
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match='damaged at byte'):
        import_sources([path], tmp_path / 'x', task(), ImportOptions(), print)
    path.write_bytes(bytes(data[:chunks(data)[0]]) + bytes(2**20))
    with pytest.raises(DatasetError, match='a record of kind 0'):
        import_sources([path], tmp_path / 'x', task(), ImportOptions(), print)


def test_a_chunk_is_given_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcap, '_BATCH', 7)
    write_bag(tmp_path / 'bag', transitions(50))
    bag = Bag(tmp_path / 'bag', Tally())
    sizes = [len(batch) for batch in bag.batches(['/transitions'])]
    assert max(sizes) == 7 and sum(sizes) == 50


PACKED = [(CompressionMode.FILE, StoragePlugin.MCAP), (CompressionMode.FILE, StoragePlugin.SQLITE3)]


@pytest.mark.parametrize(('mode', 'plugin'), PACKED)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, mode: CompressionMode,
                                            plugin: StoragePlugin) -> None:
    compressed(mode, plugin)(tmp_path / 'bag', transitions(300))
    (path,) = (tmp_path / 'bag').glob('*.zstd')
    whole = path.read_bytes()
    for data in (whole[:-50], whole[:4] + b'\xff' * 8 + whole[12:], b'nonsense'):
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=rf'{path.name}: '):
            import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
        try:
            import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), SKIP, print)
        except DatasetError as error:
            assert 'none of its files' in str(error) or 'no ' in str(error)


def test_damage_within_a_compressed_file_is_said_to_be_there(tmp_path: Path) -> None:
    compressed(*PACKED[0])(tmp_path / 'bag', transitions(30))
    (path,) = (tmp_path / 'bag').glob('*.zstd')
    data = bytearray(mcap.zstd.decompress(path.read_bytes()))
    data[chunks(data)[0]] = 0
    path.write_bytes(mcap.zstd.compress(bytes(data)))
    with pytest.raises(DatasetError, match=rf'{path}: damaged at byte'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)


def test_a_compressed_file_can_be_imported_alone(tmp_path: Path) -> None:
    live = transitions(30)
    compressed(*PACKED[0])(tmp_path / 'bag', live)
    (path,) = (tmp_path / 'bag').glob('*.zstd')
    import_sources([path], tmp_path / 'x', task(), ImportOptions(), print)
    assert_like_live(tmp_path / 'x', live)


@pytest.mark.parametrize(('mode', 'plugin'), PACKED)
def test_what_unpacks_without_end_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: CompressionMode,
        plugin: StoragePlugin) -> None:
    monkeypatch.setattr(bags, 'ANYWAY_BYTES', 100)
    monkeypatch.setattr(bags, 'MOST_RATIO', 1)
    compressed(mode, plugin)(tmp_path / 'bag', transitions(30))
    with pytest.raises(DatasetError, match='much larger than'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, 'No space left on device')

    compressed(*PACKED[0])(tmp_path / 'bag', transitions(30))
    monkeypatch.setattr(bags, 'open', lambda *_: Full(), raising=False)
    with pytest.raises(OSError, match='No space left'):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), SKIP, print)


def test_a_damaged_compressed_message_costs_only_itself(tmp_path: Path) -> None:
    live = transitions(60)
    compressed(CompressionMode.MESSAGE, StoragePlugin.SQLITE3)(tmp_path / 'bag', live)
    (path,) = (tmp_path / 'bag').glob('*.db3')
    data = path.read_bytes()
    magic = b'\x28\xb5\x2f\xfd'
    place = data.index(magic, data.index(magic) + 1)
    path.write_bytes(data[:place] + b'\0' * 4 + data[place + 4:])
    with pytest.raises(DatasetError, match=r'db3: the message of \d+ ns on /arm/transitions: '):
        import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    about = import_sources([tmp_path / 'bag'], tmp_path / 'y', task(), SKIP, print)
    assert about.transitions == 59 and about.sources[0]['left_out']['damaged messages'] == 1


def test_files_beside_a_recording_are_told(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(10))
    write_bag(tmp_path / 'other', transitions(10))
    file_of(tmp_path / 'other').rename(tmp_path / 'bag' / 'other.mcap')
    about = import_sources([tmp_path / 'bag'], tmp_path / 'x', task(), ImportOptions(), print)
    assert 'metadata.yaml does not name other.mcap' in about.sources[0]['notes'][0]
    assert about.transitions == 10


@pytest.mark.parametrize('plugin', list(StoragePlugin))
@given(where=st.floats(0.0, 1.0), value=st.integers(0, 255), length=st.integers(1, 12),
       cut=st.booleans())
def test_damage_anywhere_is_refused_or_skipped(
        bags_of_300: dict[StoragePlugin, tuple[str, bytes]], plugin: StoragePlugin, where: float,
        value: int, length: int, cut: bool) -> None:
    name, data = bags_of_300[plugin]
    live = [item.reward for item in transitions(300)]
    begin = round(where * (len(data) - length))
    damaged = data[:begin] + bytes([value]) * length + (b'' if cut else data[begin + length:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(damaged)
        for options in (ImportOptions(), SKIP):
            try:
                about = import_sources([path], Path(folder) / f'{options.skip_damaged}', task(),
                                       options, str)
                kept = [live.index(reward) for reward in rewards(about.folder) if reward in live]
                told = about.sources[0]
                # A number of which a bit is wrong cannot be seen without a checksum.
                assert len(kept) >= about.transitions - length and kept == sorted(set(kept))
                # Nor what is missing at the end of a file that has no number of its rows.
                assert (about.transitions == 300 or told['left_out'] or told['notes']
                        or (plugin is StoragePlugin.SQLITE3 and kept[-1] < 299))
            except DatasetError as error:
                assert name in str(error) and '\n' not in str(error)
                assert not (Path(folder) / f'{options.skip_damaged}').exists()


@pytest.fixture(scope='module')
def bags_of_300(tmp_path_factory: pytest.TempPathFactory) -> dict[StoragePlugin, tuple[str, bytes]]:
    """Name and content of the one file of a bag of each kind."""
    found = {}
    for plugin, suffix in ((StoragePlugin.MCAP, 'mcap'), (StoragePlugin.SQLITE3, 'db3')):
        folder = tmp_path_factory.mktemp('bags') / 'bag'
        write_bag(folder, transitions(300), plugin=plugin)
        (path,) = folder.glob(f'*.{suffix}')
        found[plugin] = path.name, path.read_bytes()
    return found
