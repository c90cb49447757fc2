"""Which start of a learner this is, so that a restarted one is newer than before."""

from __future__ import annotations

from pathlib import Path

from async_mbrl.core.files import write_atomically
from async_mbrl.learning.checkpoint import CheckpointError

_FILE = 'incarnation'


def raise_incarnation(folder: Path) -> int:
    """Count one more start in the folder of a learner and give its number, from 1.

    Raises:
        CheckpointError: the file does not hold a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    previous = 0
    if path.exists():
        try:
            previous = int(path.read_text())
        except ValueError:
            raise CheckpointError(f'{path} does not hold a number; write the number of starts so '
                                  'far into it') from None
    write_atomically(path, f'{previous + 1}\n')
    return previous + 1
