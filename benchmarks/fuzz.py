"""Damaged and forged inputs of every kind: none may crash what takes them, none be taken wrongly.

What each input is depends on the seed, its target and its number alone, so that every finding can
be had again: ``--target NAME --first NUMBER --count 1``. Each target runs in a process of its own,
whose memory is limited: what would allocate by a forged size fails there. The targets, and the
rules by which they judge, are in ``tests/fuzzing`` of the package. Needs a sourced environment
(``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from provenance import RESULTS, ROOT, provenance

sys.path.insert(0, str(ROOT / 'ros2_ws' / 'src' / 'async_mbrl' / 'tests'))

COUNTS = {'snapshots': 30_000, 'snapshot_parts': 10_000, 'transitions': 25_000,
          'control_steps': 20_000, 'episode_commands': 20_000, 'joint_states': 25_000,
          'takeovers': 10_000, 'joysticks': 10_000, 'configs': 6_000, 'journal': 4_000,
          'checkpoints': 4_000}
"""Inputs by target."""

MEMORY_BYTES = 512 * 1024 * 1024
"""What a target may allocate on top of what it has when it begins."""


def run_target(name: str, seed: int, first: int, count: int) -> None:
    """Fuzz one target here and print what came of it."""
    from fuzzing import files, fuzz, parameters, wire

    target = {target.name: target for module in (parameters, wire, files)
              for target in module.targets()}[name]
    size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    score = fuzz(target, seed, first, count)
    print(json.dumps({
        'inputs': score.inputs, 'accepted': score.accepted, 'crashes': score.crashes,
        'accepted_wrongly': score.accepted_wrongly, 'refused_wrongly': score.refused_wrongly,
        'kinds': dict(sorted(score.kinds.items())), 'seconds': round(time.monotonic() - begun, 1),
        'memory_grown_mib': (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024}))


def start(name: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """Fuzz one target in a process of its own; one that dies has crashed."""
    with tempfile.TemporaryFile() as noise:     # the middleware prints a line for each refusal
        ended = subprocess.run(
            [sys.executable, __file__, '--target', name, '--seed', str(seed), '--first',
             str(first), '--count', str(count), '--here'],
            stdout=subprocess.PIPE, stderr=noise, check=False,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'})
        if ended.returncode == 0:
            return json.loads(ended.stdout)
        noise.seek(max(0, noise.tell() - 2000))
        return {'inputs': 0, 'accepted': 0, 'accepted_wrongly': [], 'refused_wrongly': [],
                'crashes': [f'the process ended with {ended.returncode}: '
                            f'{noise.read().decode(errors="replace")}']}


def main() -> int:
    """Fuzz all targets, or one."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--target', choices=COUNTS, help='this one alone; nothing is written')
    parser.add_argument('--first', type=int, default=0, help='number of the first input')
    parser.add_argument('--count', type=int, help='inputs of the target')
    parser.add_argument('--here', action='store_true', help='in this process')
    arguments = parser.parse_args()
    if arguments.here:
        run_target(arguments.target, arguments.seed, arguments.first, arguments.count)
        return 0
    rows = {}
    for name in [arguments.target] if arguments.target else COUNTS:
        row = start(name, arguments.seed, arguments.first, arguments.count or COUNTS[name])
        rows[name] = row
        print(f'{name:18} {row["inputs"]:6} inputs, {row["accepted"]:6} accepted, crashes '
              f'{len(row["crashes"])}, accepted wrongly {len(row["accepted_wrongly"])}, refused '
              f'wrongly {len(row["refused_wrongly"])}   {row.get("seconds", 0.0):.0f} s, memory '
              f'grown by {row.get("memory_grown_mib", 0)} MiB', flush=True)
        for finding in (*row['crashes'], *row['accepted_wrongly'], *row['refused_wrongly'])[:10]:
            print(f'    {finding}')
    total = {what: sum(len(row[what]) for row in rows.values())
             for what in ('crashes', 'accepted_wrongly', 'refused_wrongly')}
    inputs = sum(row['inputs'] for row in rows.values())
    print(f'{inputs} inputs: {total}')
    if not arguments.target:
        target = RESULTS / 'fuzz.json'
        target.write_text(json.dumps({**provenance([arguments.seed]), 'inputs': inputs, **total,
                                      'targets': rows}, indent=1) + '\n')
        print(f'written: {target}')
    return 0 if not any(total.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
