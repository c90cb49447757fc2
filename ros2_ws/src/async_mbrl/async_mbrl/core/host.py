"""Seeing another process of this machine die, at once and whatever it was doing."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path


def host_id() -> str:
    """Identify the machine since it was started, and the process ids that are valid here."""
    boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot}:{os.stat("/proc/self/ns/pid").st_ino}'


class ProcessWatch:
    """Watch processes of the same machine; those of another cannot be watched, and never die here.

    The kernel makes the descriptor of a process readable when it ends, so nothing has to time out.
    """

    def __init__(self) -> None:
        """Watch nothing."""
        self._host = host_id()
        self._descriptors: dict[int, int] = {}
        self.dead: tuple[int, ...] = ()
        """Processes that were watched and have ended, since the last :meth:`watch` of others."""

    def watch(self, host: str, processes: tuple[int, ...]) -> bool:
        """Watch these processes from now on, in place of those before.

        Args:
            host: where they run, as :func:`host_id` gives it there.
            processes: their ids. One that has ended already counts as dead.

        Returns:
            Whether they can be; if not, because an id is none or they are too many, those before
            are watched on.
        """
        wanted = processes if host == self._host else ()
        if set(wanted) == {*self._descriptors, *self.dead}:
            return True
        opened, dead = {}, []
        try:
            for process in dict.fromkeys(wanted):
                try:
                    opened[process] = os.pidfd_open(process)
                except ProcessLookupError:
                    dead.append(process)
        except (OSError, OverflowError):
            _close(opened)
            return False
        self.close()
        self._descriptors, self.dead = opened, tuple(dead)
        return True

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors to select on; readable when a process has ended."""
        return tuple(self._descriptors.values())

    @property
    def watching(self) -> bool:
        """Whether there is a process that is watched and lives, as far as was checked."""
        return bool(self._descriptors)

    def check(self) -> tuple[int, ...]:
        """Give the processes that have ended; takes microseconds."""
        if self._descriptors:
            ended, _, _ = select.select(self.descriptors, (), (), 0.0)
            for process, descriptor in list(self._descriptors.items()):
                if descriptor in ended:
                    os.close(self._descriptors.pop(process))
                    self.dead += (process,)
        return self.dead

    def close(self) -> None:
        """Watch nothing any more."""
        _close(self._descriptors)
        self._descriptors = {}
        self.dead = ()


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
