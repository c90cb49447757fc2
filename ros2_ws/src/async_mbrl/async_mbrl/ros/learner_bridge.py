"""A learner on the graph: messages in and out in one thread, learning in another.

The main thread serves callbacks, which only take notes, so that a message is in within milliseconds
whatever the learner computes. A second thread, of lower priority, alternates between taking what
arrived, one step of learning, and publishing what changed.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.learning.learner import Learner
from async_mbrl.learning.recorded import recorded_count, recorded_hash
from async_mbrl.learning.run_pin import RunPin
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import StreamBounds, subscribe
from async_mbrl.ros.computing import Computing
from async_mbrl.ros.convert import snapshot_parts, snapshot_to_messages, transition_from_message
from async_mbrl.ros.diagnostics import Diagnostics
from async_mbrl.ros.learner_report import LearnerReport
from async_mbrl.ros.lifecycle import ManagedNode
from async_mbrl.ros.snapshot_intake import SnapshotIntake
from async_mbrl.ros.streams import TRANSITIONS, StreamSubscriber
from async_mbrl.ros.triggers import PERIOD_S as TRIGGER_PERIOD_S
from async_mbrl.ros.triggers import Request, Triggers

COMPUTE_NICE = 10
"""Niceness of the thread that learns."""
STATUS_PERIOD_S = 0.5
CHECKPOINT_PERIOD_S = 10.0
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


SURPLUS_S = 1.0
"""Time for which the run must have fewer transitions than a learner, to be believed: the status
that a restarted learner hears first may be older than its newest transition."""


class SurplusError(ConfigError):
    """A checkpoint holds transitions that the run does not have; the message says what to do."""


class LearnerBridge:
    """Carries messages for a learner and runs it."""

    def __init__(self, node: ManagedNode, learner: Learner, files: LearnerFiles, *, topic: str,
                 publish_interval_s: float, bounds: StreamBounds, dry_run: bool,
                 models: SnapshotIntake[Snapshot] | None = None) -> None:
        """Restore the learner and join the graph; :meth:`go_on` begins to learn.

        Args:
            node: owner; its name is the learner's.
            learner: the worker.
            files: where it keeps what it learned.
            topic: of its snapshots.
            publish_interval_s: wall time between two of them, at least, s.
            bounds: what transitions must be like.
            dry_run: whether the run is to be a dry one.
            models: the way in of the models it takes, None for a learner that takes none.

        Raises:
            CheckpointError: there is a checkpoint that cannot be used.
            ConfigError: it is not known which run the folder belongs to.
        """
        self._pin = RunPin(files.folder, dry_run)
        self._node = node
        self._learner = learner
        self._files = files
        self._interval_s = publish_interval_s
        self._publisher_id = uuid.uuid4().hex
        self._report = LearnerReport(node, learner, self._publisher_id, models)
        self._published: Snapshot | None = None
        self._published_s = -math.inf
        self._told: tuple[int, ...] | None = None
        self._unused: list[int] = []
        self._beat_s = time.monotonic()

        self._computing = Computing('learning', self._learn_in_background, COMPUTE_NICE)
        self._paused = True
        self._run_status: msg.RunStatus | None = None
        self._checked: msg.RunStatus | None = None
        self._run_heard_s = math.inf
        self._transitions: deque[tuple[msg.Transition, bool]] = deque()
        self._save_asked: Request | None = None
        self._save_result: tuple[bool, str] | None = None
        self._saved_s = -math.inf
        self._unsaved = ''

        first = learner.restore(files.folder)
        # What a checkpoint has learned from counts as well: its ring may have been put aside.
        self._kept = max(learner.kept, recorded_count(files.folder, 'next_transition'))
        self._log_checkpoint('restored')
        if learner.trouble:
            node.get_logger().error(learner.trouble)
        self._joined = False
        self._first = learner.snapshot()
        size = sum(tensor.nbytes for tensor in self._first.tensors.values())
        self._publisher = node.create_publisher(
            msg.ParameterSnapshot, topic, qos.snapshots(snapshot_parts(size)))
        self._report.stream = StreamSubscriber(node, TRANSITIONS, self._on_transition, first=first,
                                               bounds=bounds)
        subscribe(node, msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._models = models
        if models is not None:
            models.subscribe(self._computing.wake)
        self._triggers = Triggers(node, save=self._on_save)
        Diagnostics(node, self._report.part, node.events.part)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(STATUS_PERIOD_S, self._vouch, clock=steady)
        node.create_timer(TRIGGER_PERIOD_S, self._serve_operator, clock=steady)
        node.get_logger().info(
            f'start {self._first.version.incarnation}: {learner.updates} updates so far, wants '
            f'transitions from {first} on; snapshots of {size / 1e6:.2f} MB')

    # What follows runs in the main thread and only takes notes.

    @property
    def ended(self) -> bool:
        """Whether the learning has come to its end, by the end of the run or an error."""
        return self._computing.ended

    @property
    def error(self) -> Exception | None:
        """What has ended the learning; None if nothing has."""
        return self._computing.error

    def go_on(self) -> None:
        """Learn, until :meth:`pause`."""
        self._paused = False
        self._computing.begin()
        self._computing.wake()

    def pause(self) -> None:
        """Learn no more, but go on receiving, answering and giving heartbeats."""
        self._paused = True

    def stop(self) -> None:
        """End the learning between two steps, with a checkpoint; wait for it."""
        self._computing.stop()

    def close(self) -> None:
        """Refuse what was asked and not answered yet, let go of files; :meth:`stop` comes first."""
        self._triggers.refuse_open('the learner has ended')
        self._learner.close()

    def _on_transition(self, message: msg.Transition, recovered: bool) -> None:
        if not recovered:
            self._report.received_latency.add(message.publish_time_ns, time.time_ns())
        self._transitions.append((message, recovered))
        self._computing.wake()

    def _on_run_status(self, message: msg.RunStatus) -> None:
        if self._run_status is None:
            self._run_heard_s = time.monotonic()
        self._run_status = message
        self._report.stream.announce(message.next_transition)
        self._computing.wake()

    def _vouch(self) -> None:
        """Send a heartbeat, provided that learning makes progress."""
        if not self._computing.begun or time.monotonic() - self._beat_s < STALL_S:
            self._report.publish()

    def _on_save(self, request: Request) -> None:
        if not self._computing.begun or self.ended:
            request.answer(False, 'not learning')
        elif self._save_asked is not None:
            request.answer(False, 'saving already')
        else:
            self._save_asked = request
            self._computing.wake()

    def _serve_operator(self) -> None:
        self._triggers.poll()
        if self._save_asked is not None and self._save_result is not None:
            request, result = self._save_asked, self._save_result
            self._save_result = self._save_asked = None
            request.answer(*result)

    # What follows runs in the thread that learns.

    def _learn_in_background(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._report.state, self._report.reason = msg.LearnerStatus.FAILED, str(error)
            self._report.publish()
            raise

    def _work(self) -> None:
        if self._learner.ready:
            self._publish(self._first)
        while not self._computing.stopping:
            self._beat_s = time.monotonic()
            self._check_run()
            if self._checked is not None:   # what comes before may be of another run
                self._take_arrived()
            self._save_if_asked()
            if not self._join():
                self._rest()
                continue
            status = self._run_status
            phase = msg.RunStatus.WAITING if status is None else status.phase
            if phase in _OVER:
                break
            if phase in _ENDING and status.mode != 'use' and self._complete():
                if self._report.state != msg.LearnerStatus.FINISHED:
                    self._finish()
                elif self._unsaved and self._save_due():
                    self._save_meanwhile()
                self._rest()
            elif self._paused:
                self._report.state = msg.LearnerStatus.WAITING
                self._rest()
            else:
                self._learn()
                if self._learner.updates and self._save_due():
                    self._save_meanwhile()
        if self._known_where() and (self._unsaved or (
                self._report.state != msg.LearnerStatus.FINISHED
                and self._learner.next_transition > 0)):
            self._save()

    def _check_run(self) -> None:
        """Make sure that the run on the graph is the one that is learned here.

        Raises:
            ConfigError: it is another one.
        """
        status = self._run_status
        if status is None or status is self._checked:
            return
        try:
            self._pin.check(status.run_id, status.dry_run)
        except OSError as error:
            self._node.get_logger().error(f'not written which run this is: {error}')
        self._checked = status

    def _join(self) -> bool:
        """Whether it is known where the run is, as far as that matters.

        A learner with a checkpoint must not learn on where training has ended meanwhile.

        Raises:
            SurplusError: the run has fewer transitions than the checkpoint: numbers that it gives
                out again would be taken for those that are there already.
            RuntimeError: it has fewer than were kept since, which nothing was saved of; they have
                been put aside, and a restart sets it right.
        """
        if self._known_where():
            return True
        heard_s = time.monotonic() - self._run_heard_s
        if heard_s < SETTLE_S:
            return False
        assert self._run_status is not None
        held = self._run_status.next_transition
        if self._kept > held:
            if heard_s < SURPLUS_S:
                return False
            lost = f'but the journal of the run holds only {held}, as after a loss of power'
            learned = recorded_count(self._files.folder, 'next_transition')
            # In any case: without its index a learner would go on with what is kept.
            self._learner.discard()
            if learned > held:
                raise SurplusError(
                    f'{self._files.folder} has learned from {learned} transitions, {lost}; remove '
                    'its checkpoint.json to learn anew from the journal')
            raise RuntimeError(f'{self._files.folder} has kept {self._kept} transitions, '
                               f'{lost}; they are put aside, and asked for again after a restart')
        self._joined = True
        return True

    def _known_where(self) -> bool:
        """Whether what is kept is known to be of the run.

        No checkpoint is written before: it would name transitions that the run may not have, and
        nothing was learned that is not in the one before.
        """
        return self._joined or not self._kept

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
            self._report.begin()
            self._learner.take(arrived)
        if self._models is not None:
            self._models.take_arrived()

    def _learn(self) -> None:
        begun_ns = time.time_ns()
        before = self._learner.updates
        learned = self._learner.step()
        self._report.run()
        if not learned:
            self._report.state = msg.LearnerStatus.WAITING
            self._publish_if_due()
            self._rest()
            return
        self._report.state = msg.LearnerStatus.LEARNING
        unused, self._unused = self._unused, []
        for published_ns in unused:
            self._report.first_use_latency.add(published_ns, begun_ns)
        if self._run_status is not None and self._run_status.in_motion:
            self._report.updates_in_motion += self._learner.updates - before
        self._publish_if_due()

    def _rest(self) -> None:
        """Wait until something arrives, a moment at most."""
        begun_s = time.monotonic()
        self._computing.rest()
        self._report.waited(time.monotonic() - begun_s)

    def _publish_if_due(self) -> None:
        if (self._learner.ready and self._changed()
                and time.monotonic() - self._published_s >= self._interval_s):
            self._publish(self._learner.snapshot())

    def _changed(self) -> bool:
        """Whether there is something to hand out that was not yet."""
        return self._told != self._learner.news

    def _publish(self, snapshot: Snapshot) -> None:
        now = self._node.get_clock().now().to_msg()
        for message in snapshot_to_messages(snapshot, self._publisher_id, now):
            self._publisher.publish(message)
        self._published, self._published_s = snapshot, time.monotonic()
        self._told = self._learner.news
        self._report.published = snapshot.version
        self._report.metrics = self._learner.metrics()
        first = self._files.first_snapshot
        if first is not None and not first.exists():
            try:
                snapshots.write(first, snapshot)
            except OSError as error:
                self._node.get_logger().error(f'first snapshot not kept: {error}',
                                              throttle_duration_sec=CHECKPOINT_PERIOD_S)

    def _save(self) -> None:
        """Write the checkpoint and the newest snapshot.

        Raises:
            OSError: the disk does not take it; the checkpoint before stands.
        """
        self._learner.save(self._files.folder)
        if self._files.newest_snapshot is not None and self._published is not None:
            snapshots.write(self._files.newest_snapshot, self._published)
        self._unsaved = self._report.reason = ''
        self._log_checkpoint('saved')

    def _save_meanwhile(self) -> None:
        """Save, and go on if that fails: the checkpoint before stands, and it is tried again."""
        try:
            self._save()
        except OSError as error:
            self._unsaved = self._report.reason = f'no checkpoint written: {error}'
            self._node.get_logger().error(self._unsaved)
        self._saved_s = time.monotonic()

    def _save_due(self) -> bool:
        return time.monotonic() - self._saved_s >= CHECKPOINT_PERIOD_S

    def _save_if_asked(self) -> None:
        if self._save_asked is None or self._save_result is not None:
            return
        if not self._learner.updates:
            self._save_result = False, 'nothing has been learned yet'
            return
        if not self._known_where():
            self._save_result = False, 'nothing has been learned since the start'
            return
        self._save_meanwhile()
        self._save_result = (False, self._unsaved) if self._unsaved else (
            True, f'{self._learner.next_transition} transitions, {self._learner.updates} updates')

    def _finish(self) -> None:
        """Hand out the last snapshot and save; nothing is learned from here on."""
        if self._learner.ready and self._changed():
            self._publish(self._learner.snapshot())
        self._save_meanwhile()
        self._report.state = msg.LearnerStatus.FINISHED
        self._report.publish()
        self._node.get_logger().info(
            f'finished: {self._learner.next_transition} transitions, {self._learner.updates} '
            f'updates')

    def _log_checkpoint(self, what: str) -> None:
        digest = recorded_hash(self._files.folder)
        if digest:
            learned = recorded_count(self._files.folder, 'next_transition')
            self._node.get_logger().info(
                f'checkpoint {what}: transitions={learned} sha256={digest}')
