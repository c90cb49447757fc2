"""No stop is lost, however short it was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import rclpy
from async_mbrl_interfaces import msg
from rclpy.node import Node
from rclpy.serialization import serialize_message
from std_msgs.msg import Bool

from async_mbrl.core.host import host_id
from async_mbrl.ros.controller_watch import ControllerWatch, WatchOptions
from async_mbrl.ros.emergency_stop import EmergencyStopTopic


@pytest.fixture
def node() -> Iterator[Node]:
    rclpy.init()
    node = rclpy.create_node('listener')
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_a_stop_that_is_taken_back_at_once_was_one(node: Node) -> None:
    topic = EmergencyStopTopic(node)
    button = node.create_publisher(Bool, 'emergency_stop', 10)
    give_up_s = time.monotonic() + 5.0
    while button.get_subscription_count() < 3 and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert not topic.poll()
    for pressed in (True, False):
        button.publish(Bool(data=pressed))
    button.wait_for_all_acked()
    time.sleep(0.2)
    assert topic.poll() and not topic.pressed
    assert not topic.poll()
    button.publish(Bool(data=False))
    button.wait_for_all_acked()
    time.sleep(0.2)
    assert not topic.poll()


def test_an_older_copy_does_not_take_a_stop_back(node: Node) -> None:
    def message(pressed: bool, stamp: int) -> tuple[bytes, dict[str, int]]:
        return serialize_message(Bool(data=pressed)), {'source_timestamp': stamp}

    topic = EmergencyStopTopic(node)
    queues = [[message(True, 2)], [], [message(False, 1), (b'no message', {'source_timestamp': 0})]]
    topic._subscriptions = [SimpleNamespace(handle=SimpleNamespace(
        take_message=lambda _kind, _raw, queue=queue: queue.pop(0) if queue else None))
        for queue in queues]
    assert topic.poll() and topic.pressed
    queues[0].append(message(False, 3))
    assert not topic.poll() and not topic.pressed
    queues[1].append((b'no message', {'source_timestamp': 4}))
    assert topic.poll() and topic.pressed       # nothing is risked


class Loop:
    """Keeps what the control loop is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bool]] = []

    def set_cause(self, name: str, present: bool, _reason: str = '') -> None:
        self.said.append((name, present))


def test_the_loop_is_told_of_a_short_stop_and_of_one_who_was_dead_before(node: Node) -> None:
    loop = Loop()
    watch = ControllerWatch(node, 'commands', WatchOptions(SimpleNamespace(), False, False, False),
                            loop, SimpleNamespace(), SimpleNamespace(), 1)
    answers = iter([True, False])
    watch._emergency_stop = SimpleNamespace(poll=lambda: next(answers), pressed=False)
    watch.look()
    assert loop.said == [('emergency_stop', True), ('emergency_stop', False)]
    for process in (2**32 - 1, 2**31 - 1):      # one that is none, and one that lives no more
        loop.said.clear()
        watch.run_status(msg.RunStatus(session=5, phase=msg.RunStatus.LEARNING, host=host_id(),
                                       process=process))
        watch._emergency_stop = SimpleNamespace(poll=lambda: False, pressed=True)
        watch.look()
        assert (('robot_interface', True) in loop.said) is (process == 2**31 - 1)
