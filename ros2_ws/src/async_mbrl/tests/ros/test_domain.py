"""A ROS domain is for one graph at a time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from async_mbrl.bringup import domain
from async_mbrl.core.config import ConfigError


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(tmp_path))


def test_a_domain_is_claimed_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, 'DISCOVERY_S', 0.1)
    with closing(domain.DomainClaim()) as first, closing(domain.DomainClaim()) as second:
        first.claim()
        with pytest.raises(ConfigError, match='there is already a graph .its lock is'):
            second.claim()
        first.close()
        second.claim()


def test_a_graph_of_somebody_else_is_discovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, 'DISCOVERY_S', 10.0)
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node('robot_interface', context=context)
    try:
        with (closing(domain.DomainClaim()) as claim,
              pytest.raises(ConfigError, match='already a graph .robot_interface.')):
            claim.claim()
    finally:
        node.destroy_node()
        context.try_shutdown()
