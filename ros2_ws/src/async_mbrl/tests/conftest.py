"""What all tests share: markers by folder, cheap tests first, a ROS domain of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

FOLDERS = ('unit', 'ros', 'launch', 'faults')
DOMAINS = range(20, 101)   # above the ones people choose by hand; up to 101 the ports are safe


def _claim_domain() -> int:
    """Find a ROS domain that no other test process of this machine uses.

    The claim is a lock on a file that stays open, so it ends with this process.
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


# Before anything imports rclpy; child processes inherit it.
_domain = _claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(_domain)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.pop('ROS_LOCALHOST_ONLY', None)   # its older form would override it
os.environ.pop('ROS_STATIC_PEERS', None)
os.environ.setdefault('OMP_NUM_THREADS', '1')

# The same examples every time, and no verdict on how fast a busy machine runs them.
settings.register_profile('repeatable', deadline=None, derandomize=True, database=None,
                          max_examples=50)
settings.load_profile('repeatable')


def pytest_report_header() -> str:
    """Say which ROS domain the tests use."""
    return f'ROS_DOMAIN_ID: {_domain}'


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and run the cheap ones first."""
    for item in items:
        item.add_marker(_folder(item))
    items.sort(key=lambda item: FOLDERS.index(_folder(item)))


@pytest.fixture(scope='session')
def package_root() -> Path:
    """Folder of the package, with config/, launch/, sim/ and async_mbrl/ in it."""
    return Path(__file__).resolve().parents[1]
