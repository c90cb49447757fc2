"""What a learner says of itself: heartbeats, progress, and its part of ``/diagnostics``."""

from __future__ import annotations

import time

from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.core.snapshot import NO_VERSION, Snapshot
from async_mbrl.learning.learner import Learner
from async_mbrl.ros import qos
from async_mbrl.ros.convert import doubles, version_to_message
from async_mbrl.ros.diagnostics import Part
from async_mbrl.ros.latency import LatencyRecord
from async_mbrl.ros.snapshot_intake import SnapshotIntake
from async_mbrl.ros.streams import StreamSubscriber

_STATES = {value: name.lower() for name, value in (
    ('STARTING', msg.LearnerStatus.STARTING), ('LEARNING', msg.LearnerStatus.LEARNING),
    ('WAITING', msg.LearnerStatus.WAITING), ('FINISHED', msg.LearnerStatus.FINISHED),
    ('FAILED', msg.LearnerStatus.FAILED))}


class LearnerReport:
    """State and figures of a learner, and the topic that tells them."""

    stream: StreamSubscriber
    """The stream of transitions; set by the owner before anything is published."""

    def __init__(self, node: Node, learner: Learner, session: str,
                 models: SnapshotIntake[Snapshot] | None) -> None:
        """Create the publisher."""
        self._node = node
        self._learner = learner
        self._session = session
        self._models = models
        self._publisher = node.create_publisher(msg.LearnerStatus, 'learner_status', qos.STATUS)
        self.state = msg.LearnerStatus.STARTING
        self.reason = ''
        """Why it failed, or what goes wrong meanwhile."""
        self.published = NO_VERSION
        """Newest snapshot handed out."""
        self.metrics: dict[str, float] = {}
        self.updates_in_motion = 0
        self.received_latency, self.first_use_latency = LatencyRecord(), LatencyRecord()
        self._running_since: float | None = None
        self._running_s = self._waiting_s = 0.0

    def begin(self) -> None:
        """Take note that there are transitions now."""
        if self._running_since is None:
            self._running_since = time.monotonic()

    def run(self) -> None:
        """Let the time run that counts since then."""
        if self._running_since is not None:
            self._running_s = time.monotonic() - self._running_since

    def waited(self, seconds: float) -> None:
        """Take note of time spent waiting."""
        if self._running_since is not None and self.state == msg.LearnerStatus.WAITING:
            self._waiting_s += seconds

    def publish(self) -> None:
        """Tell how it goes; called by any thread."""
        learner = self._learner
        received, first_use = (record.percentiles_ms() for record in (
            self.received_latency, self.first_use_latency))
        metrics = dict(self.metrics)
        if self._models is not None:
            metrics['models_refused'] = float(self._models.acceptance.refused)
        status = msg.LearnerStatus(
            name=self._node.get_name(), session=self._session, state=self.state,
            reason=self.reason, version=version_to_message(self.published),
            model_version=version_to_message(learner.model_version),
            next_transition=learner.next_transition, transitions_recovered=self.stream.recovered,
            updates=learner.updates, epochs=float(learner.epochs),
            updates_in_motion=self.updates_in_motion, running_s=self._running_s,
            waiting_s=self._waiting_s, transition_latency_p50_ms=received[0],
            transition_latency_p99_ms=received[1], first_use_latency_p50_ms=first_use[0],
            first_use_latency_p99_ms=first_use[1], metric_names=list(metrics),
            metric_values=doubles(list(metrics.values())))
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(status)

    def part(self) -> Part:
        """Say how it goes, for ``/diagnostics``."""
        learner, failed = self._learner, self.state == msg.LearnerStatus.FAILED
        values: dict[str, object] = {
            'updates': learner.updates, 'transitions': learner.next_transition,
            'transitions recovered': self.stream.recovered,
            'transitions refused': self.stream.refused, 'snapshot': str(self.published),
            'waiting share': self._waiting_s / self._running_s if self._running_s else 0.0,
            'transition latency p99, ms': self.received_latency.percentiles_ms()[1]}
        if self._models is not None:
            values['models refused'] = self._models.acceptance.refused
        return Part('learning', _STATES[self.state], values,
                    ('' if failed else self.reason,), (self.reason if failed else '',))
