"""Snapshots on their way in: from one publisher only, whole, and refused with a reason."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message

from async_mbrl.control.acceptance import PUBLISHER_TIMEOUT_S
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.ros import snapshot_intake
from async_mbrl.ros.convert import snapshot_to_messages
from async_mbrl.ros.snapshot_intake import SnapshotIntake

ARCHITECTURE = {'type': 'any'}
SIZE = 400_000


class Stand:
    """Stands in for the node: keeps the callback and what was said."""

    def __init__(self) -> None:
        self.publishers = 1
        self.names = ['model_learner']
        self.dropped = 0
        self.said: list[str] = []
        self.receive: Callable[[bytes], None] = lambda _: None
        self.topic_name = 'model_parameters'

    def create_subscription(self, _type: type, _topic: str, callback: Any, *_: Any,
                            **_more: Any) -> Stand:
        self.receive = callback
        return self

    def create_timer(self, _period_s: float, callback: Callable[[], None], **_more: Any) -> None:
        self.look = callback

    def get_namespace(self) -> str:
        return '/'

    def get_publishers_info_by_topic(self, _topic: str) -> list[Any]:
        return [types.SimpleNamespace(node_name=name, node_namespace='/') for name in self.names]

    def destroy_subscription(self, _subscription: Stand) -> None:
        self.dropped += 1

    def count_publishers(self, _topic: str) -> int:
        return self.publishers

    def get_logger(self) -> Stand:
        return self

    def warning(self, text: str, **_more: Any) -> None:
        self.said.append(text)


def parts(version: Version, publisher: str) -> list[bytes]:
    snapshot = Snapshot('model', version, ARCHITECTURE,
                        {'weight': np.full(SIZE // 4, float(version.counter), np.float32)})
    return [serialize_message(message)
            for message in snapshot_to_messages(snapshot, publisher, Time())]


def models(stand: Stand, take: Callable[[Snapshot], None]) -> SnapshotIntake[Snapshot]:
    return SnapshotIntake(stand, 'model', ARCHITECTURE, SIZE, backlog=2,
                          decode=lambda model, _published_ns: model, take=take)


def test_models_of_a_second_publisher_are_refused_until_the_first_is_gone(
        monkeypatch: pytest.MonkeyPatch) -> None:
    stand, taken, arrivals = Stand(), [], []
    intake = models(stand, lambda model: taken.append(model.version))
    intake.subscribe(lambda: arrivals.append(1))
    now_s = 100.0
    monkeypatch.setattr(snapshot_intake.time, 'monotonic', lambda: now_s)
    for part in parts(Version(1, 3), 'a'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 3)] and len(arrivals) == 2

    # Both at once, their parts in turn: each is put together for itself.
    stand.publishers = 2
    for pair in zip(parts(Version(2, 0), 'b'), parts(Version(1, 4), 'a'), strict=True):
        for part in pair:
            stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 3), (1, 4)] and intake.acceptance.refused == 1
    assert 'still lives' in stand.said[-1]
    for part in parts(Version(1, 9), 'c'):
        stand.receive(part)
    intake.take_arrived()
    assert intake.acceptance.refused == 2 and 'in the incarnation of a' in stand.said[-1]

    stand.publishers = 1
    intake.take_arrived()
    assert len(taken) == 2          # it may only have left the graph of nodes; silence tells
    now_s += PUBLISHER_TIMEOUT_S
    intake.take_arrived()           # the one that had to wait
    intake.take_arrived()
    assert taken == [(1, 3), (1, 4), (2, 0)] and intake.acceptance.refused == 2


def test_a_model_that_the_learner_does_not_take_is_counted() -> None:
    stand, calls = Stand(), itertools.count()

    def take(model: Snapshot) -> None:
        if next(calls) == 0:
            raise SnapshotError(f'model {model.version}: tensor weight is missing')

    intake = models(stand, take)
    intake.subscribe(lambda: None)
    for counter in range(2):
        for part in parts(Version(1, counter), 'a'):
            stand.receive(part)
    intake.take_arrived()
    assert intake.acceptance.refused == 1 and next(calls) == 2
    assert 'tensor weight is missing' in stand.said[0]


def test_a_model_waits_until_its_publisher_is_known() -> None:
    stand, taken = Stand(), []
    intake = models(stand, lambda model: taken.append(model.version))
    intake.subscribe(lambda: None)
    stand.names = ['_NODE_NAME_UNKNOWN_']       # discovery is not through yet
    for part in parts(Version(1, 0), 'a'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [] and intake.acceptance.refused == 0
    stand.names = ['model_learner']
    intake.take_arrived()
    assert taken == [(1, 0)]


def test_while_a_stranger_publishes_no_one_is_believed() -> None:
    stand, taken = Stand(), []
    intake = models(stand, lambda model: taken.append(model.version))
    intake.subscribe(lambda: None)
    stand.names = ['model_learner', 'stranger']
    for part in parts(Version(9, 0), 'b'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [] and intake.acceptance.refused == 1
    assert '/stranger may publish' in stand.said[-1]
    assert stand.dropped == 0
    # Once the stranger is gone, the latched snapshot is asked for anew.
    stand.names = ['model_learner']
    stand.look()
    assert stand.dropped == 1
    for part in parts(Version(1, 0), 'a'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0)]
    # Not the one that was believed, either: whose identity a message names can be copied.
    stand.names = ['model_learner', 'stranger']
    for part in parts(Version(1, 1), 'a'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0)] and intake.acceptance.refused == 2
    # A learner that was restarted, and whose dead endpoint is still listed, is none.
    stand.names = ['model_learner', 'model_learner']
    stand.look()
    assert stand.dropped == 2
    for part in parts(Version(1, 1), 'a'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0), (1, 1)]


def test_what_cannot_be_decoded_does_not_make_its_publisher_the_one_that_is_believed() -> None:
    stand, taken = Stand(), []

    def decode(model: Snapshot, published_ns: int) -> Version:
        assert published_ns > 0
        if model.version.incarnation == 9:
            raise SnapshotError('of no use')
        return model.version

    intake = SnapshotIntake(stand, 'model', ARCHITECTURE, SIZE, backlog=2, decode=decode,
                            take=taken.append)
    intake.subscribe(lambda: None)
    for version, publisher in ((Version(9, 0), 'b'), (Version(1, 0), 'a')):
        for part in parts(version, publisher):
            stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0)]
    assert intake.acceptance.refused == 1 and stand.said == ['model refused: of no use']


def test_a_successor_that_waited_is_forgotten_once_there_is_a_newer_one(
        monkeypatch: pytest.MonkeyPatch) -> None:
    stand, taken = Stand(), []
    intake = models(stand, lambda model: taken.append(model.version))
    intake.subscribe(lambda: None)
    now_s = 100.0
    monkeypatch.setattr(snapshot_intake.time, 'monotonic', lambda: now_s)
    for version, publisher in ((Version(1, 0), 'a'), (Version(2, 0), 'b')):
        for part in parts(version, publisher):
            stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0)] and intake.waiting
    now_s += PUBLISHER_TIMEOUT_S
    for part in parts(Version(2, 1), 'b'):
        stand.receive(part)
    intake.take_arrived()
    assert taken == [(1, 0), (2, 1)] and not intake.waiting
    assert intake.acceptance.refused == 1
