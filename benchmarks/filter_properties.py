"""Whether anything that the command filter sends is ever beyond a limit, over many sequences.

Every sequence is a stream of commands and measurements that turns bad in changing ways: not finite,
huge, jumping, far outside limits; with calls for the safe command and for braking in between. Each
robot (joints, chain, limits, rate) is drawn, too. What is sent is judged by finite differences
alone. ``--break`` feeds a filter that is broken on purpose, to see that the checks would notice.
Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import sys
import time
from typing import Any

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'

import numpy as np  # noqa: E402  (after the number of its threads is set)
from provenance import RESULTS, ROOT, provenance  # noqa: E402

sys.path.insert(0, str(ROOT / 'ros2_ws/src/async_mbrl/tests'))

from filter_rig import BROKEN, INTERFACES, Checks, random_robot, torment  # noqa: E402

SEQUENCES_OF_A_ROBOT = 100
RESTARTS = 0.2
"""Share of the sequences at which the filter begins anew; the others go on where one ended."""


def judge(job: tuple[int, int, int, str]) -> tuple[str, int, int, dict[str, int], dict[str, int]]:
    """Run the sequences of one robot.

    Args:
        job: seed, number of the robot, ticks of a sequence, which filter.

    Returns:
        Interface, sequences, steps without an answer of the generator, violations by kind, and
        changes by the filter.
    """
    seed, number, ticks, broken = job
    rng = np.random.default_rng([seed, number])
    interface = INTERFACES[number % len(INTERFACES)]
    robot = random_robot(rng, interface)
    command_filter, checks = BROKEN[broken](robot), Checks(robot)
    for sequence in range(SEQUENCES_OF_A_ROBOT):
        torment(rng, robot, command_filter, checks, ticks,
                restart=sequence == 0 or rng.random() < RESTARTS)
    return (interface, SEQUENCES_OF_A_ROBOT, command_filter.failures, dict(checks.counts),
            dict(command_filter.counts))


def main() -> int:
    """Run and write the result; 1 if anything was beyond a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--sequences', type=int, default=102_000)
    parser.add_argument('--ticks', type=int, default=12, help='control periods of a sequence')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--break', dest='broken', choices=sorted(BROKEN), default='none',
                        help='feed a filter that is broken on purpose; writes no result')
    arguments = parser.parse_args()
    robots = -(-arguments.sequences // SEQUENCES_OF_A_ROBOT)
    jobs = [(arguments.seed, number, arguments.ticks, arguments.broken) for number in range(robots)]
    rows: dict[str, dict[str, Any]] = {interface: {
        'interface': interface, 'robots': 0, 'sequences': 0, 'ticks': 0, 'unanswered': 0,
        'violations': dict.fromkeys(Checks.KINDS, 0), 'changes': collections.Counter()}
        for interface in INTERFACES}
    begin_s = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        for interface, sequences, failures, violations, changes in pool.imap_unordered(judge, jobs):
            row = rows[interface]
            row['robots'] += 1
            row['sequences'] += sequences
            row['ticks'] += sequences * arguments.ticks
            row['unanswered'] += failures
            row['changes'].update(changes)
            for kind, count in violations.items():
                row['violations'][kind] += count
    total = sum(sum(row['violations'].values()) for row in rows.values())
    result = {
        **provenance([arguments.seed]), 'wall_time_s': round(time.monotonic() - begin_s, 1),
        'sequences': sum(row['sequences'] for row in rows.values()),
        'ticks_of_a_sequence': arguments.ticks, 'restarts': RESTARTS, 'violations': total,
        'interfaces': list(rows.values())}
    print(json.dumps(result, indent=1))
    if arguments.broken == 'none':
        (RESULTS / 'filter_properties.json').write_text(json.dumps(result, indent=1) + '\n')
    return 1 if total else 0


if __name__ == '__main__':
    sys.exit(main())
