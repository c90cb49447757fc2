"""The kinds of fault, how often each is tried, and the run of those on the partial graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from faults import intrusions, stops
from faults.ledger import Ledger, NotSurvived, Outcome, Trial, generator

STALL_S = 0.02
"""A trial whose instrument was held up for longer says nothing, and is made again."""

REPEATS = 3


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        fault: injects it and judges what follows.
        part: of the suite that tries it.
        trials: in the short form.
        full: in the long form.
        takes_s: about how long a trial takes, from which the time left is told at first.
        name: that of the function without it.
        missing: says why it cannot be tried here; empty where it can.
    """

    fault: Callable[..., Outcome]
    part: str
    trials: int
    full: int
    takes_s: float
    name: str = ''
    missing: Callable[[], str] = str

    @property
    def label(self) -> str:
        """Name in the result."""
        return self.name or self.fault.__name__


def _arm(fault: Callable[..., Outcome], trials: int, full: int, takes_s: float = 1.5) -> Kind:
    return Kind(fault, 'arm', trials, full, takes_s)


ARM = (
    _arm(stops.joint_states_stop, 60, 300),
    _arm(stops.controller_killed, 36, 200, 4.5),
    _arm(stops.control_loop_killed, 32, 200, 4.5),
    _arm(stops.robot_interface_killed, 60, 300),
    _arm(stops.controller_stopped, 12, 60, 4.5),
    _arm(stops.driver_stopped, 15, 60),
    _arm(stops.joint_states_not_finite, 15, 60),
    _arm(stops.joint_states_jump, 15, 60, 2.5),
    _arm(stops.joint_states_back_in_time, 15, 60),
    _arm(stops.emergency_stop, 15, 60, 2.0),
    _arm(stops.emergency_stop_called, 10, 60, 2.0),
    _arm(stops.second_publisher, 8, 40, 6.0),
    _arm(stops.robot_interface_silent, 4, 20, 5.5),
    _arm(intrusions.snapshot_damaged, 15, 100),
    _arm(intrusions.snapshot_cut, 15, 100),
    _arm(intrusions.snapshot_of_another_architecture, 15, 100),
    _arm(intrusions.snapshot_not_finite, 15, 100),
    _arm(intrusions.snapshot_older, 15, 100),
    _arm(intrusions.snapshot_from_a_stranger, 10, 60, 4.0),
    _arm(intrusions.learner_restarted, 6, 40, 4.0),
    _arm(intrusions.order_lost, 8, 40, 3.0),
    Kind(intrusions.clock_back, 'clock', 10, 50, 2.0),
)


def plan(kinds: Sequence[Kind], full: bool, ledger: Ledger,
         rng: np.random.Generator) -> list[tuple[Kind, int]]:
    """List the trials that are still to be made, in random order."""
    trials = [(kind, index) for kind in kinds
              for index in range(kind.full if full else kind.trials)
              if index not in ledger.done(kind.label)]
    return [trials[i] for i in rng.permutation(len(trials))]


def try_on(run: Any, kind: Kind, index: int, seed: int) -> Trial:
    """Make one trial on a whole run, which goes on afterwards."""
    begun_s = time.monotonic()
    trial = Trial(kind.label, index, True)
    try:
        trial = replace(trial, outcome=kind.fault(run, generator(seed, kind.label, index)))
    except (NotSurvived, OSError, KeyError) as error:
        trial = replace(trial, survived=False, why=f'{type(error).__name__}: {error}')
    return replace(trial, took_s=time.monotonic() - begun_s)


def end_run(ledger: Ledger, run: Trial, made: int, todo: list[tuple[Kind, int]]) -> None:
    """Write down a whole run, and, where no trial could be made on it, that none could be.

    Args:
        ledger: takes them.
        run: what became of it.
        made: trials that were made on it.
        todo: those that are still to be made; emptied where there is no run to make them on.
    """
    ledger.add(run)
    if made:
        return
    for kind, index in todo:
        ledger.add(Trial(kind.label, index, False, f'no run to try it on: {run.why}'))
    todo.clear()


def run_arm(ledger: Ledger, todo: Sequence[tuple[Kind, int]], seed: int, folder: Path, *,
            factor: float = 1.0) -> None:
    """Make trials on the partial graph.

    Args:
        ledger: takes them.
        todo: kinds and indices.
        seed: of the suite.
        folder: for logs.
        factor: real-time factor of the driver.
    """
    from faults.arm_rig import ArmRig

    sys.setswitchinterval(0.0005)
    rig: ArmRig | None = None
    failed = 0
    for number, (kind, index) in enumerate(todo):
        begun_s = time.monotonic()
        for repeat in range(REPEATS):
            try:
                rig = rig or ArmRig(folder / f'rig{number}', generator(seed, 'rig', number),
                                    factor=factor)
                failed = 0
            except NotSurvived as error:
                failed += 1
                if failed == REPEATS:
                    raise
                trial, stalled = Trial(kind.label, index, False, f'no start: {error}'), False
                break
            trial, rig, stalled = _try(rig, kind, index, seed)
            if trial.survived or not stalled or repeat + 1 == REPEATS:
                break
        ledger.add(replace(trial, took_s=time.monotonic() - begun_s, repeats=repeat))
    if rig is not None:
        rig.close()


def _try(rig: Any, kind: Kind, index: int, seed: int) -> tuple[Trial, Any, bool]:
    """Make one trial; give it, the rig if it can be used again, and whether the wire stalled."""
    rig.wire.stall_s = 0.0
    outcome, why = Outcome(), ''
    try:
        outcome = kind.fault(rig, generator(seed, kind.label, index))
    except NotSurvived as error:
        why = str(error)
        if isinstance(error, intrusions.Unverified):
            outcome = Outcome(unverified=error.count)
    stalled = rig.wire.stall_s > STALL_S
    try:
        rig.recover()
    except NotSurvived as error:
        why = why or f'afterwards the arm does not move again: {error}'
    violations = rig.violations()
    if violations:
        why = why or f'{violations} commands beyond the limits'
    outcome = replace(outcome, violations=violations)
    if why:
        # Whatever state it is in, the next trial begins with another.
        rig.close()
        rig = None
    return Trial(kind.label, index, not why, why, outcome=outcome), rig, stalled
