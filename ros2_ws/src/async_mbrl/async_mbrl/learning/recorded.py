"""What the index of a checkpoint tells, read without the checkpoint itself and without torch.

What is wrong with a checkpoint is said by the learner, which reads all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INDEX = 'checkpoint.json'


def recorded_hash(folder: Path) -> str:
    """Give the SHA-256 of the checkpoint file that stands in a folder, hex; empty without one.

    That of a file that :func:`.checkpoint.write` has just written, or
    :func:`.checkpoint.read` has verified.
    """
    return str(_index(folder).get('sha256', ''))


def recorded_count(folder: Path, name: str) -> int:
    """Give a number that the index of a checkpoint tells; 0 without a checkpoint, or without it."""
    try:
        return int(_recorded(folder, name) or 0)
    except (ValueError, TypeError):
        return 0


def recorded_text(folder: Path, name: str) -> str:
    """Give a text that the index tells; empty without a checkpoint, or without it."""
    return str(_recorded(folder, name) or '')


def _recorded(folder: Path, name: str) -> Any:
    about = _index(folder).get('about')
    return about.get(name) if isinstance(about, dict) else None


def _index(folder: Path) -> dict[str, Any]:
    """Read the index; empty where there is none, or none that can be read."""
    try:
        found = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
