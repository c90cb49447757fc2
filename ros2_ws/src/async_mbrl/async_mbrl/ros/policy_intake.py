"""Policy snapshots from the topic to the control loop, verified on the way."""

from __future__ import annotations

import collections
import threading
import time
import traceback
from typing import Any

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription

from async_mbrl.control.acceptance import SnapshotAcceptance, Verdict
from async_mbrl.control.policy import PolicyLayout, PolicyParameters
from async_mbrl.control.process import LoopProcess
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.snapshot import HEADER_BYTES, SnapshotError, architecture_hash
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import MessageError, subscribe, unpack
from async_mbrl.ros.convert import PART_MESSAGE_BYTES, SnapshotAssembler, parts_of
from async_mbrl.ros.publishers import strangers, unknown

_WAITING_CHECK_S = 0.25
_MOST_PUBLISHERS = 8
_PRIORITY = 1
_PUBLISHER = 'policy_learner'


class PolicyIntake:
    """Receive, verify and hand over policy snapshots.

    The callback only keeps the serialised message. A thread of its own decodes, under the lowest
    real-time priority: below everything that moves the arm, yet never put aside for learners while
    it holds the interpreter lock, which the threads that move the arm would then wait for.
    """

    def __init__(self, node: Node, task: Any, network: PolicyNetworkConfig,
                 loop: LoopProcess) -> None:
        """Subscribe to ``policy_parameters`` and ``learner_status``, and start the thread."""
        self._node = node
        self._loop = loop
        self._architecture = policy_architecture(network, task)
        self.architecture_hash = architecture_hash(self._architecture)
        """Architecture that is accepted, hex."""
        self.acceptance = SnapshotAcceptance()
        """What was accepted and refused so far."""
        self._tensor_bytes = PolicyLayout(task, network).size
        parts = parts_of(self._tensor_bytes + HEADER_BYTES)
        # A snapshot: when decoding cannot keep up, the oldest parts go.
        self._received: collections.deque[bytes] = collections.deque(maxlen=4 * parts)
        self._arrived = threading.Event()
        self._closing = False
        self.learner_heard_s = 0.0
        """When the policy learner was last heard, steady time; 0 before."""
        self.failure = ''
        """Why the thread has ended by itself; empty while it lives."""
        self._assemblers: dict[str, SnapshotAssembler] = {}
        self._waiting: tuple[str, PolicyParameters] | None = None
        self._ask_again = False
        # Some more than a snapshot has: each that is refused is to be counted.
        self._profile = qos.snapshots(parts + 3)
        self._subscription = self._subscribe()
        self._topic = self._subscription.topic_name
        node.create_timer(_WAITING_CHECK_S, self._look_for_strangers,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A publisher with nothing new to publish still lives.
        self._heartbeats = subscribe(
            node, msg.LearnerStatus, 'learner_status', self._on_learner_status, qos.STATUS)
        self._thread = threading.Thread(target=self._run, name='policy_intake', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._arrived.set()
        self._thread.join(2.0)

    def _subscribe(self) -> Subscription:
        return self._node.create_subscription(
            msg.ParameterSnapshot, 'policy_parameters', self._on_message, self._profile, raw=True)

    def _on_message(self, data: bytes) -> None:
        self._received.append(data)
        self._arrived.set()

    def _on_learner_status(self, message: msg.LearnerStatus) -> None:
        now_s = time.monotonic()
        self.acceptance.heard(message.session, now_s)
        if message.name == 'policy_learner':
            self.learner_heard_s = now_s

    def _run(self) -> None:
        use_fifo(_PRIORITY)
        try:
            self._take_all()
        except Exception as error:
            self.failure = f'no policies are taken in any more: {error!r}'
            self._node.get_logger().fatal(f'{self.failure}\n{traceback.format_exc()}')

    def _take_all(self) -> None:
        while not self._closing:
            self._arrived.wait(_WAITING_CHECK_S if self._waiting else None)
            self._arrived.clear()
            while self._received and not self._closing:
                try:
                    self._take(unpack(self._received.popleft(), msg.ParameterSnapshot,
                                      PART_MESSAGE_BYTES))
                except MessageError as error:
                    self._refuse(str(error))
            self._retry()

    def _take(self, message: msg.ParameterSnapshot) -> None:
        publisher = message.publisher_id
        self.acceptance.heard(publisher, time.monotonic())
        try:
            snapshot = self._assembler(publisher).add(message)
            if snapshot is None:
                return
            parameters = PolicyParameters.from_snapshot(snapshot, message.publish_time_ns)
        except SnapshotError as error:
            self._refuse(str(error))
            return
        self._offer(publisher, parameters)

    def _assembler(self, publisher: str) -> SnapshotAssembler:
        if publisher not in self._assemblers:
            if len(self._assemblers) >= _MOST_PUBLISHERS:
                self._assemblers.clear()
            self._assemblers[publisher] = SnapshotAssembler('policy', self._architecture,
                                                            self._tensor_bytes)
        return self._assemblers[publisher]

    def _offer(self, publisher: str, parameters: PolicyParameters) -> None:
        before = self.acceptance.refused
        others = strangers(self._node, self._topic, _PUBLISHER)
        if others:     # one of them may have copied the publisher_id of the learner
            if unknown(others):     # discovery is not through yet
                self._waiting = (publisher, parameters)
                return
            # Which of them sent it cannot be told. Once they are gone the learner's is had again.
            self._ask_again = True
            self._refuse(f'{", ".join(others)} may publish policies, too; only {_PUBLISHER} of '
                         f'this graph is believed')
            return
        verdict = self.acceptance.consider(parameters.version, publisher, time.monotonic())
        if verdict is Verdict.ACCEPT:
            try:
                self._loop.put_policy(parameters)
            except SnapshotError as error:
                self._refuse(str(error))
        elif verdict is Verdict.WAIT:
            self._waiting = (publisher, parameters)
        if self.acceptance.refused > before:
            self._log()

    def _retry(self) -> None:
        """Take the snapshot of a successor once its predecessor has fallen silent."""
        if self._waiting is None:
            return
        publisher, parameters = self._waiting
        if parameters.version <= self.acceptance.version:
            self._waiting = None
        elif self.acceptance.would_accept(publisher, time.monotonic()):
            self._waiting = None
            self._offer(publisher, parameters)

    def _look_for_strangers(self) -> None:
        """Ask for the latched snapshot anew once there are no strangers left.

        A callback: only the thread of the executor may give up what it waits for.
        """
        if self._ask_again and not strangers(self._node, self._topic, _PUBLISHER):
            self._ask_again = False
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def _refuse(self, reason: str) -> None:
        self.acceptance.refuse(reason)
        self._log()

    def _log(self) -> None:
        self._node.get_logger().warning(f'policy refused: {self.acceptance.last_reason}',
                                        throttle_duration_sec=1.0)
