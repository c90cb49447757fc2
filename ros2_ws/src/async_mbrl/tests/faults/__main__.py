"""``python -m faults``: the fault suite on the live graph, from plan to ``faults.json``.

Needs a sourced environment (``. scripts/env.sh``) and ``tests/`` on the path; ``make faults`` has
both. Each part runs as a process of its own, in a ROS domain of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from domains import use_domain

from faults.ledger import Ledger, summarise
from faults.processes import begin
from faults.suite import Kind

PACKAGE = Path(__file__).resolve().parents[2]
ROOT = PACKAGE.parents[2]
SHOW_S = 20.0


def parts() -> dict[str, tuple[Kind, ...]]:
    """Give the kinds by part, in the order in which the parts are run."""
    from faults import hosts, learners, sessions, suite

    kinds = (*suite.ARM, *learners.KINDS, *sessions.KINDS, *hosts.KINDS)
    return {part: tuple(kind for kind in kinds if kind.part == part)
            for part in dict.fromkeys(kind.part for kind in kinds)}


def main() -> int:
    """Run the suite, or with ``--part`` one part of it."""
    parser = argparse.ArgumentParser(prog='python -m faults', description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--full', action='store_true', help='the long form; goes on where it was')
    parser.add_argument('--only', nargs='+', metavar='KIND', help='these kinds alone')
    parser.add_argument('--output', type=Path,
                        default=ROOT / 'benchmarks' / 'results' / 'faults.json')
    parser.add_argument('--work', type=Path, help='folder for trials, runs and logs; default: '
                        'runs/faults/<form>-seed<seed>')
    parser.add_argument('--part', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    form = 'full' if arguments.full else 'short'
    work = arguments.work or ROOT / 'runs' / 'faults' / f'{form}-seed{arguments.seed}'
    if arguments.part:
        return run_part(arguments, work)
    try:
        return run_suite(arguments, work)
    except KeyboardInterrupt:
        print(f'interrupted; what was tried is in {work}'
              + ('; the same command goes on there' if arguments.full else ''))
        return 130


def selected(arguments: argparse.Namespace) -> dict[str, tuple[Kind, ...]]:
    """Give the kinds asked for, by part."""
    found = {part: tuple(kind for kind in kinds
                         if not arguments.only or kind.label in arguments.only)
             for part, kinds in parts().items()}
    return {part: kinds for part, kinds in found.items() if kinds}


def run_part(arguments: argparse.Namespace, work: Path) -> int:
    """Make the trials of one part, in this process."""
    use_domain()
    from faults import hosts, learners, sessions, suite

    ledger = Ledger(work / 'trials.jsonl', resume=True)
    rng = np.random.default_rng([arguments.seed, 1])
    todo = suite.plan(selected(arguments)[arguments.part], arguments.full, ledger, rng)
    run: dict[str, Any] = {'learners': learners.run_learners, 'sessions': sessions.run_sessions,
                           'hosts': hosts.run_hosts}
    folder, status = work / arguments.part, 0
    try:
        if arguments.part in run:
            run[arguments.part](ledger, todo, arguments.seed, folder)
        else:
            suite.run_arm(ledger, todo, arguments.seed, folder,
                          factor=2.0 if arguments.part == 'clock' else 1.0)
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)     # what is left of the middleware's threads must not hold this up


def run_suite(arguments: argparse.Namespace, work: Path) -> int:
    """Run the parts one after the other, show how far they are, and write the result."""
    chosen = selected(arguments)
    if not chosen:
        sys.exit(f'error: no such kind; there are: '
                 f'{", ".join(kind.label for kinds in parts().values() for kind in kinds)}')
    ledger = Ledger(work / 'trials.jsonl', resume=arguments.full)
    progress = Progress(ledger, [kind for kinds in chosen.values() for kind in kinds],
                        arguments.full)
    troubles = []
    for part in chosen:
        command = [sys.executable, '-m', 'faults', *sys.argv[1:], '--part', part]
        with open(work / f'{part}.log', 'ab') as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                                       preexec_fn=begin)
        while process.poll() is None:
            time.sleep(0.5)
            progress.show()
        if process.returncode:
            troubles.append(f'{part} ended with status {process.returncode}; see {log.name}')
    progress.show(last=True)
    missing = progress.missing()
    result = summarise(ledger.trials)
    return conclude(arguments, result, troubles, missing)


def conclude(arguments: argparse.Namespace, result: dict[str, Any], troubles: list[str],
             missing: dict[str, int]) -> int:
    """Write and print the result; give the exit status."""
    sys.path.append(str(ROOT / 'benchmarks'))
    from provenance import provenance

    reasons = {kind.label: kind.missing() for kinds in parts().values() for kind in kinds
               if kind.label in missing}
    not_run = {kind: reason for kind, reason in reasons.items() if reason}
    about = provenance([arguments.seed])
    about['command'] = ('FULL=1 ' if arguments.full else '') + (
        f'make faults SEED={arguments.seed}')
    result = {**about, **result, 'not_run': not_run}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + '\n')
    for kind, row in result['faults'].items():
        hold = '' if row['worst_hold_ms'] is None else f'worst hold {row["worst_hold_ms"]:8.1f} ms'
        again = f'   {row["repeats"]} repeated' if row['repeats'] else ''
        print(f'{kind:36s} {row["survived"]:4d} of {row["trials"]:4d} survived   {hold}{again}')
    trials = sum(row['trials'] for row in result['faults'].values())
    broken = trials - sum(row['survived'] for row in result['faults'].values())
    print(f'{len(result["faults"])} kinds, {trials} trials, {broken} not survived; '
          f'{result["transitions_lost"]} transitions lost, {result["limit_violations_sent"]} '
          f'commands beyond limits, {result["unverified_policies_acted"]} unverified actions; '
          f'{sum(row["repeats"] for row in result["faults"].values())} trials were made again '
          f'because the instrument had stalled; {arguments.output}')
    for kind, reason in not_run.items():
        print(f'not run: {kind}: {reason}')
    for trouble in troubles:
        print(f'error: {trouble}')
    left = {kind: count for kind, count in missing.items() if kind not in not_run}
    if left:
        print(f'error: trials that were not made: {left}')
    bad = (broken or troubles or left or result['transitions_lost']
           or result['limit_violations_sent'] or result['unverified_policies_acted'])
    return 1 if bad else 0


class Progress:
    """Says how far the suite is, and about how long it still takes."""

    def __init__(self, ledger: Ledger, kinds: list[Kind], full: bool) -> None:
        """Show nothing yet."""
        self._ledger = ledger
        self._wanted = {kind.label: kind.full if full else kind.trials for kind in kinds}
        self._takes_s = {kind.label: kind.takes_s for kind in kinds}
        self._shown_s = 0.0
        self._begun_s = time.monotonic()

    def missing(self) -> dict[str, int]:
        """Give how many trials are still to be made, by kind; kinds that are complete left out."""
        left = {kind: count - len(self._ledger.done(kind)) for kind, count in self._wanted.items()}
        return {kind: count for kind, count in left.items() if count > 0}

    def show(self, last: bool = False) -> None:
        """Print new failures at once, and the state now and then."""
        for trial in self._ledger.refresh():
            if not trial.survived:
                print(f'NOT SURVIVED {trial.kind} {trial.index}: {trial.why}', flush=True)
        now_s = time.monotonic()
        if not last and now_s - self._shown_s < SHOW_S:
            return
        self._shown_s = now_s
        left_s = 0.0
        for kind, count in self.missing().items():
            took = [trial.took_s for trial in self._ledger.trials if trial.kind == kind]
            left_s += count * (float(np.mean(took)) if took else self._takes_s[kind])
        broken = sum(not trial.survived for trial in self._ledger.trials)
        elapsed_s = now_s - self._begun_s
        print(f'{elapsed_s / 60:5.1f} min: {len(self._ledger.trials)} of '
              f'{sum(self._wanted.values())} trials, {broken} not survived; about '
              f'{left_s / 60:.1f} min left', flush=True)


if __name__ == '__main__':
    sys.exit(main())
