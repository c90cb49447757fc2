"""What tests of nodes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.signals import SignalHandlerOptions


@pytest.fixture(scope='module')
def ros() -> Iterator[None]:
    """Have rclpy started for the tests of a file; signals end the tests, as ever."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    yield
    rclpy.try_shutdown()
