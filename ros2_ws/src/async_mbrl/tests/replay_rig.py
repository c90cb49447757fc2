"""A process that fills the file of a buffer and is killed, and the judge of what it left."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.replay_file import NAME, STAGED, ReplayFile
from async_mbrl.learning.replay_tables import Block, Sizes

ABOUT = {'task': 'numbered'}
SIZES = Sizes(capacity=500, state=200, action=8, goal=4)
MOST = 150
"""Transitions that are added at a time, at most; more than the stage takes at once."""

OPENING_SHARE = 0.2
"""Share of the kills that come while the file is opened, or soon after."""

LATEST_S = 0.03
_ACKNOWLEDGED = struct.Struct('<q')
_START_S = 60.0


def _numbers(first: int, count: int, width: int) -> np.ndarray:
    """Give (count, width) numbers that follow from the number of a transition; exact in float32.

    All of one transition are equal, so that hardly any time goes into making them; two transitions
    that follow each other in one row of the ring have other ones.
    """
    mixed = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.broadcast_to((mixed >> np.uint64(41)).astype(np.float32)[:, None], (count, width))


def transitions(first: int, count: int) -> Columns:
    """Give transitions of which every part follows from their numbers."""
    state, action, goal = SIZES.state, SIZES.action, SIZES.goal
    numbers = _numbers(first, count, 2 * state + goal + 2 * action + 2)
    observation = numbers[:, :state + goal]
    following = np.concatenate([numbers[:, state + goal:2 * state + goal],
                                observation[:, state:]], 1)
    rest = numbers[:, 2 * state + goal:]
    index = np.arange(first, first + count)
    return Columns(
        observation, rest[:, :action], rest[:, action:2 * action], following,
        rest[:, -1].astype(np.float64), index % 97 == 96, index % 30 == 29,
        np.zeros(count, np.bool_), index // 30, index % 30,
        np.stack([index % 5, index], 1), rest[:, -2], np.zeros(count, np.uint8))


def expected(first: int, count: int) -> Block:
    """Give these as the tables have them, by way of a buffer in memory."""
    buffer = TransitionBuffer(count, SIZES.state, SIZES.action, SIZES.goal)
    buffer.append_columns(transitions(first, count))
    return buffer._tables.block(0, count)


def wrong_rows(found: Block, first: int) -> int:
    """Give how many transitions, from number ``first`` on, are not what was added."""
    if not found.length:
        return 0
    wrong = np.zeros(found.length, bool)
    for part, wanted in zip(found, expected(first, found.length), strict=True):
        wrong |= (part != wanted).any(1)
    return int(wrong.sum())


def opened(folder: Path) -> tuple[TransitionBuffer, str]:
    """Open the buffer of a folder, and give what was wrong with it."""
    buffer = TransitionBuffer(SIZES.capacity, SIZES.state, SIZES.action, SIZES.goal)
    return buffer, buffer.live_in(folder, ABOUT)


def fill(folder: Path, seed: int, acknowledge: int, spoil: Callable[[ReplayFile], None]) -> None:
    """Add transitions for ever; tell each number that is committed through a pipe."""
    rng = np.random.default_rng(seed)
    buffer, _ = opened(folder)
    assert isinstance(buffer._tables, ReplayFile)
    spoil(buffer._tables)
    while True:
        buffer.append_columns(transitions(buffer.next_number, int(rng.integers(1, MOST + 1))))
        os.write(acknowledge, _ACKNOWLEDGED.pack(buffer.next_number))


def written_first(file: ReplayFile) -> None:
    """Break a file: transitions are in the tables before they are committed."""
    copy, commit = file._put_in_tables, file._commit

    def staged(first: int, block: Block, checks: np.ndarray) -> None:
        ReplayFile._put_in_stage(file, first, block, checks)
        copy(first, block, checks)
        file.next_number = first

    def copied(first: int, block: Block, checks: np.ndarray) -> None:
        file.next_number = first + block.length

    file._put_in_stage, file._put_in_tables = staged, copied  # type: ignore[method-assign]
    file._commit = commit  # type: ignore[method-assign]


def committed_first(file: ReplayFile) -> None:
    """Break a file: transitions are committed before they are anywhere."""
    commit = file._commit

    def staged(first: int, block: Block, checks: np.ndarray) -> None:
        commit(block.length)
        ReplayFile._put_in_stage(file, first, block, checks)

    file._put_in_stage = staged  # type: ignore[method-assign]
    file._commit = lambda count: None  # type: ignore[method-assign]


BROKEN: dict[str, Callable[[ReplayFile], None]] = {
    'none': lambda file: None, 'written_first': written_first, 'committed_first': committed_first}


@dataclass
class Judgement:
    """What kills have done.

    Attributes:
        kills: how many there were.
        while_opening: those that came before the first transition was acknowledged.
        while_staging: those after which transitions that were not committed lay in the stage.
        while_copying: those after which a committed row of the tables was not whole, until it was
            copied from the stage.
        acknowledged_lost: transitions that had been acknowledged and were not there.
        torn: transitions of the window that were not what was added.
        refused: files that could not be used any more.
        transitions: added in all.
    """

    kills: int = 0
    while_opening: int = 0
    while_staging: int = 0
    while_copying: int = 0
    acknowledged_lost: int = 0
    torn: int = 0
    refused: int = 0
    transitions: int = 0

    @property
    def harmed(self) -> int:
        """Whatever must not be."""
        return self.acknowledged_lost + self.torn + self.refused


def kill_once(folder: Path, rng: np.random.Generator, judgement: Judgement,
              broken: str = 'none') -> None:
    """Fill the file in a process of its own, kill that at a random moment, and judge the file."""
    before = judgement.transitions
    told, acknowledge = os.pipe()
    seed, opening = int(rng.integers(2**31)), rng.random() < OPENING_SHARE
    process = os.fork()
    if not process:
        try:
            os.close(told)
            fill(folder, seed, acknowledge, BROKEN[broken])
        finally:
            os._exit(1)     # what the parent set up must not be torn down here
    os.close(acknowledge)
    try:
        data = b'' if opening else _first(told)
        time.sleep(rng.uniform(0.0, LATEST_S))
    finally:
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
    while more := os.read(told, 65536):
        data += more
    os.close(told)
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f'the process that fills {folder} ended by itself, status {status}')
    whole = len(data) // _ACKNOWLEDGED.size * _ACKNOWLEDGED.size
    acknowledged = _ACKNOWLEDGED.unpack(data[whole - 8:whole])[0] if whole else before
    judgement.kills += 1
    judgement.while_opening += not whole
    _look(folder, judgement)
    buffer, trouble = opened(folder)
    judgement.refused += bool(trouble)
    judgement.acknowledged_lost += max(0, acknowledged - buffer.next_number)
    first = buffer.next_number - len(buffer)
    judgement.torn += wrong_rows(buffer._tables.block(first, len(buffer)), first)
    judgement.transitions = buffer.next_number
    buffer.close()


def _first(told: int) -> bytes:
    os.set_blocking(told, False)
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        try:
            data = os.read(told, 65536)
            os.set_blocking(told, True)
            return data
        except BlockingIOError:
            time.sleep(0.0005)
    raise RuntimeError(f'nothing was committed in {_START_S:.0f} s')


def _look(folder: Path, judgement: Judgement) -> None:
    """See where the process was killed, before what it left is put right."""
    if not (folder / NAME).exists():
        return
    file = ReplayFile(folder / NAME, os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC), SIZES)
    committed = file.next_number
    last = min(STAGED // 2, committed)
    judgement.while_copying += wrong_rows(file.block(committed - last, last), committed - last) > 0
    if committed >= STAGED:
        slot: Any = slice(committed % STAGED, committed % STAGED + 1)
        staged = Block(*(table[slot] for table in file._stage[:3]))
        judgement.while_staging += wrong_rows(staged, committed - STAGED) > 0
    file.close()
