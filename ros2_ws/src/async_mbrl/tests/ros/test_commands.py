"""Commands arrive in the form, the order and at the rate that a driver takes them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from control_rig import JOINTS, make_robot
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from async_mbrl.ros import commands as adapters
from async_mbrl.ros.commands import DRY_RUN_TOPIC, CommandPublisher
from async_mbrl.ros.driver import DRIVER_COMMAND

NAMES = list(make_robot().joint_names)
REVERSED = NAMES[::-1]


class Driver:
    """Take what is published on the topics of a driver."""

    def __init__(self, kind: type) -> None:
        self.node = rclpy.create_node('driver')
        self.taken: dict[str, list] = {'commands': [], DRY_RUN_TOPIC: []}
        for topic, taken in self.taken.items():
            self.node.create_subscription(kind, topic, taken.append, DRIVER_COMMAND)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def until(self, count: int, topic: str = 'commands') -> list:
        end_s = time.monotonic() + 10.0
        while len(self.taken[topic]) < count:
            assert time.monotonic() < end_s, self.taken
            self.executor.spin_once(timeout_sec=0.02)
        return self.taken[topic]


NODES: list[Node] = []
"""Nodes of a test: one that is only forgotten stays a driver to the tests after it."""


@pytest.fixture(autouse=True)
def ros() -> Iterator[None]:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    yield
    while NODES:
        NODES.pop().destroy_node()
    rclpy.try_shutdown()


def connect(kind: type, dry_run: bool = False, **robot) -> tuple[CommandPublisher, Driver]:
    driver, node = Driver(kind), rclpy.create_node('tested')
    NODES.extend((driver.node, node))
    publisher = CommandPublisher(node, make_robot(**robot), dry_run)
    while not publisher.publisher.get_subscription_count():
        time.sleep(0.01)
    return publisher, driver


@pytest.mark.parametrize('names', [[], NAMES, REVERSED, [*NAMES[3:], *NAMES[:3]]])
def test_forward_commands_are_in_the_order_of_the_driver(names):
    publisher, driver = connect(Float64MultiArray, command_joint_names=names)
    command = np.random.default_rng(0).normal(size=JOINTS)
    publisher.publish(command.tobytes())
    expected = [command[NAMES.index(name)] for name in names or NAMES]
    assert list(driver.until(1)[0].data) == expected


def test_a_trajectory_is_one_point_to_be_reached_soon():
    publisher, driver = connect(
        JointTrajectory, command_interface='position', command_adapter='joint_trajectory',
        command_joint_names=REVERSED, trajectory_horizon_s=0.25)
    command = np.random.default_rng(0).normal(size=JOINTS)
    publisher.publish(command.tobytes())
    message = driver.until(1)[0]
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
    assert message.joint_names == REVERSED
    point, = message.points
    assert list(point.positions) == command[::-1].tolist()
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 250_000_000)
    assert not len(point.velocities)


def test_trajectories_are_streamed_at_their_rate_and_the_last_is_sent(monkeypatch):
    publisher, driver = connect(
        JointTrajectory, command_interface='position', command_adapter='joint_trajectory',
        trajectory_rate_hz=100.0)
    now = [1000.0]
    monkeypatch.setattr(adapters, 'time', type('Time', (), {'monotonic': lambda: now[0]}))
    for tick in range(101):     # 500 Hz
        now[0] = 1000.0 + 0.002 * tick + (0.0003 if tick % 3 else 0.0)
        publisher.publish(np.full(JOINTS, float(tick)).tobytes())
        driver.executor.spin_once(timeout_sec=0.001)
    sent = [message.points[0].positions[0] for message in driver.until(21)]
    assert sent == pytest.approx(np.arange(0.0, 101.0, 5.0), abs=1.0)
    publisher.publish(np.full(JOINTS, 7.0).tobytes())
    publisher.publish(np.full(JOINTS, 8.0).tobytes())
    publisher.flush()
    publisher.flush()
    assert driver.until(22)[-1].points[0].positions[0] == 8.0


def test_a_dry_run_sends_nothing_to_the_driver():
    publisher, driver = connect(Float64MultiArray, dry_run=True)
    publisher.publish(np.ones(JOINTS).tobytes())
    assert list(driver.until(1, DRY_RUN_TOPIC)[0].data) == [1.0] * JOINTS
    assert not driver.taken['commands']
    assert driver.node.count_publishers('commands') == 0
