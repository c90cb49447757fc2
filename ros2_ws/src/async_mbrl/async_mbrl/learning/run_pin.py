"""Which run the folder of a learner belongs to: two runs must never be learned into one."""

from __future__ import annotations

import json
from pathlib import Path

from async_mbrl.core.config import ConfigError
from async_mbrl.core.files import write_atomically

FILE = 'run.json'
MAXIMUM_BYTES = 4096


class RunPin:
    """Holds a learner to the run that it heard first, in this and in every later start.

    What counts is what the robot's side says of itself: on two machines, the folders of a run may
    have different names.
    """

    def __init__(self, folder: Path, dry_run: bool) -> None:
        """Read which run the folder belongs to, if it does to any.

        Args:
            folder: of the learner.
            dry_run: whether the learner itself was started for a dry run.

        Raises:
            ConfigError: the file does not say.
        """
        self._path = folder / FILE
        self._dry_run = dry_run
        self._pinned: tuple[str, bool] | None = None
        if self._path.exists():
            self._pinned = _read(self._path)

    def check(self, run_id: str, dry_run: bool) -> None:
        """Compare what a run says of itself; the first one is kept.

        Args:
            run_id: its name.
            dry_run: whether it sends nothing to the arm.

        Raises:
            ConfigError: it is another run, or dry although the learner is not, or the other way
                round.
            OSError: what was heard first cannot be written; it is held to all the same.
        """
        if dry_run != self._dry_run:
            raise ConfigError(
                f'run.dry_run: {self._dry_run} here, but run {run_id!r} that is heard has '
                f'{dry_run}; start both sides with the same dry_run, in a folder of their own')
        if self._pinned is None:
            self._pinned = run_id, dry_run
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps({'run_id': run_id, 'dry_run': dry_run}) + '\n')
        elif self._pinned != (run_id, dry_run):
            pinned, dry = self._pinned
            raise ConfigError(
                f'{self._path.parent} belongs to run {pinned!r} (dry_run {dry}), but run '
                f'{run_id!r} (dry_run {dry_run}) is heard; start the learner with another '
                f'run_dir, or, if the folder of the run was only renamed, remove {self._path}')


def _read(path: Path) -> tuple[str, bool]:
    with path.open('rb') as file:
        content = file.read(MAXIMUM_BYTES + 1)
    try:
        found = json.loads(content) if len(content) <= MAXIMUM_BYTES else None
    except ValueError:
        found = None
    if (not isinstance(found, dict) or not isinstance(found.get('run_id'), str)
            or not isinstance(found.get('dry_run'), bool)):
        raise ConfigError(f'{path}: does not say which run this folder belongs to; remove it if '
                          'you know')
    return found['run_id'], found['dry_run']
