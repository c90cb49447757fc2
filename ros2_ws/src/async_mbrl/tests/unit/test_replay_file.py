"""The file of a buffer: what survives a kill at any moment, and what is found out of damage."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Source, columns_of
from async_mbrl.learning import replay_file
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.replay_file import NAME, STAGED, ReplayDamaged, ReplayFile
from async_mbrl.learning.replay_tables import Block, Sizes, checks_of

ABOUT = {'task': 'numbered'}
SIZES = (3, 2, 1)


def transition(number: int) -> Transition:
    """One whose every part follows from its number; episodes have seven steps."""
    rng = np.random.default_rng(number)
    observation, following = rng.normal(size=(2, 4)).astype(np.float32)
    following[3:] = observation[3:]
    requested, applied = rng.normal(size=(2, 2)).astype(np.float32)
    return Transition(number, number // 7, number % 7, observation, requested, applied, following,
                      float(np.float32(rng.normal())), bool(rng.integers(2)), number % 7 == 6,
                      Version(1, number), float(np.float32(rng.normal())))


TRANSITIONS = [transition(number) for number in range(900)]


def in_memory(capacity: int, count: int) -> TransitionBuffer:
    buffer = TransitionBuffer(capacity, *SIZES)
    buffer.append(TRANSITIONS[:count])
    return buffer


def living_in(folder: Path, capacity: int, trouble: str = '') -> TransitionBuffer:
    buffer = TransitionBuffer(capacity, *SIZES)
    assert buffer.live_in(folder, ABOUT) == trouble
    return buffer


def assert_holds(buffer: TransitionBuffer, capacity: int, count: int) -> None:
    """Check that a buffer is, to the bit, what one in memory is after so many transitions."""
    wanted = in_memory(capacity, count)
    assert (len(buffer), buffer.next_number) == (len(wanted), count)
    assert torch.equal(buffer.states, wanted.states)
    assert torch.equal(buffer.next_states, wanted.next_states)
    assert torch.equal(buffer.initial_rows, wanted.initial_rows)
    assert buffer.digest() == wanted.digest()
    if count:
        rows = torch.arange(len(wanted))
        for mine, theirs in zip(dataclasses.astuple(buffer.samples(rows)),
                                dataclasses.astuple(wanted.samples(rows)), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(buffer.ended(rows), wanted.ended(rows))
        version = Version(1, max(0, count - 10))
        assert torch.equal(buffer.rows_of(version), wanted.rows_of(version))


class Killed(Exception):
    """The process ends here."""


def half_of(table: np.ndarray) -> np.ndarray:
    """Give the first half of each row, as a kill in the middle of a copy leaves it."""
    return table[:, :(table.shape[1] + 1) // 2]


def kill_at(file: ReplayFile, moment: str) -> None:
    """Let the next batch be written only up to a moment."""
    stage, commit = file._put_in_stage, file._commit

    def half_staged(first: int, block: Block, checks: np.ndarray) -> None:
        cut = block.length // 2
        stage(first, block.part(slice(cut)), checks[:cut])
        for table in file._stage:
            half_of(table)[(first + cut) % STAGED] = 7
        raise Killed

    def uncommitted(count: int) -> None:
        raise Killed

    def half_copied(first: int, block: Block, checks: np.ndarray) -> None:
        for number in range(first, first + block.length):
            for table in file._arrays:
                half_of(table)[number % file._capacity] = 7
        raise Killed

    if moment == 'half staged':
        file._put_in_stage = half_staged  # type: ignore[method-assign]
    elif moment == 'not committed':
        file._commit = uncommitted  # type: ignore[method-assign]
    else:
        file._commit = commit  # type: ignore[method-assign]
        file._put_in_tables = half_copied  # type: ignore[method-assign]


MOMENTS = ('half staged', 'not committed', 'half copied')
STEPS = st.lists(st.tuples(st.sampled_from(['append', 'columns', 'reopen', *MOMENTS]),
                           st.integers(1, 150)), min_size=1, max_size=10)


@given(STEPS, st.one_of(st.integers(1, 20), st.integers(50, 300)))
def test_the_window_is_the_newest_committed_whatever_happens(
        steps: list[tuple[str, int]], capacity: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        buffer, committed = living_in(folder, capacity), 0
        for what, count in steps:
            batch = TRANSITIONS[committed:committed + count]
            if not batch:
                break
            file = buffer._tables
            assert isinstance(file, ReplayFile)
            if what == 'append':
                buffer.append(batch)
            elif what == 'columns':
                buffer.append_columns(columns_of(batch, Source.POLICY))
            elif what in MOMENTS:
                kill_at(file, what)
                with pytest.raises(Killed):
                    buffer.append(batch)
                # At 'half copied' the first batch of the stage is committed, else none is.
                committed += min(len(batch), STAGED // 2) if what == 'half copied' else 0
            if what in ('append', 'columns'):
                committed += len(batch)
            else:
                buffer.close()
                buffer = living_in(folder, capacity)
            assert_holds(buffer, capacity, committed)


def test_a_file_takes_room_as_it_fills(tmp_path: Path) -> None:
    buffer = TransitionBuffer(10_000_000, *SIZES)
    assert buffer.live_in(tmp_path, ABOUT) == ''
    path = tmp_path / NAME
    assert path.stat().st_size > 10_000_000 * 80 and path.stat().st_blocks * 512 < 1e6
    many = columns_of(TRANSITIONS, Source.POLICY)
    for _ in range(3):
        buffer.append_columns(many)
    assert path.stat().st_blocks * 512 < 2e6
    buffer.close()
    again = TransitionBuffer(10_000_000, *SIZES)
    assert again.live_in(tmp_path, ABOUT) == '' and again.next_number == 2700


def test_only_one_at_a_time_and_only_what_it_belongs_to(tmp_path: Path) -> None:
    first = living_in(tmp_path, 50)
    with pytest.raises(CheckpointError, match='another process is using it'):
        living_in(tmp_path, 50)
    first.append(TRANSITIONS[:5])
    first.close()
    with pytest.raises(CheckpointError, match=r'capacity is 50, expected 60; use another run'):
        living_in(tmp_path, 60)
    with pytest.raises(CheckpointError, match="task is 'numbered', expected 'other'"):
        TransitionBuffer(50, *SIZES).live_in(tmp_path, {'task': 'other'})
    assert_holds(living_in(tmp_path, 50), 50, 5)


def test_of_two_that_begin_together_one_succeeds(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / NAME, Sizes(50, *SIZES)
    first = ReplayFile.create(path, sizes, ABOUT)       # after the second one found no file
    with pytest.raises(CheckpointError, match='another process is using it'):
        ReplayFile.create(path, sizes, ABOUT)
    assert [each.name for each in tmp_path.iterdir()] == [NAME]
    first.close()

    in_memory(50, 5).save_in(tmp_path / 'other', ABOUT)

    def replaced(file: int, path: Path) -> None:
        os.replace(tmp_path / 'other' / NAME, path)

    monkeypatch.setattr(replay_file, '_lock', replaced)
    with pytest.raises(CheckpointError, match='another process is using it'):
        ReplayFile.open(path, sizes, ABOUT)


def test_what_a_killed_process_did_not_complete_is_removed(tmp_path: Path) -> None:
    left, used = (tmp_path / f'.{NAME}.{name}' for name in ('left', 'used'))
    with used.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(2):      # as a file is made, and as it is opened
            left.write_bytes(bytes(100))
            living_in(tmp_path, 50).close()
            assert not left.exists() and used.exists()


def test_a_disk_that_cannot_lock_is_no_other_process(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(37, 'No locks available')

    buffer = TransitionBuffer(50, *SIZES)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, 'flock', refused)
        assert 'No locks available; transitions are kept in memory' in (
            buffer.live_in(tmp_path, ABOUT))
    buffer.append(TRANSITIONS[:5])
    buffer.save_in(tmp_path, ABOUT)
    buffer.close()
    assert_holds(living_in(tmp_path, 50), 50, 5)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def without_beginning(path: Path) -> None:
    change(path, 3)


def other_description(path: Path) -> None:
    change(path, 30)


def change(path: Path, offset: int) -> None:
    with open(path, 'r+b') as file:
        file.seek(offset)
        found = file.read(1)
        file.seek(offset)
        file.write(bytes([found[0] ^ 4]))


OLD = 15
"""Of a hundred, the newest of which are in the stage, too, and so not harmed by such damage."""


def one_row(path: Path) -> None:
    data = path.read_bytes()
    change(path, data.rindex(TRANSITIONS[OLD].next_observation[:3].tobytes()) + 5)


def a_hole(path: Path) -> None:
    data = path.read_bytes()
    begin = data.rindex(TRANSITIONS[OLD].next_observation[:3].tobytes())
    with open(path, 'r+b') as file:
        file.seek(begin // 512 * 512)
        file.write(bytes(512))


def more_committed(path: Path) -> None:
    with open(path, 'r+b') as file:
        file.seek(4096)
        file.write((130).to_bytes(8, 'little'))


@pytest.mark.parametrize(('damage', 'words'), [
    (cut, 'it has .* bytes, not'), (without_beginning, 'does not begin as'),
    (other_description, 'CRC-32'), (one_row, 'transition 15 is not what was written'),
    (a_hole, 'is not what was written'), (more_committed, 'is not what was written')])
def test_damage_is_found_and_put_aside(damage: Callable[[Path], None], words: str,
                                       tmp_path: Path) -> None:
    buffer = living_in(tmp_path, 90)
    buffer.append(TRANSITIONS[:100])
    buffer.close()
    damage(tmp_path / NAME)
    with pytest.raises(ReplayDamaged, match=words):
        ReplayFile.open(tmp_path / NAME, Sizes(90, *SIZES), ABOUT)
    again = TransitionBuffer(90, *SIZES)
    trouble = again.live_in(tmp_path, ABOUT, learned_from=100)
    assert 'cannot be used' in trouble and f'{NAME}.damaged now' in trouble
    assert again.next_number == 0 and (tmp_path / f'{NAME}.damaged').exists()
    again.append(TRANSITIONS[:100])
    again.close()
    assert_holds(living_in(tmp_path, 90), 90, 100)


@given(st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 255)), min_size=1,
                max_size=4))
def test_whatever_byte_is_changed_it_is_found_or_does_not_matter(
        changes: list[tuple[float, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / NAME
        in_memory(90, 100).save_in(Path(name), ABOUT)
        data = bytearray(path.read_bytes())
        for place, bits in changes:
            data[int(place * len(data))] ^= bits
        path.write_bytes(data)
        buffer = TransitionBuffer(90, *SIZES)
        trouble = buffer.live_in(Path(name), ABOUT)
        assert_holds(buffer, 90, 0 if trouble else 100)
        buffer.close()


def test_a_file_that_lacks_what_was_learned_from_asks_for_the_rest(tmp_path: Path) -> None:
    for have, wanted, words in ((0, 30, 'is missing; 30 transitions are asked for again'),
                                (20, 30, 'ends after 20 transitions, but 30 were learned from')):
        folder = tmp_path / str(have)
        if have:
            in_memory(60, have).save_in(folder, ABOUT)
        buffer = TransitionBuffer(60, *SIZES)
        assert words in buffer.live_in(folder, ABOUT, learned_from=wanted, last_check=1)
        assert buffer.next_number == have
        buffer.close()


def test_transitions_of_another_history_are_put_aside(tmp_path: Path) -> None:
    in_memory(60, 40).save_in(tmp_path, ABOUT)
    check = in_memory(60, 30).check(29)
    buffer = TransitionBuffer(60, *SIZES)
    assert buffer.live_in(tmp_path, ABOUT, 30, check) == '' and buffer.next_number == 40
    buffer.close()
    assert 'transition 29 is another one' in buffer.live_in(tmp_path, ABOUT, 30, check ^ 1)
    assert buffer.next_number == 0


def test_a_full_disk_leaves_it_in_memory_until_there_is_room(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_file, 'FIRST_ROWS', 64)
    buffer = living_in(tmp_path, 300)
    buffer.append(TRANSITIONS[:60])

    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(os, 'posix_fallocate', full)
        buffer.append(TRANSITIONS[60:150])
        assert_holds(buffer, 300, 150)
        with pytest.raises(OSError, match='No space'):
            buffer.save_in(tmp_path, ABOUT)
    assert_holds(living_in(tmp_path, 300), 300, 60)     # what had been committed stands
    buffer.append(TRANSITIONS[150:160])
    buffer.save_in(tmp_path, ABOUT)
    buffer.append(TRANSITIONS[160:400])
    buffer.close()
    assert_holds(living_in(tmp_path, 300), 300, 400)


def test_the_last_room_of_a_disk_is_left_to_the_journal(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_file, 'FIRST_ROWS', 64)
    buffer = living_in(tmp_path, 100_000)
    buffer.append(TRANSITIONS[:60])
    taken = (tmp_path / NAME).stat().st_blocks
    real = os.statvfs(tmp_path)

    def nearly_full(_: int) -> os.statvfs_result:
        disk = list(real)
        disk[0:5] = 4096, 4096, 1_000_000, 10_000, 10_000   # 39 MiB of 3.8 GiB
        return os.statvfs_result(disk)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'fstatvfs', nearly_full)
        buffer.append(TRANSITIONS[60:150])
        assert (tmp_path / NAME).stat().st_blocks == taken
        with pytest.raises(OSError, match='No space'):
            buffer.save_in(tmp_path, ABOUT)
        assert_holds(living_in(tmp_path, 100_000), 100_000, 60)     # it has its room already
    assert_holds(buffer, 100_000, 150)


def test_every_damage_to_a_word_changes_the_check() -> None:
    rng = np.random.default_rng(0)
    block = Block(rng.normal(size=(40, 8)).astype(np.float32),
                  rng.normal(size=(40, 8)).astype(np.float32), rng.integers(9, size=(40, 2)))
    before = checks_of(5, block)
    assert len(set(before.tolist())) == 40
    assert (checks_of(6, block) != before).all()
    for table in block:
        words = table.view(np.uint32)
        for word in range(words.shape[1]):
            for bit in (0, 17, 31):
                words[:, word] ^= np.uint32(1 << bit)
                assert (checks_of(5, block) != before).all()
                words[:, word] ^= np.uint32(1 << bit)
    np.testing.assert_array_equal(checks_of(5, block), before)
    assert checks_of(0, Block(*(np.zeros_like(table[:1]) for table in block)))[0] != 0


# ---- a learner's ----

TASK = learning_rig.make_task()
STOPPING = ModelConfig(members=2, hidden=(16,), batch=16, early_stopping=True)


def learner(seed: int = 0, config: ModelConfig = STOPPING) -> ModelLearner:
    return ModelLearner(config, TASK, seed=seed)


def step(worker: ModelLearner, count: int = 3) -> None:
    for _ in range(count):
        worker.step()


def killed_after(folder: Path, data: Sequence[Transition], saved: int) -> ModelLearner:
    """Give a learner that saved some transitions ago, and was killed."""
    worker = learner()
    worker.restore(folder)
    worker.take(data[:saved])
    step(worker)
    worker.save(folder)
    worker.take(data[saved:])
    worker.close()
    return worker


def test_what_came_after_the_checkpoint_is_not_asked_for_again(tmp_path: Path) -> None:
    data = learning_rig.Plant(TASK).explore(5)
    before = killed_after(tmp_path, data[:70], 30)
    again = learner(9)
    assert again.restore(tmp_path) == 70 and again.trouble == ''
    assert again.updates == before.updates and not again.behind
    assert again.buffer.digest() == before.buffer.digest()
    # All that follows transitions has followed.
    for one, other in zip(again._split.validation_rows(), before._split.validation_rows(),
                          strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(again.dynamics.state_upper, before.dynamics.state_upper)
    again.take(data[70:])
    assert again.step() and again.next_transition == 75


def test_without_a_checkpoint_what_was_kept_is_there(tmp_path: Path) -> None:
    data = learning_rig.Plant(TASK).explore(3)
    worker = learner()
    worker.restore(tmp_path)
    worker.take(data)
    worker.close()
    again = learner(4)
    assert again.restore(tmp_path) == 45
    assert again.step() and again._split.largest_training_set <= 45


def test_nothing_is_learned_until_what_was_lost_is_there_again(tmp_path: Path) -> None:
    data = learning_rig.Plant(TASK).explore(5)
    before = killed_after(tmp_path, data[:70], 60)
    change(tmp_path / NAME, 4096 + 1)       # the number committed
    again = learner(9)
    assert again.restore(tmp_path) == 0 and 'cannot be used' in again.trouble
    assert again.behind and again.snapshot().trained_on_transitions == 60
    again.take(data[:20])
    upper, updates = again.dynamics.state_upper.clone(), again.updates
    assert not again.step() and again.updates == updates
    again.save(tmp_path)
    again.close()
    # A restart meanwhile goes on with what is there again.
    again = learner(3)
    assert again.restore(tmp_path) == 20 and 'but 60 were learned from' in again.trouble
    again.take(data[20:59])
    assert not again.step() and torch.equal(upper, again.dynamics.state_upper)
    again.take(data[59:70])
    assert again.step()
    for one, other in zip(again._split.validation_rows()[0].shape,
                          before._split.validation_rows()[0].shape, strict=True):
        assert one > 0 and other > 0
    assert again.buffer.digest() == before.buffer.digest()
