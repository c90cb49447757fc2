"""The planner on the graph: control steps and models in, plans out.

The main thread serves callbacks, which only take notes; a second one plans from the newest control
step, never from an older one.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType

from async_mbrl.core.snapshot import NO_VERSION, Snapshot
from async_mbrl.learning.predictive_control import PredictiveControl
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import StreamBounds, subscribe
from async_mbrl.ros.computing import Computing
from async_mbrl.ros.convert import doubles, step_from_message, version_to_message
from async_mbrl.ros.diagnostics import Diagnostics, Part
from async_mbrl.ros.latency import LatencyRecord
from async_mbrl.ros.lifecycle import ManagedNode
from async_mbrl.ros.plan_intake import TOPIC, plan_to_message
from async_mbrl.ros.snapshot_intake import SnapshotIntake

STATUS_PERIOD_S = 0.5
MODEL_BACKLOG = 2
"""One model may come while another waits to be taken; older ones go."""
_OVER = (msg.RunStatus.DONE, msg.RunStatus.FAILED)
MARGIN = 1.2
"""A plan is taken to need this much longer than the one before."""


class PlannerBridge:
    """Carries messages for the planner and runs it; :meth:`go_on` begins."""

    def __init__(self, node: ManagedNode, control: PredictiveControl, task: Any,
                 factor: float) -> None:
        """Join the graph.

        Args:
            node: owner.
            control: the worker.
            task: says how large control steps are, and how often they come.
            factor: real-time factor.
        """
        self._node = node
        self._control = control
        self._period_s = 1.0 / (task.config.policy_rate_hz * factor)
        self._bounds = StreamBounds.of(task)
        self._session = uuid.uuid4().hex
        self._computing = Computing('planning', self._run)
        self._newest: tuple[msg.ControlStep, float] | None = None
        self._over = False
        self._paused = True
        self._planning_s = 0.0
        self._durations = LatencyRecord()
        self._plans = self._late = self._refused = 0
        self._models: SnapshotIntake[Snapshot] = SnapshotIntake(
            node, 'model', control.model_architecture, control.model_bytes, backlog=MODEL_BACKLOG,
            decode=lambda model, _published_ns: model, take=control.take_snapshot)
        self._models.subscribe(self._computing.wake)
        # The controller must not be held up by a reader that has no time.
        subscribe(node, msg.ControlStep, 'control_steps', self._on_step, qos.FRESH,
                  maximum_bytes=self._bounds.most_bytes(msg.ControlStep))
        subscribe(node, msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        self._publisher = node.create_publisher(msg.PlannedActions, TOPIC, qos.FRESH)
        self._status = node.create_publisher(msg.LearnerStatus, 'learner_status', qos.STATUS)
        Diagnostics(node, self.part, node.events.part)
        node.create_timer(STATUS_PERIOD_S, self._report,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def ended(self) -> bool:
        """Whether the planning has come to its end, by the end of the run or an error."""
        return self._over or self._computing.ended

    @property
    def error(self) -> Exception | None:
        """What has ended the planning; None if nothing has."""
        return self._computing.error

    def go_on(self) -> None:
        """Plan, until :meth:`pause`."""
        self._paused = False
        self._computing.begin()

    def pause(self) -> None:
        """Plan no more, for now: the policy acts."""
        self._paused = True

    def stop(self) -> None:
        """End the planning; wait for it."""
        self._computing.stop()

    def part(self) -> Part:
        """Say how it goes, for ``/diagnostics``."""
        p50, p99 = self._durations.percentiles_ms()
        without = '' if self._control.model_version != NO_VERSION else 'no model yet'
        return Part('planning', without or f'{p50:.0f} ms a plan', {
            'plans': self._plans, 'late': self._late, 'planning p50 (ms)': p50,
            'planning p99 (ms)': p99, 'model': str(self._control.model_version),
            'models refused': self._models.acceptance.refused,
            'control steps refused': self._refused},
            errors=(str(self.error) if self.error is not None else '',))

    def _on_step(self, message: msg.ControlStep) -> None:
        flaw = self._bounds.flaw(message)
        if flaw:
            self._refused += 1
            self._node.get_logger().warning(f'control step refused: {flaw}',
                                            throttle_duration_sec=1.0)
            return
        self._newest = message, time.monotonic()
        self._computing.wake()

    def _on_run_status(self, message: msg.RunStatus) -> None:
        self._over = message.phase in _OVER

    def _report(self) -> None:
        """Send a heartbeat."""
        if self.ended:
            return
        p50, p99 = self._durations.percentiles_ms()
        metrics = {'planning_p50_ms': p50, 'planning_p99_ms': p99, 'late': float(self._late),
                   'models_refused': float(self._models.acceptance.refused)}
        status = msg.LearnerStatus(
            name=self._node.get_name(), session=self._session,
            state=msg.LearnerStatus.LEARNING if self._plans else msg.LearnerStatus.WAITING,
            model_version=version_to_message(self._control.model_version), updates=self._plans,
            metric_names=list(metrics), metric_values=doubles(list(metrics.values())))
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(status)

    # What follows runs in the thread that plans.

    def _run(self) -> None:
        while not self._computing.stopping:
            self._computing.rest()
            self._models.take_arrived()
            newest, self._newest = self._newest, None
            if newest is not None and not self._paused:
                self._plan(*newest)

    def _plan(self, message: msg.ControlStep, received_s: float) -> None:
        begun_s = time.monotonic()
        expected_s = begun_s - received_s + MARGIN * self._planning_s
        lead = 1 + int(expected_s / self._period_s)
        plan = self._control.plan(step_from_message(message), lead)
        if plan is None:
            return
        now_s = time.monotonic()
        self._planning_s = now_s - begun_s
        answer = plan_to_message(plan, self._control.model_version, self._planning_s)
        answer.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(answer)
        self._plans += 1
        self._late += now_s - received_s > lead * self._period_s
        now_ns = time.time_ns()
        self._durations.add(now_ns - round(1e9 * self._planning_s), now_ns)
