"""Snapshots from their topic to the one who uses them, verified on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription

from async_mbrl.control.acceptance import SnapshotAcceptance, Verdict
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import MessageError, unpack
from async_mbrl.ros.convert import PART_MESSAGE_BYTES, SnapshotAssembler, snapshot_parts
from async_mbrl.ros.publishers import strangers, unknown

_STRANGERS_CHECK_S = 0.25
_MOST_PUBLISHERS = 8
_NOUNS = {'policy': 'policies', 'model': 'models'}

T = TypeVar('T')


class SnapshotIntake(Generic[T]):
    """Receive snapshots and hand over those that are whole, fit, and come from one living learner.

    The callback only keeps the serialised message; :meth:`take_arrived` does the rest, in the
    thread that uses them.
    """

    def __init__(self, node: Node, kind: str, architecture: dict[str, Any], tensor_bytes: int, *,
                 backlog: int, decode: Callable[[Snapshot, int], T],
                 take: Callable[[T], None]) -> None:
        """Take snapshots once :meth:`subscribe` is called.

        Args:
            node: owner.
            kind: of the snapshots, policy or model; the topic and its learner are named after it.
            architecture: that they must have.
            tensor_bytes: of their tensors; larger ones are refused.
            backlog: snapshots that may wait for :meth:`take_arrived`; of more the oldest parts go.
            decode: makes of a snapshot, and the time it was published at (ns), what is handed
                over, before its sender is believed; or raises a :class:`SnapshotError`.
            take: takes that, or raises a :class:`SnapshotError` that says why not.
        """
        self._node = node
        self._kind = kind
        self._architecture = architecture
        self._tensor_bytes = tensor_bytes
        self._decode = decode
        self._take = take
        self.acceptance = SnapshotAcceptance()
        """What was accepted and refused so far."""
        parts = snapshot_parts(tensor_bytes)
        # Some more than a snapshot has: each that is refused is to be counted.
        self._profile = qos.snapshots(parts + 3)
        self._received: deque[bytes] = deque(maxlen=backlog * parts)
        self._assemblers: dict[str, SnapshotAssembler] = {}
        self._waiting: tuple[str, Version, T] | None = None
        self._ask_again = False

    def subscribe(self, arrived: Callable[[], None]) -> None:
        """Subscribe to the topic; ``arrived`` is called with each message."""
        self._arrived = arrived
        self._subscription = self._listen()
        self._topic = self._subscription.topic_name
        self._node.create_timer(_STRANGERS_CHECK_S, self._look_for_strangers,
                                clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self) -> Subscription:
        return self._node.create_subscription(
            msg.ParameterSnapshot, f'{self._kind}_parameters', self._keep, self._profile, raw=True)

    def _keep(self, data: bytes) -> None:
        self._received.append(data)
        self._arrived()

    @property
    def waiting(self) -> bool:
        """Whether a snapshot waits until it is known whether its sender may be believed."""
        return self._waiting is not None

    def take_arrived(self) -> None:
        """Put together, check and hand over what has arrived by now."""
        for _ in range(len(self._received)):
            try:
                self._add(unpack(self._received.popleft(), msg.ParameterSnapshot,
                                 PART_MESSAGE_BYTES))
            except MessageError as error:
                self._refuse(str(error))
        self._retry()

    def _add(self, part: msg.ParameterSnapshot) -> None:
        publisher = part.publisher_id
        self.acceptance.heard(publisher, time.monotonic())
        try:
            snapshot = self._assembler(publisher).add(part)
            if snapshot is None:
                return
            decoded = self._decode(snapshot, part.publish_time_ns)
        except SnapshotError as error:
            self._refuse(str(error))
            return
        self._offer(publisher, snapshot.version, decoded)

    def _assembler(self, publisher: str) -> SnapshotAssembler:
        if publisher not in self._assemblers:
            if len(self._assemblers) >= _MOST_PUBLISHERS:
                self._assemblers.clear()
            self._assemblers[publisher] = SnapshotAssembler(self._kind, self._architecture,
                                                            self._tensor_bytes)
        return self._assemblers[publisher]

    def _offer(self, publisher: str, version: Version, decoded: T) -> None:
        others = self._strangers()
        if others:     # one of them may have copied the publisher_id of the learner
            if unknown(others):     # discovery is not through yet
                self._waiting = publisher, version, decoded
                return
            # Which of them sent it cannot be told. Once they are gone the learner's is had again.
            self._ask_again, self._waiting = True, None
            self._refuse(f'{", ".join(others)} may publish {_NOUNS[self._kind]}, too; only '
                         f'{self._learner} of this graph is believed')
            return
        verdict = self.acceptance.consider(version, publisher, time.monotonic())
        if verdict is Verdict.WAIT:
            # Of a successor, whose predecessor may just have died.
            self._waiting = publisher, version, decoded
        if verdict is not Verdict.ACCEPT:
            self._log()
            return
        try:
            self._take(decoded)
        except SnapshotError as error:
            self._refuse(str(error))

    def _retry(self) -> None:
        """Take the snapshot of a successor once its predecessor has fallen silent."""
        if self._waiting is None:
            return
        publisher, version, decoded = self._waiting
        if version <= self.acceptance.version:
            self._waiting = None
        elif self.acceptance.would_accept(publisher, time.monotonic()):
            self._waiting = None
            self._offer(publisher, version, decoded)

    @property
    def _learner(self) -> str:
        return f'{self._kind}_learner'

    def _strangers(self) -> list[str]:
        return strangers(self._node, self._topic, self._learner)

    def _look_for_strangers(self) -> None:
        """Ask for the latched snapshot anew once there are no strangers left.

        A callback: only the thread of the executor may give up what it waits for.
        """
        if self._ask_again and not self._strangers():
            self._ask_again = False
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._listen()

    def _refuse(self, reason: str) -> None:
        self.acceptance.refuse(reason)
        self._log()

    def _log(self) -> None:
        self._node.get_logger().warning(f'{self._kind} refused: {self.acceptance.last_reason}',
                                        throttle_duration_sec=1.0)
