"""A ROS domain for each test process, so that those that run beside each other never meet."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from async_mbrl.bringup.resources import share_folder
from async_mbrl.bringup.transport import PROFILES, RANGE, keep_to_this_machine

DOMAINS = range(20, 101)   # above the ones people choose by hand; up to 101 the ports are safe


def claim_domain() -> int:
    """Find a ROS domain that no other test process of this machine uses.

    The claim is a lock on a file that stays open, so it ends with this process.

    Raises:
        RuntimeError: all are in use.
    """
    first = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[first:], *DOMAINS[:first]):
        path = Path(tempfile.gettempdir()) / f'async_mbrl_test_domain_{domain}'
        with contextlib.suppress(OSError):   # in use, or the file of another user
            claim = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(claim)
                continue
            return domain
    raise RuntimeError(f'all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by tests')


def use_domain() -> int:
    """Claim a domain for this process and those it starts, heard on this machine alone.

    To be called before anything imports rclpy.
    """
    domain = claim_domain()
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    for name in (RANGE, PROFILES, 'ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS'):
        os.environ.pop(name, None)
    keep_to_this_machine(os.environ, share_folder())
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    return domain
