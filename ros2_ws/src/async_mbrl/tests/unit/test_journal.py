"""The journal loses at most what was torn, whatever is done to its end, and is never confused."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.collection.journal import (
    Journal,
    JournalError,
    Record,
    RecordKind,
    SyncThread,
    read_records,
)
from async_mbrl.core.config import ConfigError

META = {'task': {'name': 'reach', 'reward_scale': 0.1}, 'robot': {'name': 'arm7'}}
KINDS = (RecordKind.CONTROL_STEP, RecordKind.TRANSITION)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / 'journal'


def fill(journal: Journal, first: int, count: int) -> list[Record]:
    """Append records of two kinds in turn, of different lengths."""
    records = [Record(KINDS[number % 2], 1000 + number, bytes([number % 256]) * (number % 37))
               for number in range(first, first + count)]
    for record in records:
        journal.append(*record)
    return records


def transitions(records: list[Record]) -> list[bytes]:
    return [record.payload for record in records if record.kind == RecordKind.TRANSITION]


@given(count=st.integers(0, 40), segment_bytes=st.sampled_from([64, 300, 10**6]),
       place=st.floats(0.0, 1.0), garbage=st.binary(max_size=40), cut=st.booleans())
def test_damage_to_the_end_costs_only_what_was_damaged(
        count: int, segment_bytes: int, place: float, garbage: bytes, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'journal'
        journal = Journal(folder, META, segment_bytes=segment_bytes)
        records = fill(journal, 0, count)
        journal.close()
        last = sorted(folder.glob('*.log'))[-1]
        data = last.read_bytes()
        begin = round(place * len(data))
        damaged = data[:begin] + garbage + (b'' if cut else data[begin + len(garbage):])
        last.write_bytes(damaged)
        same = next((i for i, (a, b) in enumerate(zip(data, damaged, strict=False)) if a != b),
                    min(len(data), len(damaged)))

        ends, offset, segment = [], 8, 0   # where each record ends: (segment, offset)
        for record in records:
            if offset >= segment_bytes:
                offset, segment = 8, segment + 1
            offset += 17 + len(record.payload)
            ends.append((segment, offset))
        whole = [record for record, end in zip(records, ends, strict=True)
                 if end <= (int(last.stem), same)]

        # Records after garbage that happens to be what stood there are whole again.
        found = list(read_records(folder))
        assert found == records[:len(found)] and len(found) >= len(whole)
        reopened = Journal(folder, META, segment_bytes=segment_bytes)
        kept = transitions(found)
        assert reopened.transitions == len(kept)
        assert reopened.read_transitions(0, 1000) == kept
        more = fill(reopened, len(found), 7)
        assert list(read_records(folder)) == [*found, *more]
        assert reopened.read_transitions(0, 1000) == kept + transitions(more)
        reopened.close()


def test_what_was_torn_off_is_set_aside(folder: Path) -> None:
    journal = Journal(folder, META, segment_bytes=100)
    records = fill(journal, 0, 40)
    journal.close()
    paths = sorted(folder.glob('*.log'))
    data = bytearray(paths[1].read_bytes())
    data[-1] ^= 1
    paths[1].write_bytes(data)
    reopened = Journal(folder, META)
    found = list(read_records(folder))
    assert 0 < len(found) < 40 and found == records[:len(found)]
    assert reopened.torn_bytes == sum(path.stat().st_size for path in folder.glob('*.torn')) > 0
    reopened.close()


def test_reading_while_writing(folder: Path) -> None:
    journal = Journal(folder, META, segment_bytes=200)
    records = fill(journal, 0, 5)
    for first in range(5, 50, 5):
        assert list(read_records(folder)) == records
        assert journal.read_transitions(1, 2) == transitions(records)[1:3]
        records += fill(journal, first, 5)
    assert journal.read_transitions(10**6, 5) == []
    journal.close()


def test_sync_thread_brings_all_segments_to_the_disk(folder: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, 'fdatasync', synced.append)
    journal = Journal(folder, META, segment_bytes=100)
    thread = SyncThread(journal, period_s=0.001)
    records = fill(journal, 0, 60)
    thread.stop()
    journal.close()
    assert synced
    assert list(read_records(folder)) == records


def test_folder_of_another_task_or_robot_is_refused_untouched(folder: Path) -> None:
    Journal(folder, META).close()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for meta, message in (
            ({**META, 'robot': {'name': 'ur5e'}}, "robot.name 'arm7', not 'ur5e'"),
            ({**META, 'task': {'name': 'stack', 'reward_scale': 3.0}},
             "task.name 'reach', not 'stack'"),
            ({**META, 'task': {'name': 'reach', 'reward_scale': 3.0}},
             'task.reward_scale 0.1, not 3.0')):
        with pytest.raises(ConfigError, match=message):
            Journal(folder, meta)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_folder_in_use_is_refused(folder: Path) -> None:
    journal = Journal(folder, META)
    with pytest.raises(ConfigError, match='another process is writing this run'):
        Journal(folder, META)
    journal.close()
    Journal(folder, META).close()


def test_full_disk_is_said_and_leaves_no_half_record(folder: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder, META)
    records = fill(journal, 0, 10)
    write = os.write
    calls = iter([lambda file, data: write(file, data[:9])])

    def full(file: int, data: bytes) -> int:
        for call in calls:
            return call(file, data)
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'write', full)
        with pytest.raises(JournalError, match='No space left'):
            journal.append(RecordKind.TRANSITION, 0, b'x' * 50)
    assert journal.transitions == 5
    records += fill(journal, 10, 3)
    assert list(read_records(folder)) == records
    journal.close()
    assert list(read_records(folder)) == records


def test_failed_sync_is_raised_by_the_next_append(folder: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder, META)
    fill(journal, 0, 1)

    def broken(file: int) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'fdatasync', broken)
    journal.sync()
    with pytest.raises(JournalError, match='Input/output error'):
        fill(journal, 1, 1)
