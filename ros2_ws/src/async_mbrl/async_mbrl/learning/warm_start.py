"""Where the checkpoint lies that a learner of a new run begins from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.recorded import INDEX

_PARTS = {'policy_learner': 'policy', 'model_learner': 'model'}
"""Names that a learner of both gives to what it puts together."""


def checkpoint_of(path: Path, learner: str) -> Path | None:
    """Find what a learner can begin from.

    Args:
        path: folder of a run, or of a checkpoint in it.
        learner: ``policy_learner`` or ``model_learner``.

    Returns:
        Folder of the checkpoint; None if what is there holds nothing for that learner.

    Raises:
        CheckpointError: nothing was learned there.
    """
    folders = [folder for folder in (path, *(path / name for name in _PARTS))
               if (folder / INDEX).is_file()]
    if not folders:
        raise CheckpointError(f'{path}: nothing has been learned there (no {INDEX}); name the '
                              'folder of a run that has learned, or of a checkpoint')
    for folder in folders:
        about = _index(folder)
        kind = about.get('identity', {}).get('learner')
        if kind == learner:
            return folder
        if kind == 'sequential':
            part = folder / str(about.get('about', {}).get('slot')) / _PARTS[learner]
            if (part / INDEX).is_file():
                return part
    return None


def _index(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{folder / INDEX}: cannot be read ({error})') from None
    if not isinstance(found, dict) or not isinstance(found.get('identity'), dict):
        raise CheckpointError(f'{folder / INDEX}: not that of a checkpoint')
    return found
