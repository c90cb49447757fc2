"""Numbered streams over DDS: late start, loss, tail loss, a new session, an unhelpful publisher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from async_mbrl_interfaces import msg
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from async_mbrl.ros import streams
from async_mbrl.ros.streams import CONTROL_STEPS, TRANSITIONS, StreamPublisher, StreamSubscriber


class Graph:
    """Two nodes, one that publishes and one that subscribes, spun by the test."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.sender = Node('sender', context=self.context)
        self.receiver = Node('receiver', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.sender)
        self.executor.add_node(self.receiver)

    def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, 'did not come about in time'
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.sender.destroy_node()
        self.receiver.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


def step(number: int, session: int) -> msg.ControlStep:
    return msg.ControlStep(number=number, session=session, observation=[float(number)] * 30)


def test_late_subscriber_gets_all_in_order(graph: Graph) -> None:
    publisher = StreamPublisher(graph.sender, CONTROL_STEPS, session=5)
    for number in range(150):
        publisher.publish(step(number, 5))
    got: list[int] = []
    subscriber = StreamSubscriber(graph.receiver, CONTROL_STEPS,
                                  lambda message, recovered: got.append(message.number))
    # Nothing more is published: only the announcement tells what exists.
    subscriber.announce(150, 5)
    graph.until(lambda: len(got) == 150)
    for number in range(150, 200):
        publisher.publish(step(number, 5))
    graph.until(lambda: len(got) == 200)
    assert got == list(range(200))
    assert subscriber.recovered >= 150


def test_lost_messages_are_asked_for_again(graph: Graph) -> None:
    publisher = StreamPublisher(graph.sender, CONTROL_STEPS, session=5)
    got: list[tuple[int, bool, bool]] = []
    subscriber = StreamSubscriber(
        graph.receiver, CONTROL_STEPS, lambda message, recovered: got.append(
            (message.number, recovered, subscriber.recovering)))
    graph.until(lambda: graph.sender.count_subscribers('control_steps') == 1)
    publisher.publish(step(0, 5))
    graph.until(lambda: len(got) == 1)
    published, publisher._publisher = publisher._publisher, _Deaf()
    publisher.publish(step(1, 5))
    publisher.publish(step(2, 5))
    publisher._publisher = published
    publisher.publish(step(3, 5))
    graph.until(lambda: len(got) == 4)
    # The last one came in time, but had to wait.
    assert got == [(0, False, False), (1, True, True), (2, True, True), (3, False, True)]


def test_new_session_begins_again_at_zero(graph: Graph) -> None:
    got: list[tuple[int, int]] = []
    sessions: list[int] = []
    subscriber = StreamSubscriber(
        graph.receiver, CONTROL_STEPS,
        lambda message, recovered: got.append((message.session, message.number)),
        first=3, session=5, on_session=sessions.append)
    publisher = StreamPublisher(graph.sender, CONTROL_STEPS, session=5)
    for number in range(5):
        publisher.publish(step(number, 5))
    subscriber.announce(5, 5)
    graph.until(lambda: len(got) == 2)
    publisher.session, publisher.next_number = 6, 0
    for number in range(3):
        publisher.publish(step(number, 6))
    subscriber.announce(3, 6)
    graph.until(lambda: len(got) == 5)
    subscriber.announce(99, 5)   # of a session that is over
    assert got == [(5, 3), (5, 4), (6, 0), (6, 1), (6, 2)]
    assert sessions == [6]


def test_publisher_that_no_longer_has_it_is_reported(graph: Graph) -> None:
    publisher = StreamPublisher(graph.sender, CONTROL_STEPS, session=5, next_number=7,
                                fetch=lambda first, count: None)
    reasons: list[str] = []
    subscriber = StreamSubscriber(graph.receiver, CONTROL_STEPS, lambda message, recovered: None,
                                  on_unavailable=reasons.append)
    subscriber.announce(publisher.next_number, 5)
    graph.until(lambda: bool(reasons))
    assert 'control_steps: number 0' in reasons[0]


def test_publisher_numbers_without_gaps(graph: Graph) -> None:
    publisher = StreamPublisher(graph.sender, TRANSITIONS, next_number=4)
    with pytest.raises(ValueError, match='5 published where 4 is next'):
        publisher.publish(msg.Transition(number=5))


def test_request_without_an_answer_is_repeated(graph: Graph,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, 'ANSWER_TIMEOUT_S', 0.05)
    publisher = StreamPublisher(graph.sender, CONTROL_STEPS, session=5)
    publisher.publish(step(0, 5))
    got: list[int] = []
    subscriber = StreamSubscriber(graph.receiver, CONTROL_STEPS,
                                  lambda message, recovered: got.append(message.number))
    call, unanswered = subscriber._client.call_async, Future()
    answers = iter([lambda request: unanswered])
    monkeypatch.setattr(subscriber._client, 'call_async',
                        lambda request: next(answers, call)(request))
    subscriber.announce(1, 5)
    graph.until(lambda: got == [0])
    assert next(answers, None) is None


class _Deaf:
    """Stands in for a publisher whose messages are lost."""

    def publish(self, message: bytes) -> None:
        del message
