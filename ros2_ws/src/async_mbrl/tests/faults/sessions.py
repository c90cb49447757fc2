"""Whole graphs are ended in every way, and resumed: nothing is lost, nothing begins anew."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from faults.ledger import Ledger, NotSurvived, Outcome, Trial, generator
from faults.suite import Kind
from faults.whole import LEARNERS, Ears, WholeGraph

DISK = '400m'
END_S = 20.0
INTERRUPTED_S = 8.0
REST_RAD_S = 0.05


def graph_killed(graph: WholeGraph, rng: np.random.Generator) -> None:
    """kill -9 of the whole graph, as when the power goes."""
    del rng
    graph.kill_all()


def interrupted(graph: WholeGraph, rng: np.random.Generator) -> None:
    """SIGINT or SIGTERM: a clean end in bounded time, said by the exit status."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    begun_s = time.monotonic()
    graph.process.send_signal(signal.Signals(number))
    status = graph.ended(INTERRUPTED_S)
    if status != 128 + number:
        raise NotSurvived(f'status {status} after signal {number}: {graph.said()}')
    if time.monotonic() - begun_s > INTERRUPTED_S:
        raise NotSurvived(f'the end took {time.monotonic() - begun_s:.1f} s')


def controller_died(graph: WholeGraph, rng: np.random.Generator) -> None:
    """kill -9 of the controller: the arm is held, the run ends with the reason."""
    _required(graph, 'controller')


def guard_died(graph: WholeGraph, rng: np.random.Generator) -> None:
    """kill -9 of guard: nothing moves unguarded, the run ends with the reason."""
    _required(graph, 'guard')


def robot_interface_died(graph: WholeGraph, rng: np.random.Generator) -> None:
    """kill -9 of robot_interface: the arm is held, the run ends with the reason."""
    _required(graph, 'robot_interface')


def sim_bridge_died(graph: WholeGraph, rng: np.random.Generator) -> None:
    """kill -9 of the driver: the run ends with the reason."""
    _required(graph, 'sim_bridge')


def disk_full(graph: WholeGraph, rng: np.random.Generator) -> None:
    """The disk takes nothing any more: the run ends in order, and says so."""
    with _ballast(graph.folder.root):
        status = graph.ended(END_S + 10.0)
    if status != 1:
        raise NotSurvived(f'status {status} on a full disk: {graph.said()}')
    if 'No space left' not in graph.output.read_text():
        raise NotSurvived(f'the reason was not said: {graph.said()}')


def checkpoint_half_written(graph: WholeGraph, rng: np.random.Generator) -> None:
    """Killed in the middle of a checkpoint: half of the next file lies beside the last one."""
    graph.kill_all()
    for learner in LEARNERS:
        index = graph.index(learner)
        if index is not None:
            folder = graph.folder.learner(learner)
            data = (folder / index['file']).read_bytes()
            half = data[:int(rng.integers(len(data)))]
            (folder / f'checkpoint-{rng.bytes(8).hex()}.safetensors').write_bytes(half)


def journal_torn(graph: WholeGraph, rng: np.random.Generator) -> None:
    """The last bytes of the journal did not reach the disk."""
    graph.kill_all()
    last = max((path for path in graph.folder.journal.iterdir()
                if path.suffix != '.json' and path.stat().st_size > 1000),
               key=lambda path: path.name)
    with open(last, 'r+b') as file:
        file.truncate(last.stat().st_size - int(rng.integers(1, 40)))


def _required(graph: WholeGraph, node: str) -> None:
    graph.kill(node)
    status = graph.ended(END_S)
    if status != 1:
        raise NotSurvived(f'status {status} after the death of {node}')
    if f'{node} was ended by SIGKILL' not in graph.output.read_text():
        raise NotSurvived(f'the reason was not said: {graph.said()}')
    if node != 'sim_bridge' and not graph.ears.speed < REST_RAD_S:
        raise NotSurvived(f'the arm moved at {graph.ears.speed:.3f} rad/s to the last')


@contextlib.contextmanager
def _ballast(folder: Path) -> Iterator[None]:
    path = folder / 'ballast'
    with open(path, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        block = bytes(1 << 20)
        while file.write(block):
            pass
    try:
        yield
    finally:
        path.unlink()


def missing() -> str:
    """Say why a small disk cannot be had here; empty where it can."""
    return '' if os.geteuid() == 0 else 'mounting a small disk needs root'


KINDS = (
    Kind(graph_killed, 'sessions', 3, 20, 18.0),
    Kind(interrupted, 'sessions', 2, 10, 20.0),
    Kind(controller_died, 'sessions', 1, 5, 22.0),
    Kind(guard_died, 'sessions', 1, 5, 22.0),
    Kind(robot_interface_died, 'sessions', 1, 5, 22.0),
    Kind(sim_bridge_died, 'sessions', 1, 5, 22.0),
    Kind(disk_full, 'sessions', 1, 5, 25.0, missing=missing),
    Kind(checkpoint_half_written, 'sessions', 1, 5, 18.0),
    Kind(journal_torn, 'sessions', 1, 5, 18.0),
)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a folder on a disk of its own that can be filled without harm."""
    folder.mkdir(parents=True, exist_ok=True)
    if missing():
        yield folder
        return
    for left in folder.parent.glob('disk-*'):       # by a suite that was killed
        subprocess.run(['umount', '-l', str(left)], check=False, capture_output=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK}', 'tmpfs', str(folder)],
                   check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=False)


def run_sessions(ledger: Ledger, todo: Sequence[tuple[Kind, int]], seed: int,
                 folder: Path) -> None:
    """End and resume one run, trial by trial; a run that cannot be resumed is followed by another.
    """
    if missing():
        todo = [(kind, index) for kind, index in todo if kind.fault is not disk_full]
    ears = Ears()
    with small_disk(folder / f'disk-{time.time_ns()}') as disk:
        graph: WholeGraph | None = None
        for number, (kind, index) in enumerate(todo):
            rng, begun_s = generator(seed, kind.label, index), time.monotonic()
            why, outcome = '', Outcome()
            try:
                if graph is None:
                    graph = _start(disk / f'run-{number}', ears)
                    graph.await_transitions(5)
                graph, outcome = end_and_resume(graph, kind.fault, rng)
            except (NotSurvived, OSError) as error:
                why = str(error)
                if graph is not None:
                    graph.close()
                    graph = None
            ledger.add(Trial(kind.label, index, not why, why, time.monotonic() - begun_s,
                             outcome=outcome))
        if graph is not None:
            graph.close()
    ears.close()


def _start(run: Path, ears: Ears) -> WholeGraph:
    return WholeGraph(run, ears, '--motion-time', '3000', '--set', 'task.reset_s=2.0')


def end_and_resume(graph: WholeGraph, fault: Callable[..., None],
                   rng: np.random.Generator) -> tuple[WholeGraph, Outcome]:
    """Let a graph learn a little, end it by a fault, resume it, and compare.

    Returns:
        The resumed graph and the outcome.

    Raises:
        NotSurvived: something was lost, began anew, or was not as said.
    """
    graph.await_transitions(graph.transitions() + int(rng.integers(1, 12)), 30.0)
    fault(graph, rng)
    before = graph.numbers()
    if before != list(range(len(before))):
        raise NotSurvived(f'transitions in the journal are not numbered 0 to {len(before) - 1}')
    saved = {name: {sha for _, sha in graph.checkpoints(name, 'saved')[-1:]}
             | ({index['sha256']} if (index := graph.index(name)) else set())
             for name in LEARNERS}
    restored = {name: len(graph.checkpoints(name, 'restored')) for name in LEARNERS}
    graph = WholeGraph(graph.folder.root, graph.ears)
    begun_s = time.monotonic()
    graph.await_transitions(len(before) + 1)
    took_s = time.monotonic() - begun_s
    graph.until(lambda: all(graph.ears.learners[name].next_transition > len(before)
                            for name in LEARNERS), 10.0, 'all transitions at the learners')
    after = graph.numbers()
    if after != list(range(len(after))) or len(after) <= len(before):
        raise NotSurvived(f'after {len(before)} transitions the numbering did not go on: '
                          f'{len(after)} transitions, the last {after[-3:]}')
    for name in LEARNERS:
        _compare(graph, name, saved[name], restored[name])
    return graph, Outcome(facts={'resumed_s': took_s})


def _compare(graph: WholeGraph, name: str, saved: set[str], known: int) -> None:
    """See that a learner has restored what it had saved, by hash."""
    restored = graph.checkpoints(name, 'restored')[known:]
    if not saved:
        return
    if not restored:
        raise NotSurvived(f'{name} had a checkpoint and does not say that it restored it')
    if restored[-1][1] not in saved:
        raise NotSurvived(f'{name} restored {restored[-1][1]}, but saved was {sorted(saved)}')
