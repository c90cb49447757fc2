"""One graph in a ROS domain: a second one would answer to the same topics."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from async_mbrl.bringup.graph import NODES
from async_mbrl.core.config import ConfigError

DISCOVERY_S = 1.5
"""Time in which the nodes of another graph are discovered, on a loaded machine too."""


class DomainClaim:
    """Claims the ROS domain of this process for one graph.

    Graphs of the same user on the same host are kept out by a lock, which no load can delay; those
    of others are found by discovery.
    """

    def __init__(self) -> None:
        """Claim nothing yet."""
        self._lock: int | None = None

    def claim(self) -> None:
        """Make sure that nobody runs a graph in the domain, now or while this claim stands.

        Raises:
            ConfigError: somebody does.
        """
        from async_mbrl.ros.monitor import Monitor

        domain = os.environ.get('ROS_DOMAIN_ID') or '0'
        path = _lock_file(domain)
        with contextlib.suppress(OSError):   # no place for it: discovery is what is left
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._lock is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.close()
                raise _taken(domain, f'its lock is {path}') from None
        with contextlib.closing(Monitor()) as monitor:
            others = monitor.present(NODES, DISCOVERY_S)
        if others:
            self.close()
            raise _taken(domain, ', '.join(others))

    def close(self) -> None:
        """Give the domain free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock_file(domain: str) -> Path:
    # Of this user alone: in a shared folder, the file of another user could not be opened.
    folder = os.environ.get('XDG_RUNTIME_DIR') or tempfile.gettempdir()
    return Path(folder) / f'async_mbrl_domain_{domain}_{os.getuid()}.lock'


def _taken(domain: str, how: str) -> ConfigError:
    return ConfigError(f'ROS_DOMAIN_ID: in domain {domain} there is already a graph ({how}); end '
                       'it, or choose another domain')
