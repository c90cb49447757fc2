"""What the controller tells about itself: ``controller_status`` and ``/diagnostics``."""

from __future__ import annotations

import collections
import time

import numpy as np
from async_mbrl_interfaces import msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from async_mbrl.control.core import FAULT, IDLE
from async_mbrl.control.process import Adoption, LoopProcess, Punctuality
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.ros import qos
from async_mbrl.ros.convert import version_to_message
from async_mbrl.ros.policy_intake import PolicyIntake

BLIND = 'waiting'
KEPT = 10_000
WARN_JITTER = 0.05      # share of the period at the 99th percentile
ERROR_JITTER = 0.2
WARN_POLICY_AGE_S = 60.0


def _percentiles(values: collections.deque[float], *shares: float) -> list[float]:
    if not values:
        return [0.0] * len(shares)
    return [float(value) for value in np.percentile(np.array(values), shares)]


class ControllerReport:
    """Collect figures and publish them."""

    def __init__(self, node: Node, robot: RobotConfig, loop: LoopProcess, intake: PolicyIntake,
                 session: int) -> None:
        """Create the publishers."""
        self._node = node
        self._rate_hz = robot.control_rate_hz
        self._loop = loop
        self._intake = intake
        self._session = session
        self._version: Version = NO_VERSION
        self._published_ns = 0
        self._latencies_s: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._ages_s: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._states = self._states_dropped = 0
        self._last_state_s = 0.0
        self._longest_state_gap_s = 0.0
        self._since_s = time.monotonic()
        self._status = node.create_publisher(msg.ControllerStatus, 'controller_status', qos.STATUS)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', qos.STATUS)

    def state_received(self, now_s: float) -> None:
        """Count a joint state, received at a robot time."""
        if self._last_state_s:
            self._longest_state_gap_s = max(self._longest_state_gap_s, now_s - self._last_state_s)
        self._last_state_s = now_s
        self._states += 1

    def state_dropped(self) -> None:
        """Count a joint state that is of no use."""
        self._states_dropped += 1

    def policy_adopted(self, adoption: Adoption) -> None:
        """Note the first tick with a policy."""
        self._version, self._published_ns = adoption.version, adoption.publish_time_ns
        if adoption.publish_time_ns:
            self._latencies_s.append((adoption.first_tick_ns - adoption.publish_time_ns) * 1e-9)

    def policy_acted(self, age_s: float) -> None:
        """Note the age of the policy that took a learning step."""
        self._ages_s.append(age_s)

    def publish(self, next_control_step: int, next_episode_command: int) -> None:
        """Publish both messages."""
        loop = self._loop
        punctuality = loop.punctuality()
        acceptance = self._intake.acceptance
        age_s = (time.time_ns() - self._published_ns) * 1e-9 if self._published_ns else 0.0
        latency_p50, latency_p99 = _percentiles(self._latencies_s, 50, 99)
        age_p50, age_p99 = _percentiles(self._ages_s, 50, 99)
        status = msg.ControllerStatus(
            session=self._session, state=self._state(), fault=loop.fault, rate_hz=self._rate_hz,
            scheduler=loop.scheduler, ticks=loop.count('ticks'),
            late_ticks=loop.count('late_ticks'), jitter_p50_ms=1e3 * punctuality.p50_s,
            jitter_p99_ms=1e3 * punctuality.p99_s, jitter_p999_ms=1e3 * punctuality.p999_s,
            jitter_max_ms=1e3 * punctuality.max_s, tick_p50_us=1e6 * punctuality.tick_p50_s,
            tick_p99_us=1e6 * punctuality.tick_p99_s,
            policy_version=version_to_message(self._version),
            architecture_hash=self._intake.architecture_hash,
            policies_applied=loop.count('policies_applied'), policies_rejected=acceptance.refused,
            last_rejection=acceptance.last_reason, policy_age_s=age_s, policy_age_p50_s=age_p50,
            policy_age_p99_s=age_p99, policy_latency_p50_ms=1e3 * latency_p50,
            policy_latency_p99_ms=1e3 * latency_p99, interventions=loop.count('interventions'),
            stale_holds=loop.count('stale_holds'), next_control_step=next_control_step,
            next_episode_command=next_episode_command)
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(status)
        self._publish_diagnostics(status, punctuality)

    def _state(self) -> str:
        state = self._loop.state
        # An episode ordered before the first joint state would only be aborted.
        return BLIND if state == IDLE and not self._last_state_s else state

    def _publish_diagnostics(self, status: msg.ControllerStatus,
                             punctuality: Punctuality) -> None:
        now_s = time.monotonic()
        rate_hz = self._states / max(1e-6, now_s - self._since_s)
        gap_s, self._longest_state_gap_s = self._longest_state_gap_s, 0.0
        self._states, self._since_s = 0, now_s
        share = punctuality.p99_s * self._rate_hz
        ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
        loop_level = error if share > ERROR_JITTER else warn if share > WARN_JITTER else ok
        if status.state == FAULT:
            loop_level, loop_message = error, status.fault
        else:
            loop_message = f'{status.state}, {100 * share:.0f} % of a period late (p99)'
        version = Version(status.policy_version.incarnation, status.policy_version.counter)
        parts = [
            _status('control loop', loop_level, loop_message, {
                'scheduler': status.scheduler, 'rate (Hz)': self._rate_hz,
                'ticks': status.ticks, 'late ticks': status.late_ticks,
                'missed ticks': self._loop.count('missed'),
                'memory locked': bool(self._loop.count('memory_locked')),
                'jitter p50 (ms)': status.jitter_p50_ms, 'jitter p99 (ms)': status.jitter_p99_ms,
                'jitter p99.9 (ms)': status.jitter_p999_ms, 'jitter max (ms)': status.jitter_max_ms,
                'tick p99 (us)': status.tick_p99_us, 'interventions': status.interventions,
                'stale holds': status.stale_holds}),
            _status('joint states', warn if rate_hz == 0.0 else ok, f'{rate_hz:.0f} Hz', {
                'rate (Hz)': rate_hz, 'longest gap (ms)': 1e3 * gap_s,
                'dropped': self._states_dropped}),
            _status('policy', warn if status.policy_age_s > WARN_POLICY_AGE_S else ok,
                    f'version {version}', {
                        'age (s)': status.policy_age_s, 'applied': status.policies_applied,
                        'refused': status.policies_rejected,
                        'last refusal': status.last_rejection,
                        'latency p99 (ms)': status.policy_latency_p99_ms}),
        ]
        message = DiagnosticArray(status=parts)
        message.header.stamp = status.header.stamp
        self._diagnostics.publish(message)


def _status(name: str, level: bytes, text: str, values: dict[str, object]) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=f'controller: {name}', level=level, message=text, hardware_id='',
        values=[KeyValue(key=key, value=f'{value:.4g}' if isinstance(value, float) else str(value))
                for key, value in values.items()])
