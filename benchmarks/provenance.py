"""What a result was measured with: command, revision, machine."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from async_mbrl.bench.provenance import machine, revision

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'


def provenance(seeds: list[int]) -> dict[str, Any]:
    """Describe the running command, the revision of the sources and the machine."""
    script = os.path.relpath(sys.argv[0], ROOT)
    return {'command': shlex.join(['python', script, *sys.argv[1:]]), 'git': revision(),
            'seeds': seeds, 'machine': machine()}
