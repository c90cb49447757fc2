"""Model snapshots from the topic to the learner that improves the policy, verified on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from async_mbrl_interfaces import msg
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from async_mbrl.control.acceptance import SnapshotAcceptance, Verdict
from async_mbrl.core.snapshot import Snapshot, SnapshotError
from async_mbrl.ros import qos
from async_mbrl.ros.convert import PART_BYTES, SnapshotAssembler

_HEADER_BYTES = 16 * 1024
_MOST_PUBLISHERS = 8


class ModelIntake:
    """Receive models and hand over those that are whole, fit, and come from one living publisher.

    The callback only keeps the serialised message; :meth:`take_arrived` does the rest, in the
    thread that learns.
    """

    def __init__(self, node: Node, architecture: dict[str, Any], snapshot_bytes: int,
                 take: Callable[[Snapshot], None]) -> None:
        """Take models once :meth:`subscribe` is called.

        Args:
            node: owner.
            architecture: that models must have.
            snapshot_bytes: about how large they are.
            take: takes a model, or raises a :class:`SnapshotError` that says why not.
        """
        self._node = node
        self._architecture = architecture
        self._parts = snapshot_parts(snapshot_bytes)
        self._take = take
        self._acceptance = SnapshotAcceptance()
        # One snapshot may come while another waits to be taken; older ones go.
        self._received: deque[bytes] = deque(maxlen=2 * self._parts)
        self._assemblers: dict[str, SnapshotAssembler] = {}
        self._waiting: tuple[str, Snapshot] | None = None

    @property
    def refused(self) -> int:
        """Models refused so far, for whatever reason."""
        return self._acceptance.refused

    def subscribe(self, arrived: Callable[[], None]) -> None:
        """Subscribe to ``model_parameters``; ``arrived`` is called with each message."""
        def keep(data: bytes) -> None:
            self._received.append(data)
            arrived()

        self._subscription = self._node.create_subscription(
            msg.ParameterSnapshot, 'model_parameters', keep, qos.snapshots(self._parts), raw=True)

    def take_arrived(self) -> None:
        """Put together, check and hand over what has arrived."""
        while self._received:
            self._add(deserialize_message(self._received.popleft(), msg.ParameterSnapshot))
        if self._waiting is not None and self._acceptance.would_accept(
                self._waiting[0], time.monotonic(), self._publishers()):
            self._offer(*self._waiting)

    def _add(self, part: msg.ParameterSnapshot) -> None:
        publisher = part.publisher_id
        self._acceptance.heard(publisher, time.monotonic())
        try:
            snapshot = self._assembler(publisher).add(part)
        except SnapshotError as error:
            self._refuse(str(error))
            return
        if snapshot is not None:
            self._offer(publisher, snapshot)

    def _assembler(self, publisher: str) -> SnapshotAssembler:
        if publisher not in self._assemblers:
            if len(self._assemblers) >= _MOST_PUBLISHERS:
                self._assemblers.clear()
            self._assemblers[publisher] = SnapshotAssembler('model', self._architecture)
        return self._assemblers[publisher]

    def _offer(self, publisher: str, snapshot: Snapshot) -> None:
        verdict = self._acceptance.consider(snapshot.version, publisher, time.monotonic(),
                                            self._publishers())
        if verdict is Verdict.WAIT:
            # Of a successor, whose predecessor may just have died.
            self._waiting = publisher, snapshot
        elif self._waiting is not None and self._waiting[0] == publisher:
            self._waiting = None
        if verdict is not Verdict.ACCEPT:
            self._log()
            return
        try:
            self._take(snapshot)
        except SnapshotError as error:
            self._refuse(str(error))

    def _publishers(self) -> int:
        return int(self._node.count_publishers(self._subscription.topic_name))

    def _refuse(self, reason: str) -> None:
        self._acceptance.refuse(reason)
        self._log()

    def _log(self) -> None:
        self._node.get_logger().warning(f'model refused: {self._acceptance.last_reason}',
                                        throttle_duration_sec=5.0)


def snapshot_parts(size: int) -> int:
    """Give the parts that a snapshot of so many bytes of tensors is cut into, names included."""
    return -(-(size + _HEADER_BYTES) // PART_BYTES)
