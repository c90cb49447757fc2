"""States that a simulator is asked for arrive, and those that cannot be are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator

import bodies
import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from async_mbrl.ros import qos
from async_mbrl.ros.state_reset import TOPIC, ResetIntake, ResetPublisher

ROBOT = bodies.robot('ant')
START = bodies.task('ant').sample_start(np.random.default_rng(0))


@pytest.fixture
def nodes() -> Iterator[tuple[Node, ResetIntake]]:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    controller, bridge = rclpy.create_node('controller'), rclpy.create_node('sim_bridge')
    yield controller, ResetIntake(bridge, ROBOT)
    controller.destroy_node()
    bridge.destroy_node()
    rclpy.try_shutdown()


def until_there(intake: ResetIntake) -> np.ndarray:
    end_s = time.monotonic() + 10.0
    while (state := intake.poll()) is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return state


def until_matched(node: Node) -> None:
    end_s = time.monotonic() + 10.0
    while not node.count_subscribers(TOPIC):
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_state_arrives_once(nodes: tuple[Node, ResetIntake]) -> None:
    node, intake = nodes
    publisher = ResetPublisher(node, ROBOT)
    until_matched(node)
    publisher.publish(START)
    assert until_there(intake) == pytest.approx(START)
    assert intake.poll() is None


@pytest.mark.parametrize('change', [
    {'name': [*ROBOT.state_names[:-1], 'tail']}, {'position': [0.0] * 14},
    {'velocity': [np.nan] * 15}, {'velocity': []}])
def test_what_cannot_be_a_state_is_refused(nodes: tuple[Node, ResetIntake], change) -> None:
    node, intake = nodes
    publisher = node.create_publisher(JointState, TOPIC, qos.COMMAND)
    until_matched(node)
    message = JointState(name=list(ROBOT.state_names), position=list(START[:15]),
                         velocity=list(START[15:]))
    for field, value in change.items():
        setattr(message, field, value)
    publisher.publish(message)
    end_s = time.monotonic() + 10.0
    while not intake.refused:
        assert intake.poll() is None
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert intake.refused == 1
