"""Another library, in an environment of its own, asked for one measurement at a time."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Library:
    """What a peer is, and how to get it.

    Attributes:
        name: as people know it.
        worker: script beside this one that its interpreter runs.
        installs: arguments of pip, one call each; torch comes before.
    """

    name: str
    worker: str
    installs: tuple[tuple[str, ...], ...]


MBRL_LIB = Library('mbrl-lib 0.2.0', 'mbrl_lib_worker.py', (
    # Its own pins do not import on Python 3.11 and later; what is measured needs no more than this.
    ('hydra-core==1.3.2', 'omegaconf==2.3.0', 'numpy<2', 'gymnasium==0.26.3', 'termcolor',
     'imageio', 'matplotlib', 'tqdm'), ('--no-deps', 'mbrl==0.2.0')))
D3RLPY = Library('d3rlpy 2.6.1', 'd3rlpy_worker.py', (
    ('gymnasium==0.29.1', 'd3rlpy==2.6.1'),))   # it does not import with a newer one


def add_arguments(parser: argparse.ArgumentParser, library: Library) -> None:
    """Add what names, or makes, the interpreter of a peer."""
    other = parser.add_mutually_exclusive_group()
    other.add_argument('--peer', metavar='PYTHON', type=Path,
                       help=f'interpreter that has {library.name}')
    other.add_argument('--setup-peer', metavar='DIR', type=Path,
                       help='virtual environment to make with it, if it is not there; some '
                            'hundred megabytes')


def interpreter(options: argparse.Namespace, library: Library) -> Path | None:
    """Give the interpreter that was named, or make one with the torch that runs here.

    Raises:
        subprocess.CalledProcessError: a package could not be had; pip has said why.
    """
    folder: Path | None = options.setup_peer
    if folder is None:
        named: Path | None = options.peer
        return named
    python = folder / 'bin' / 'python'
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    pip = [str(python), '-m', 'pip', 'install', '--quiet']
    own = f'torch=={torch.__version__.split("+")[0]}'
    for number, packages in enumerate(library.installs):
        subprocess.run([*pip, *((own,) if number == 0 else ()), *packages], check=True)
    return python


class Peer:
    """A process that measures a library while this one waits."""

    def __init__(self, library: Library, python: Path, arguments: Sequence[str] = ()) -> None:
        """Start it.

        Args:
            library: what it runs.
            python: interpreter that has it.
            arguments: of its script.

        Raises:
            RuntimeError: this Python does not have it.
        """
        self._library = library
        worker = Path(__file__).with_name(library.worker)
        self._process = subprocess.Popen([str(python), str(worker), *arguments],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def seconds(self, **asked: Any) -> float:
        """Measure once: CPU time of one of what the script measures, s."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + '\n')
        self._process.stdin.flush()
        found: float = self._answer()['seconds']
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'--peer: this Python cannot run {self._library.name}; what it said '
                               'is above; --setup-peer makes an environment that can')
        answer: dict[str, Any] = json.loads(line)
        return answer
