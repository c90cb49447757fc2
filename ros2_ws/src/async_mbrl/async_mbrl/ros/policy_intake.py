"""Policy snapshots from the topic to the control loop, in a thread of their own."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.control.policy import PolicyLayout, PolicyParameters
from async_mbrl.control.process import LoopProcess
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.snapshot import architecture_hash
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import subscribe
from async_mbrl.ros.snapshot_intake import SnapshotIntake

_WAITING_CHECK_S = 0.25
_BACKLOG = 4
_PRIORITY = 1


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
        architecture = policy_architecture(network, task)
        self.architecture_hash = architecture_hash(architecture)
        """Architecture that is accepted, hex."""
        self._snapshots = SnapshotIntake(
            node, 'policy', architecture, PolicyLayout(task, network).size, backlog=_BACKLOG,
            decode=PolicyParameters.from_snapshot, take=loop.put_policy)
        self.acceptance = self._snapshots.acceptance
        """What was accepted and refused so far."""
        self._arrived = threading.Event()
        self._closing = False
        self.learner_heard_s = 0.0
        """When the policy learner was last heard, steady time; 0 before."""
        self.failure = ''
        """Why the thread has ended by itself; empty while it lives."""
        self._snapshots.subscribe(self._arrived.set)
        # A publisher with nothing new to publish still lives.
        subscribe(node, msg.LearnerStatus, 'learner_status', self._on_learner_status, qos.STATUS)
        self._thread = threading.Thread(target=self._run, name='policy_intake', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._arrived.set()
        self._thread.join(2.0)

    def _on_learner_status(self, message: msg.LearnerStatus) -> None:
        now_s = time.monotonic()
        self.acceptance.heard(message.session, now_s)
        if message.name == 'policy_learner':
            self.learner_heard_s = now_s

    def _run(self) -> None:
        use_fifo(_PRIORITY)
        try:
            while not self._closing:
                self._arrived.wait(_WAITING_CHECK_S if self._snapshots.waiting else None)
                self._arrived.clear()
                self._snapshots.take_arrived()
        except Exception as error:
            self.failure = f'no policies are taken in any more: {error!r}'
            self._node.get_logger().fatal(f'{self.failure}\n{traceback.format_exc()}')
