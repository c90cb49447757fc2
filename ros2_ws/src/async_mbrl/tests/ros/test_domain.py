"""A ROS domain is for one graph at a time."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from async_mbrl.bringup import domain
from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import LEARNERS
from async_mbrl.core.config import ConfigError
from async_mbrl.ros.monitor import Monitor


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


def test_a_simulation_keeps_away_from_a_driver(monkeypatch: pytest.MonkeyPatch,
                                               package_root: Path) -> None:
    real = compose(RunRequest(where='real'), package_root, Path('/nowhere'))
    # Names of its own: what other tests leave behind is discovered for some seconds.
    real = dataclasses.replace(real, robot=dataclasses.replace(
        real.robot, joint_states_topic='driver/states', commands_topic='driver/commands'))
    simulated = dataclasses.replace(real, where='sim', robot=dataclasses.replace(
        real.robot, controller_manager='manager', controllers=('own',)))
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node('driver', context=context)
    ends = {
        'topic driver/states is published by driver':
            lambda: node.create_publisher(JointState, 'driver/states', 1),
        'topic driver/commands is subscribed to by driver':
            lambda: node.create_subscription(Float64MultiArray, 'driver/commands', print, 1),
        'service /manager/switch_controller is served':
            lambda: node.create_service(Trigger, 'manager/switch_controller', print)}
    try:
        with closing(Monitor()) as monitor:
            assert monitor.driver(simulated.robot) == []
            expected = []
            for words, create in ends.items():
                create()
                expected.append(words)
                end = time.monotonic() + 10.0
                while monitor.driver(simulated.robot) != expected and time.monotonic() < end:
                    time.sleep(0.02)
                assert monitor.driver(simulated.robot) == expected
        monkeypatch.setattr(domain, 'DISCOVERY_S', 4.0)     # a second participant here waits 3 s
        with (closing(domain.DomainClaim()) as claim,
              pytest.raises(ConfigError, match='a driver of this arm .topic driver/states .* end')):
            claim.claim_for(simulated)
        monkeypatch.setattr(domain, 'DISCOVERY_S', 0.1)
        with closing(domain.DomainClaim()) as claim:
            claim.claim_for(real)       # that is the driver it needs
        with closing(domain.DomainClaim(LEARNERS)) as claim:
            claim.claim_for(simulated)  # its arm is simulated on the other machine
    finally:
        node.destroy_node()
        context.try_shutdown()
