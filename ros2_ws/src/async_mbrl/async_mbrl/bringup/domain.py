"""One graph in a ROS domain: a second one would answer to the same topics."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.graph import LEARNERS, NODES, ROBOT
from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import RobotConfig

DISCOVERY_S = 1.5
"""Time in which the nodes of another graph are discovered, on a loaded machine too."""


class DomainClaim:
    """Claims the ROS domain of this process for one graph.

    Graphs of the same user on the same host are kept out by a lock, which no load can delay; those
    of others are found by discovery.
    """

    def __init__(self, names: tuple[str, ...] = NODES) -> None:
        """Claim nothing yet.

        Args:
            names: nodes that there may be only once; those of the other machine may run already.
        """
        self._names = names
        self._locks: list[int] = []

    def claim(self, simulated: RobotConfig | None = None) -> None:
        """Make sure that nobody runs a graph in the domain, now or while this claim stands.

        Args:
            simulated: the robot, if its driver is to be played here: then nobody else may have the
                topics and services of that driver, or the commands could reach a real arm.

        Raises:
            ConfigError: somebody does.
        """
        from async_mbrl.ros.monitor import Monitor

        domain = os.environ.get('ROS_DOMAIN_ID') or '0'
        for part, names in (('robot', ROBOT), ('learners', LEARNERS)):
            if set(names) & set(self._names):
                self._lock(domain, part)
        with contextlib.closing(Monitor()) as monitor:
            others = monitor.present(self._names, DISCOVERY_S)
            driver = []
            if not others and simulated is not None and 'sim_bridge' in self._names:
                driver = monitor.driver(simulated)
        if others:
            self.close()
            raise _taken(domain, ', '.join(others))
        if driver:
            self.close()
            raise ConfigError(
                f'ROS_DOMAIN_ID: in domain {domain} there is already a driver of this arm '
                f'({", ".join(driver)}), and a simulation would send it commands; end the driver, '
                'or choose another domain')

    def claim_for(self, composition: Composition) -> None:
        """Claim the domain for a run of this configuration; see :meth:`claim`."""
        self.claim(composition.robot if composition.where == 'sim' else None)

    def close(self) -> None:
        """Give the domain free."""
        while self._locks:
            os.close(self._locks.pop())

    def _lock(self, domain: str, part: str) -> None:
        path = _lock_file(domain, part)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return      # no place for it: discovery is what is left
        self._locks.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise _taken(domain, f'its lock is {path}') from None


def _lock_file(domain: str, part: str) -> Path:
    # Of this user alone: in a shared folder, the file of another user could not be opened.
    folder = os.environ.get('XDG_RUNTIME_DIR') or tempfile.gettempdir()
    return Path(folder) / f'async_mbrl_domain_{domain}_{part}_{os.getuid()}.lock'


def _taken(domain: str, how: str) -> ConfigError:
    return ConfigError(f'ROS_DOMAIN_ID: in domain {domain} there is already a graph ({how}); end '
                       'it, or choose another domain')
