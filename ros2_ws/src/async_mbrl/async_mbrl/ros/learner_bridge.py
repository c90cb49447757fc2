"""A learner on the graph: messages in and out in one thread, learning in another.

The main thread serves callbacks, which only take notes, so that a message is in within milliseconds
whatever the learner computes. A second thread, of lower priority, alternates between taking what
arrived, one step of learning, and publishing what changed.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.files import write_atomically
from async_mbrl.core.snapshot import NO_VERSION, Snapshot
from async_mbrl.learning.learner import Learner
from async_mbrl.ros import qos
from async_mbrl.ros.convert import (
    doubles,
    snapshot_to_messages,
    transition_from_message,
    version_to_message,
)
from async_mbrl.ros.latency import LatencyRecord
from async_mbrl.ros.model_intake import ModelIntake, snapshot_parts
from async_mbrl.ros.streams import TRANSITIONS, StreamSubscriber

COMPUTE_NICE = 10
"""Niceness of the thread that learns."""
SWITCH_INTERVAL_S = 0.0005
"""The interpreter hands the lock over this soon, so that callbacks do not wait for computing."""
STATUS_PERIOD_S = 0.5
CHECKPOINT_PERIOD_S = 10.0
IDLE_S = 0.1
"""How long the learner sleeps at most when there is nothing to learn from."""
STALL_S = 5.0
"""A learner that has come to no end of a step for so long is not vouched for any more."""

SETTLE_S = 0.3
"""Time that the statuses kept for a late joiner get to arrive, the newest being the last."""

_ENDING = (msg.RunStatus.FINISHING, msg.RunStatus.EVALUATING)
_OVER = (msg.RunStatus.DONE, msg.RunStatus.FAILED)


@dataclass(frozen=True)
class LearnerFiles:
    """What a learner keeps in the run folder.

    Attributes:
        folder: of its checkpoint.
        first_snapshot: where the first snapshot of the run is kept, None for nowhere.
        newest_snapshot: where the newest one is kept, None for nowhere.
    """

    folder: Path
    first_snapshot: Path | None = None
    newest_snapshot: Path | None = None


class SurplusError(ConfigError):
    """A checkpoint holds transitions that the run does not have; the message says what to do."""


class LearnerBridge:
    """Carries messages for a learner and runs it."""

    def __init__(self, node: Node, learner: Learner, files: LearnerFiles, *, topic: str,
                 publish_interval_s: float, models: ModelIntake | None = None) -> None:
        """Restore the learner and join the graph; :meth:`run` begins to learn.

        Args:
            node: owner; its name is the learner's.
            learner: the worker.
            files: where it keeps what it learned.
            topic: of its snapshots.
            publish_interval_s: wall time between two of them, at least, s.
            models: the way in of the models it takes, None for a learner that takes none.

        Raises:
            CheckpointError: there is a checkpoint that cannot be used.
        """
        self._node = node
        self._learner = learner
        self._files = files
        self._interval_s = publish_interval_s
        self._publisher_id = uuid.uuid4().hex
        self._state, self._reason = msg.LearnerStatus.STARTING, ''
        self._published: Snapshot | None = None
        self._published_s = -math.inf
        self._published_state = (-1, -1)
        self._metrics: dict[str, float] = {}
        self._updates_in_motion = 0
        self._running_since: float | None = None
        self._running_s = self._waiting_s = 0.0
        self._received_latency, self._first_use_latency = LatencyRecord(), LatencyRecord()
        self._unused: list[int] = []
        self._beat_s = time.monotonic()

        self._arrived = threading.Event()
        self._stopping = False
        self._error: Exception | None = None
        self._run_status: msg.RunStatus | None = None
        self._run_heard_s = math.inf
        self._transitions: deque[tuple[msg.Transition, bool]] = deque()

        first = self._restored = learner.restore(files.folder)
        self._joined = False
        self._first = learner.snapshot()
        size = sum(tensor.nbytes for tensor in self._first.tensors.values())
        self._publisher = node.create_publisher(
            msg.ParameterSnapshot, topic, qos.snapshots(snapshot_parts(size)))
        self._status_publisher = node.create_publisher(
            msg.LearnerStatus, 'learner_status', qos.STATUS)
        self._stream = StreamSubscriber(node, TRANSITIONS, self._on_transition, first=first)
        self._run_subscription = node.create_subscription(
            msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._models = models
        if models is not None:
            models.subscribe(self._arrived.set)
        self._timer = node.create_timer(STATUS_PERIOD_S, self._vouch,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        node.get_logger().info(
            f'start {self._first.version.incarnation}: {learner.updates} updates so far, wants '
            f'transitions from {first} on; snapshots of {size / 1e6:.2f} MB')

    def run(self) -> None:
        """Learn until the run is over or a signal asks to stop, then save.

        Serves callbacks in the calling thread, the main one, and learns in another; a signal ends
        the learning between two steps, never inside one.

        Raises:
            SurplusError: the checkpoint does not fit the run.
            RuntimeError: learning has failed; the reason was published and the cause is chained.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        gc.freeze()
        learning = threading.Thread(target=self._learn_in_background, name='learning')
        learning.start()
        try:
            while learning.is_alive():
                executor.spin_once(timeout_sec=IDLE_S)
        finally:
            self._stop()
            learning.join()
            executor.remove_node(self._node)
        if isinstance(self._error, SurplusError):
            raise self._error
        if self._error is not None:
            raise RuntimeError(f'{self._node.get_name()} has failed') from self._error

    # What follows runs in the main thread and only takes notes.

    def _on_signal(self, number: int, _frame: object) -> None:
        self._node.get_logger().info(f'{signal.Signals(number).name}: saving')
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._arrived.set()

    def _on_transition(self, message: msg.Transition, recovered: bool) -> None:
        if not recovered:
            self._received_latency.add(message.publish_time_ns, time.time_ns())
        self._transitions.append((message, recovered))
        self._arrived.set()

    def _on_run_status(self, message: msg.RunStatus) -> None:
        if self._run_status is None:
            self._run_heard_s = time.monotonic()
        self._run_status = message
        self._stream.announce(message.next_transition)
        self._arrived.set()

    def _vouch(self) -> None:
        """Send a heartbeat, provided that learning makes progress."""
        if time.monotonic() - self._beat_s < STALL_S:
            self._publish_status()

    # What follows runs in the thread that learns.

    def _learn_in_background(self) -> None:
        # Only this thread: callbacks, and the threads of DDS, keep their priority.
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread,
                       max(COMPUTE_NICE, os.getpriority(os.PRIO_PROCESS, thread)))
        try:
            self._work()
        except Exception as error:
            self._error = error
            self._state, self._reason = msg.LearnerStatus.FAILED, str(error)
            self._publish_status()

    def _work(self) -> None:
        if self._learner.ready:
            self._publish(self._first)
        saved_s = -math.inf
        while not self._stopping:
            self._beat_s = time.monotonic()
            self._take_arrived()
            if not self._join():
                self._rest()
                continue
            phase = msg.RunStatus.WAITING if self._run_status is None else self._run_status.phase
            if phase in _OVER:
                break
            if phase in _ENDING and self._complete():
                if self._state != msg.LearnerStatus.FINISHED:
                    self._finish()
                self._rest()
                continue
            self._learn()
            if self._learner.updates and self._beat_s - saved_s >= CHECKPOINT_PERIOD_S:
                self._save_meanwhile()
                saved_s = time.monotonic()
        if self._state != msg.LearnerStatus.FINISHED and self._learner.next_transition > 0:
            self._save()

    def _join(self) -> bool:
        """Whether it is known where the run is, as far as that matters.

        A learner with a checkpoint must not learn on where training has ended meanwhile.

        Raises:
            SurplusError: the run has fewer transitions than the checkpoint: numbers that it gives
                out again would be taken for those that are there already.
        """
        if self._joined or not self._restored:
            return True
        if time.monotonic() - self._run_heard_s < SETTLE_S:
            return False
        assert self._run_status is not None
        if self._restored > self._run_status.next_transition:
            raise SurplusError(
                f'{self._files.folder} has learned from {self._restored} transitions, but the '
                f'journal of the run holds only {self._run_status.next_transition}, as after a '
                f'loss of power; remove its checkpoint.json to learn anew from the journal')
        self._joined = True
        return True

    def _complete(self) -> bool:
        """Whether all transitions of the run were taken."""
        return self._learner.next_transition >= self._run_status.next_transition

    def _take_arrived(self) -> None:
        arrived = []
        while self._transitions:
            message, recovered = self._transitions.popleft()
            arrived.append(transition_from_message(message))
            if not recovered:
                self._unused.append(message.publish_time_ns)
        if arrived:
            if self._running_since is None:
                self._running_since = time.monotonic()
            self._learner.take(arrived)
        if self._models is not None:
            self._models.take_arrived()

    def _learn(self) -> None:
        begun_ns = time.time_ns()
        before = self._learner.updates
        learned = self._learner.step()
        if self._running_since is not None:
            self._running_s = time.monotonic() - self._running_since
        if not learned:
            self._state = msg.LearnerStatus.WAITING
            self._publish_if_due()
            self._rest()
            return
        self._state = msg.LearnerStatus.LEARNING
        unused, self._unused = self._unused, []
        for published_ns in unused:
            self._first_use_latency.add(published_ns, begun_ns)
        if self._run_status is not None and self._run_status.in_motion:
            self._updates_in_motion += self._learner.updates - before
        self._publish_if_due()

    def _rest(self) -> None:
        """Wait until something arrives, a moment at most."""
        begun_s = time.monotonic()
        self._arrived.wait(IDLE_S)
        self._arrived.clear()
        if self._running_since is not None and self._state == msg.LearnerStatus.WAITING:
            self._waiting_s += time.monotonic() - begun_s

    def _publish_if_due(self) -> None:
        if (self._learner.ready and self._changed()
                and time.monotonic() - self._published_s >= self._interval_s):
            self._publish(self._learner.snapshot())

    def _changed(self) -> bool:
        """Whether there is something to hand out that was not yet."""
        return self._published_state != (self._learner.updates, self._learner.next_transition)

    def _publish(self, snapshot: Snapshot) -> None:
        now = self._node.get_clock().now().to_msg()
        for message in snapshot_to_messages(snapshot, self._publisher_id, now):
            self._publisher.publish(message)
        self._published, self._published_s = snapshot, time.monotonic()
        self._published_state = (self._learner.updates, self._learner.next_transition)
        self._metrics = self._learner.metrics()
        first = self._files.first_snapshot
        if first is not None and not first.exists():
            write_atomically(first, snapshots.encode(snapshot))

    def _save(self) -> None:
        self._learner.save(self._files.folder)
        if self._files.newest_snapshot is not None and self._published is not None:
            write_atomically(self._files.newest_snapshot, snapshots.encode(self._published))

    def _save_meanwhile(self) -> None:
        """Save, and go on learning if that fails: the checkpoint before stands."""
        try:
            self._save()
        except OSError as error:
            self._node.get_logger().error(f'no checkpoint written: {error}')

    def _finish(self) -> None:
        """Hand out the last snapshot and save; nothing is learned from here on."""
        if self._learner.ready and self._changed():
            self._publish(self._learner.snapshot())
        self._save()
        self._state = msg.LearnerStatus.FINISHED
        self._publish_status()
        self._node.get_logger().info(
            f'finished: {self._learner.next_transition} transitions, {self._learner.updates} '
            f'updates')

    def _publish_status(self) -> None:
        """Tell how it goes; called by either thread."""
        learner = self._learner
        received, first_use = (record.percentiles_ms() for record in (
            self._received_latency, self._first_use_latency))
        published = NO_VERSION if self._published is None else self._published.version
        metrics = dict(self._metrics)
        if self._models is not None:
            metrics['models_refused'] = float(self._models.refused)
        status = msg.LearnerStatus(
            name=self._node.get_name(), session=self._publisher_id, state=self._state,
            reason=self._reason, version=version_to_message(published),
            model_version=version_to_message(learner.model_version),
            next_transition=learner.next_transition, transitions_recovered=self._stream.recovered,
            updates=learner.updates, epochs=float(learner.epochs),
            updates_in_motion=self._updates_in_motion, running_s=self._running_s,
            waiting_s=self._waiting_s, transition_latency_p50_ms=received[0],
            transition_latency_p99_ms=received[1], first_use_latency_p50_ms=first_use[0],
            first_use_latency_p99_ms=first_use[1], metric_names=list(metrics),
            metric_values=doubles(list(metrics.values())))
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._status_publisher.publish(status)
