"""mbrl-lib 0.2.0 in an environment of its own, asked for one measurement at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

WORKER = Path(__file__).with_name('mbrl_lib_worker.py')
# Its own pins do not import on Python 3.11 and later; what is measured needs no more than this.
REQUIREMENTS = ('hydra-core==1.3.2', 'omegaconf==2.3.0', 'numpy<2', 'gymnasium==0.26.3',
                'termcolor', 'imageio', 'matplotlib', 'tqdm')


def set_up(folder: Path) -> Path:
    """Make a virtual environment with mbrl-lib and the torch that runs here; give its Python.

    Raises:
        subprocess.CalledProcessError: a package could not be had; pip has said why.
    """
    python = folder / 'bin' / 'python'
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    pip = [str(python), '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, f'torch=={torch.__version__.split("+")[0]}', *REQUIREMENTS], check=True)
    subprocess.run([*pip, '--no-deps', 'mbrl==0.2.0'], check=True)
    return python


class MbrlLib:
    """A process that measures mbrl-lib while this one waits."""

    def __init__(self, python: Path) -> None:
        """Start it.

        Raises:
            RuntimeError: this Python has no mbrl-lib.
        """
        self._process = subprocess.Popen([str(python), str(WORKER)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def seconds(self, **asked: Any) -> float:
        """Measure once: CPU time of one update or imagined step of all states, s."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + '\n')
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
            raise RuntimeError('--peer: this Python cannot run mbrl-lib; what it said is above; '
                               '--setup-peer makes an environment that can')
        return json.loads(line)
