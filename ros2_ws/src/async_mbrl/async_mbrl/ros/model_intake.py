"""Model snapshots from the topic to the learner that improves the policy, verified on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription

from async_mbrl.control.acceptance import SnapshotAcceptance, Verdict
from async_mbrl.core.snapshot import HEADER_BYTES, Snapshot, SnapshotError
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import MessageError, unpack
from async_mbrl.ros.convert import PART_MESSAGE_BYTES, SnapshotAssembler, parts_of
from async_mbrl.ros.publishers import strangers, unknown

_STRANGERS_CHECK_S = 0.5
_MOST_PUBLISHERS = 8
_PUBLISHER = 'model_learner'


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
            snapshot_bytes: of their tensors; larger ones are refused.
            take: takes a model, or raises a :class:`SnapshotError` that says why not.
        """
        self._node = node
        self._architecture = architecture
        self._snapshot_bytes = snapshot_bytes
        self._parts = snapshot_parts(snapshot_bytes)
        self._take = take
        self._acceptance = SnapshotAcceptance()
        # One snapshot may come while another waits to be taken; older ones go.
        self._received: deque[bytes] = deque(maxlen=2 * self._parts)
        self._assemblers: dict[str, SnapshotAssembler] = {}
        self._waiting: tuple[str, Snapshot] | None = None
        self._ask_again = False
        self._arrived: Callable[[], None] = lambda: None

    @property
    def refused(self) -> int:
        """Models refused so far, for whatever reason."""
        return self._acceptance.refused

    def subscribe(self, arrived: Callable[[], None]) -> None:
        """Subscribe to ``model_parameters``; ``arrived`` is called with each message."""
        self._arrived = arrived
        self._subscription = self._listen()
        self._node.create_timer(_STRANGERS_CHECK_S, self._look_for_strangers,
                                clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self) -> Subscription:
        return self._node.create_subscription(
            msg.ParameterSnapshot, 'model_parameters', self._keep, qos.snapshots(self._parts),
            raw=True)

    def _keep(self, data: bytes) -> None:
        self._received.append(data)
        self._arrived()

    def take_arrived(self) -> None:
        """Put together, check and hand over what has arrived."""
        while self._received:
            try:
                self._add(unpack(self._received.popleft(), msg.ParameterSnapshot,
                                 PART_MESSAGE_BYTES))
            except MessageError as error:
                self._refuse(str(error))
        if self._waiting is not None and self._acceptance.would_accept(
                self._waiting[0], time.monotonic()):
            self._offer(*self._waiting)

    def _look_for_strangers(self) -> None:
        """Ask for the latched snapshot anew once there are no strangers left.

        A callback: only the thread of the executor may give up what it waits for.
        """
        if self._ask_again and not self._strangers():
            self._ask_again = False
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._listen()

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
            self._assemblers[publisher] = SnapshotAssembler('model', self._architecture,
                                                            self._snapshot_bytes)
        return self._assemblers[publisher]

    def _strangers(self) -> list[str]:
        return strangers(self._node, self._subscription.topic_name, _PUBLISHER)

    def _offer(self, publisher: str, snapshot: Snapshot) -> None:
        others = self._strangers()
        if others:     # one of them may have copied the publisher_id of the learner
            if unknown(others):     # discovery is not through yet
                self._waiting = publisher, snapshot
                return
            # Which of them sent it cannot be told. Once they are gone the learner's is had again.
            self._ask_again, self._waiting = True, None
            self._refuse(f'{", ".join(others)} may publish models, too; only {_PUBLISHER} of '
                         'this graph is believed')
            return
        verdict = self._acceptance.consider(snapshot.version, publisher, time.monotonic())
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

    def _refuse(self, reason: str) -> None:
        self._acceptance.refuse(reason)
        self._log()

    def _log(self) -> None:
        self._node.get_logger().warning(f'model refused: {self._acceptance.last_reason}',
                                        throttle_duration_sec=5.0)


def snapshot_parts(size: int) -> int:
    """Give the parts that a snapshot of so many bytes of tensors is cut into, names included."""
    return parts_of(size + HEADER_BYTES)
