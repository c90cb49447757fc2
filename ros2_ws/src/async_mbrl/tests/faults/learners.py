"""Learners of a whole running graph are killed and stopped, again and again, while it learns."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faults.ledger import Ledger, NotSurvived, Outcome, Trial
from faults.suite import Kind, end_run, try_on
from faults.whole import LEARNERS, WORKING, Ears, WholeGraph

MOTION_S = 60
BACK_S = 5.0
"""A killed learner is at work again within this time."""

HUNG_S = 10.5
"""A learner without a heartbeat for so long is killed by bringup, and started again."""


def model_learner_killed(graph: WholeGraph, rng: np.random.Generator) -> Outcome:
    """kill -9 of the model learner; the run goes on, and it comes back."""
    return _killed(graph, rng, ('model_learner',))


def policy_learner_killed(graph: WholeGraph, rng: np.random.Generator) -> Outcome:
    """kill -9 of the policy learner; the arm goes on with the last policy, and it comes back."""
    return _killed(graph, rng, ('policy_learner',))


def both_learners_killed(graph: WholeGraph, rng: np.random.Generator) -> Outcome:
    """kill -9 of both learners at once."""
    return _killed(graph, rng, LEARNERS)


def learner_stopped(graph: WholeGraph, rng: np.random.Generator) -> Outcome:
    """SIGSTOP of a learner for 1 to 12 s: it goes on, or is taken for hung and replaced."""
    name = str(rng.choice(LEARNERS))
    _moment(graph, rng)
    pid, stop_s = graph.pids()[name], rng.uniform(1.0, 12.0)
    session = graph.ears.learners[name].session
    graph.kill(name, signal.SIGSTOP)
    begun_s = time.monotonic()
    graph.until(lambda: time.monotonic() - begun_s >= stop_s or graph.pids()[name] != pid,
                15.0, 'the end of the stop')
    with contextlib.suppress(ProcessLookupError):    # it was taken for hung
        graph.kill(name, signal.SIGCONT)
    stopped_s = min(stop_s, HUNG_S)
    before = graph.transitions()
    graph.until(lambda: _works(graph, name, before), stopped_s + 2 * BACK_S, f'{name} at work')
    took_s = time.monotonic() - begun_s - stopped_s
    if took_s > BACK_S:
        raise NotSurvived(f'{name} was at work only {took_s:.1f} s after a stop of {stop_s:.1f} s')
    replaced = graph.ears.learners[name].session != session
    return Outcome(facts={'back_s': max(0.0, took_s), 'stopped_s': stop_s, 'replaced': replaced})


def _killed(graph: WholeGraph, rng: np.random.Generator, names: Sequence[str]) -> Outcome:
    _moment(graph, rng)
    sessions = {name: graph.ears.learners[name].session for name in names}
    for name in names:
        graph.kill(name)
    begun_s = time.monotonic()
    graph.until(lambda: all(graph.ears.learners[name].session != session
                            and graph.ears.learners[name].state in WORKING
                            for name, session in sessions.items()),
                3 * BACK_S, f'{" and ".join(names)} at work')
    took_s = time.monotonic() - begun_s
    before = graph.transitions()
    graph.until(lambda: all(_works(graph, name, before) for name in names), 2 * BACK_S,
                'all transitions at the restarted learner')
    allowed_s = BACK_S * len(names)     # two that load at the same time share the cores
    if took_s > allowed_s:
        raise NotSurvived(f'at work only {took_s:.1f} s after the kill, {allowed_s:g} s allowed')
    return Outcome(facts={'back_s': took_s})


def _moment(graph: WholeGraph, rng: np.random.Generator) -> None:
    graph.until(graph.learning, 20.0, 'learning')
    time.sleep(rng.uniform(0.5, 5.0))
    graph.until(graph.learning, 20.0, 'learning')


def _works(graph: WholeGraph, name: str, transitions: int) -> bool:
    status = graph.ears.learners[name]
    return status.state in WORKING and status.next_transition >= transitions


def run_with_learner_faults(graph: WholeGraph, before: int) -> Outcome:
    """The whole run: complete, nothing lost, and it has learned what it learns without faults.

    Args:
        graph: the run, its faults over.
        before: faults so far.
    """
    status = graph.ended(60.0 + 4.0 * MOTION_S)
    summary = graph.summary
    moved = summary['transitions']
    counts = {name: moved[name] for name in LEARNERS}
    lost = max([moved['lost'], *(moved['collected'] - count for count in counts.values())])
    success = (summary['evaluation']['offline'] or {}).get('success_rate')
    outcome = Outcome(violations=summary['safety']['limit_violations_sent'], lost=lost,
                      facts={'success_rate': success, 'faults': before})
    if lost or status or outcome.violations:
        # The exit status says whether the success rate of the task was met.
        raise RunFailed(f'status {status}, {lost} transitions lost, success rate {success}, '
                        f'{before} faults: {summary["outcome"]}', outcome)
    return outcome


class RunFailed(NotSurvived):
    """A run with faults did not come to what it comes to without."""

    def __init__(self, why: str, outcome: Outcome) -> None:
        """Say why, with what was measured."""
        super().__init__(why)
        self.outcome = outcome


KINDS = (
    Kind(model_learner_killed, 'learners', 5, 50, 8.0),
    Kind(policy_learner_killed, 'learners', 5, 50, 8.0),
    Kind(both_learners_killed, 'learners', 1, 10, 10.0),
    Kind(learner_stopped, 'learners', 2, 20, 15.0),
    Kind(run_with_learner_faults, 'learners', 1, 8, 80.0),
)


def run_learners(ledger: Ledger, todo: Sequence[tuple[Kind, int]], seed: int,
                 folder: Path) -> None:
    """Make the trials on as many runs as it takes, and judge each run at its end."""
    faults = [item for item in todo if item[0].fault is not run_with_learner_faults]
    runs = [index for kind, index in todo if kind.fault is run_with_learner_faults]
    ears = Ears()
    while faults or runs:
        number = runs.pop(0) if runs else 1000 + len(ledger.trials)
        graph = WholeGraph(folder / f'run-{seed}-{number}-{time.time_ns()}', ears,
                           '--seed', str(seed + number), '--motion-time', str(MOTION_S),
                           '--episodes', '100', '--set',
                           'collection.live_evaluation_episodes=1')
        begun_s, made = time.monotonic(), 0
        try:
            graph.await_transitions(5)
            # Faults end before the motion does, so that what was lost could be learned again.
            while faults and graph.ears.run.motion_time_s < 0.85 * MOTION_S:
                kind, index = faults.pop(0)
                ledger.add(try_on(graph, kind, index, seed))
                made += 1
            outcome, why = run_with_learner_faults(graph, made), ''
        except RunFailed as error:
            outcome, why = error.outcome, str(error)
        except (NotSurvived, OSError, KeyError) as error:
            outcome, why = Outcome(), f'{type(error).__name__}: {error}'
        finally:
            graph.close()
        end_run(ledger, Trial('run_with_learner_faults', number, not why, why,
                              time.monotonic() - begun_s, outcome=outcome), made, faults)
    ears.close()
