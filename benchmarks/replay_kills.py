"""Whether kill -9 at any moment loses or tears a transition in the file of a learner's buffer.

A process adds transitions, every part of which follows from their numbers, to a file so small that
it soon goes round, and tells each number that is committed. It is killed at a random moment, also
while it opens the file. Then the file is opened: all that was told must be there, and each of the
newest transitions must be what was added. The next process goes on with it. ``--break`` kills one
that writes in a wrong order on purpose, to see that this would be noticed.
Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'     # a process with several threads must not fork

import numpy as np  # noqa: E402  (after the number of its threads is set)
import torch  # noqa: E402
from provenance import RESULTS, ROOT, provenance  # noqa: E402

sys.path.insert(0, str(ROOT / 'ros2_ws/src/async_mbrl/tests'))

from replay_rig import BROKEN, SIZES, Judgement, kill_once  # noqa: E402


def main() -> int:
    """Run and write the result; 1 if anything was lost or torn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, help='where the file is made; a temporary folder '
                                                    'by default')
    parser.add_argument('--break', dest='broken', choices=sorted(BROKEN), default='none',
                        help='write in a wrong order on purpose; writes no result')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng, judgement = np.random.default_rng(arguments.seed), Judgement()
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.kills):
            kill_once(Path(folder), rng, judgement, arguments.broken)
    result = {
        **provenance([arguments.seed]), 'wall_time_s': round(time.monotonic() - begin_s, 1),
        'capacity': SIZES.capacity, 'bytes_of_a_transition': 4 * sum(SIZES.widths[:2]) + 24,
        'times_round': judgement.transitions // SIZES.capacity, **dataclasses.asdict(judgement)}
    print(json.dumps(result, indent=1))
    if arguments.broken == 'none':
        (RESULTS / 'replay_kills.json').write_text(json.dumps(result, indent=1) + '\n')
    return 1 if judgement.harmed else 0


if __name__ == '__main__':
    sys.exit(main())
