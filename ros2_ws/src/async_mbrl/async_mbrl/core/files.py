"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file stands.
    """
    content = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def link_atomically(link: Path, target: Path) -> None:
    """Make ``link`` a symbolic link to ``target``, relative to its own folder, in one step.

    Raises:
        OSError: something that is no link stands there.
    """
    spare = link.with_name(f'.{link.name}.{os.getpid()}')
    spare.symlink_to(os.path.relpath(target, link.parent))
    try:
        os.replace(spare, link)
    except OSError:
        spare.unlink()
        raise
