"""What a result was measured with: revision and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Describe the machine."""
    models = [line.split(':', 1)[1].strip() for line in Path('/proc/cpuinfo').read_text()
              .splitlines() if line.startswith('model name')]
    return {'cpu': models[0] if models else 'unknown', 'cores': os.cpu_count(),
            'kernel': os.uname().release, 'python': platform.python_version()}


def revision() -> str:
    """Give the revision of the sources."""
    found = subprocess.run(
        ['git', '-C', str(Path(__file__).resolve().parent), 'describe', '--always', '--dirty',
         '--abbrev=12'], capture_output=True, text=True, check=False).stdout.strip()
    return found or 'not committed'
