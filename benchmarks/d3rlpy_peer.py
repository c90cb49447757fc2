"""d3rlpy 2.6.1 in an environment of its own, asked for one measurement at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

WORKER = Path(__file__).with_name('d3rlpy_worker.py')


def set_up(folder: Path) -> Path:
    """Make a virtual environment with d3rlpy and the torch that runs here; give its Python.

    Raises:
        subprocess.CalledProcessError: a package could not be had; pip has said why.
    """
    python = folder / 'bin' / 'python'
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    subprocess.run([str(python), '-m', 'pip', 'install', '--quiet',
                    f'torch=={torch.__version__.split("+")[0]}', 'd3rlpy==2.6.1'], check=True)
    return python


class D3rlpy:
    """A process that measures d3rlpy while this one waits."""

    def __init__(self, python: Path, **shape: Any) -> None:
        """Start it.

        Args:
            python: interpreter that has d3rlpy.
            shape: see ``d3rlpy_worker.py``.

        Raises:
            RuntimeError: this Python has no d3rlpy.
        """
        self._process = subprocess.Popen([str(python), str(WORKER), json.dumps(shape)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def seconds(self) -> float:
        """Measure one window: CPU time of one gradient step with its sampling, s."""
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        return self._answer()['seconds']

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError('--peer: this Python cannot run d3rlpy; what it said is above; '
                               '--setup-peer makes an environment that can')
        return json.loads(line)
