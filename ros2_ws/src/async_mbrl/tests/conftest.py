"""What all tests share: markers by folder, cheap tests first, a ROS domain of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from domains import use_domain
from hypothesis import settings

FOLDERS = ('unit', 'ros', 'launch', 'faults')
# Before anything imports rclpy; child processes inherit it.
_domain = use_domain()

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
