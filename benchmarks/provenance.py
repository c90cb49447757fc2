"""What a result was measured with: command, revision, machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'


def provenance(seeds: list[int]) -> dict[str, Any]:
    """Describe the running command, the revision of the sources and the machine."""
    models = [line.split(':', 1)[1].strip() for line in Path('/proc/cpuinfo').read_text()
              .splitlines() if line.startswith('model name')]
    revision = subprocess.run(
        ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12'],
        capture_output=True, text=True, check=False).stdout.strip()
    script = os.path.relpath(sys.argv[0], ROOT)
    return {'command': shlex.join(['python', script, *sys.argv[1:]]),
            'git': revision or 'not committed', 'seeds': seeds,
            'machine': {'cpu': models[0] if models else 'unknown', 'cores': os.cpu_count(),
                        'kernel': os.uname().release, 'python': sys.version.split()[0]}}
