"""The monitor: status messages of a graph become updates of the view."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import rclpy
from async_mbrl_interfaces import msg
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from async_mbrl.core.snapshot import Version
from async_mbrl.reporting.state import (
    BridgeHealth,
    ControllerHealth,
    GuardHealth,
    LearnerHealth,
    RunProgress,
    Update,
)
from async_mbrl.ros.convert import doubles
from async_mbrl.ros.monitor import Monitor
from async_mbrl.ros.qos import STATUS


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node('controller', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()
    yield monitor
    monitor.close()


def test_every_status_arrives_as_an_update(node: Node, monitor: Monitor) -> None:
    sent = {
        'run_status': msg.RunStatus(phase=msg.RunStatus.LEARNING, task='reach', episodes=3,
                                    last_distance_m=0.02, next_transition=90),
        'controller_status': msg.ControllerStatus(
            state='running', ticks=500, policy_age_s=0.25,
            policy_version=msg.SnapshotVersion(incarnation=1, counter=7)),
        'learner_status': msg.LearnerStatus(
            name='model_learner', state=msg.LearnerStatus.WAITING, running_s=10.0, waiting_s=1.0,
            metric_names=['validation_loss'], metric_values=doubles([0.5])),
        'bridge_status': msg.BridgeStatus(real_time_factor=1.0, limit_violations=2),
        'guard_status': msg.SafetyStatus(source='guard', state=msg.SafetyStatus.FAULT,
                                         reason='silence'),
    }
    publishers = {topic: node.create_publisher(type(message), topic, STATUS)
                  for topic, message in sent.items()}
    monitor.start()
    for topic, message in sent.items():
        publishers[topic].publish(message)
    arrived: list[Update] = []
    end = time.monotonic() + 10.0
    while len(arrived) < len(sent) and time.monotonic() < end:
        arrived += monitor.drain()
        time.sleep(0.02)
    assert set(map(type, arrived)) == {RunProgress, ControllerHealth, LearnerHealth, BridgeHealth,
                                       GuardHealth}
    by_type = {type(update): update for update in arrived}
    assert by_type[RunProgress] == RunProgress(
        'learning', task='reach', episodes=3, recent_success_rate=0.0, last_distance_m=0.02,
        transitions=90)
    assert by_type[ControllerHealth] == ControllerHealth(
        'running', ticks=500, policy_age_s=0.25, policy_version=Version(1, 7))
    assert by_type[LearnerHealth] == LearnerHealth(
        'model_learner', 'waiting', waiting_share=0.1, metrics={'validation_loss': 0.5})
    assert by_type[BridgeHealth] == BridgeHealth(limit_violations=2)
    assert by_type[GuardHealth] == GuardHealth('acting', 'silence')


def test_another_graph_is_seen(node: Node, monitor: Monitor) -> None:
    assert monitor.present(('controller', 'guard'), 10.0) == ['controller']
    assert monitor.present(('sim_bridge',), 0.1) == []
