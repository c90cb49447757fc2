"""What the controller tells about itself: ``controller_status`` and ``/diagnostics``."""

from __future__ import annotations

import collections
import time

import numpy as np
from async_mbrl_interfaces import msg
from rclpy.node import Node

from async_mbrl.control.core import IDLE
from async_mbrl.control.process import Adoption, LoopProcess
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.ros import qos
from async_mbrl.ros.convert import version_to_message
from async_mbrl.ros.diagnostics import Arrivals, Growth, Part
from async_mbrl.ros.policy_intake import PolicyIntake

BLIND = 'waiting'
KEPT = 10_000
WARN_JITTER = 0.05      # share of the period at the 99th percentile
ERROR_JITTER = 0.2
WARN_TICK = 0.5         # share of the period that a tick takes at the 99th percentile
WARN_GAP = 0.5          # share of the time after which joint states are stale
LATCHED = ('fault', 'estop')


def _percentiles(values: collections.deque[float], *shares: float) -> list[float]:
    if not values:
        return [0.0] * len(shares)
    return [float(value) for value in np.percentile(np.array(values), shares)]


class ControllerReport:
    """Collect figures and publish them."""

    def __init__(self, node: Node, robot: RobotConfig, loop: LoopProcess, intake: PolicyIntake,
                 session: int, dry_run: bool) -> None:
        """Create the publisher of the status."""
        self._node = node
        self._robot = robot
        self._rate_hz = robot.control_rate_hz
        self._loop = loop
        self._intake = intake
        self._session = session
        self._dry_run = dry_run
        self._version: Version = NO_VERSION
        self._adopted_s: float | None = None
        self._latencies_s: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._ages_s: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._states = Arrivals()
        self._states_dropped = 0
        self._last_drop = ''
        self._growth = Growth()
        self._status = node.create_publisher(msg.ControllerStatus, 'controller_status', qos.STATUS)

    def state_received(self) -> None:
        """Count a joint state that was handed to the loop."""
        self._states.add(time.monotonic())

    def state_dropped(self, reason: str) -> None:
        """Count a joint state that is of no use."""
        self._states_dropped += 1
        self._last_drop = reason

    def policy_adopted(self, adoption: Adoption, now_s: float) -> None:
        """Note the first tick with a policy, at a steady time."""
        self._version, self._adopted_s = adoption.version, now_s
        if adoption.publish_time_ns:
            self._latencies_s.append((adoption.first_tick_ns - adoption.publish_time_ns) * 1e-9)

    def policy_acted(self, age_s: float) -> None:
        """Note the age of the policy that took a learning step."""
        self._ages_s.append(age_s)

    @property
    def policy_age_s(self) -> float:
        """Time since the policy in use was taken over, s; 0 without one.

        On the clock of this machine: that of the publisher may be wrong, or be set meanwhile.
        """
        return 0.0 if self._adopted_s is None else time.monotonic() - self._adopted_s

    def publish(self, next_control_step: int, next_episode_command: int) -> None:
        """Publish the status."""
        loop = self._loop
        punctuality = loop.punctuality()
        acceptance = self._intake.acceptance
        latency_p50, latency_p99 = _percentiles(self._latencies_s, 50, 99)
        age_p50, age_p99 = _percentiles(self._ages_s, 50, 99)
        status = msg.ControllerStatus(
            session=self._session, state=self._state(), motion=loop.motion.value,
            dry_run=self._dry_run, fault=loop.fault, fault_causes=list(loop.fault_causes),
            rate_hz=self._rate_hz, scheduler=loop.scheduler, ticks=loop.count('ticks'),
            late_ticks=loop.count('late_ticks'), jitter_p50_ms=1e3 * punctuality.p50_s,
            jitter_p99_ms=1e3 * punctuality.p99_s, jitter_p999_ms=1e3 * punctuality.p999_s,
            jitter_max_ms=1e3 * punctuality.max_s, tick_p50_us=1e6 * punctuality.tick_p50_s,
            tick_p99_us=1e6 * punctuality.tick_p99_s,
            policy_version=version_to_message(self._version),
            architecture_hash=self._intake.architecture_hash,
            policies_applied=loop.count('policies_applied'), policies_rejected=acceptance.refused,
            last_rejection=acceptance.last_reason, policy_age_s=self.policy_age_s,
            policy_age_p50_s=age_p50, policy_age_p99_s=age_p99,
            policy_latency_p50_ms=1e3 * latency_p50, policy_latency_p99_ms=1e3 * latency_p99,
            interventions=loop.count('interventions'),
            interventions_finite=loop.count('interventions_finite'),
            interventions_magnitude=loop.count('interventions_magnitude'),
            interventions_braking=loop.count('interventions_braking'),
            interventions_workspace=loop.count('interventions_workspace'),
            smoothed=loop.count('smoothed'), stale_holds=loop.count('stale_holds'),
            states_dropped=self._states_dropped, next_control_step=next_control_step,
            next_episode_command=next_episode_command)
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(status)

    def _state(self) -> str:
        state = self._loop.state
        # An episode ordered before the first joint state would only be aborted.
        return BLIND if state == IDLE and not self._states.count else state

    # ---- parts of /diagnostics ----

    def motion_part(self) -> Part:
        """Whether the arm may move, and what was changed of what it was asked to do."""
        loop = self._loop
        motion = loop.motion.value
        counts = {name: loop.count(name) for name in (
            'interventions', 'interventions_finite', 'interventions_magnitude',
            'interventions_braking', 'interventions_workspace', 'smoothed', 'stale_holds')}
        limited = self._growth.of('finite', counts['interventions_finite'])
        stale = self._growth.of('stale_holds', counts['stale_holds'])
        causes = '; '.join(loop.fault_causes)
        return Part(
            'motion', f'{motion}: dry run, nothing is sent' if self._dry_run else motion,
            {'motion': motion, 'dry run': self._dry_run, 'causes': causes or 'none', **counts},
            warnings=(f'{limited} commands were not finite' if limited else '',
                      'joint states became stale' if stale else ''),
            errors=(f'{motion}: {loop.fault}; '
                    f'{f"still there: {causes}" if causes else "it can be cleared"}'
                    if motion in LATCHED else '',))

    def loop_part(self) -> Part:
        """How punctual the loop is."""
        loop, punctuality = self._loop, self._loop.punctuality()
        share = punctuality.p99_s * self._rate_hz
        busy = punctuality.tick_p99_s * self._rate_hz
        late = self._growth.of('late_ticks', loop.count('late_ticks'))
        said = f'{100 * share:.0f} % of a period late (p99)'
        return Part('control loop', said, {
            'scheduler': loop.scheduler, 'rate (Hz)': self._rate_hz, 'ticks': loop.count('ticks'),
            'late ticks': loop.count('late_ticks'), 'missed ticks': loop.count('missed'),
            'memory locked': bool(loop.count('memory_locked')),
            'jitter p50 (ms)': 1e3 * punctuality.p50_s, 'jitter p99 (ms)': 1e3 * punctuality.p99_s,
            'jitter p99.9 (ms)': 1e3 * punctuality.p999_s,
            'jitter max (ms)': 1e3 * punctuality.max_s,
            'tick p50 (us)': 1e6 * punctuality.tick_p50_s,
            'tick p99 (us)': 1e6 * punctuality.tick_p99_s},
            warnings=(said if WARN_JITTER < share <= ERROR_JITTER else '',
                      f'{late} ticks were late' if late else '',
                      f'ticks take {100 * busy:.0f} % of a period' if busy > WARN_TICK else ''),
            errors=(said if share > ERROR_JITTER else '',))

    def joint_states_part(self) -> Part:
        """How joint states arrive."""
        rate_hz, gap_s = self._states.look()
        dropped = self._growth.of('dropped', self._states_dropped)
        slow = gap_s > WARN_GAP * self._robot.state_timeout_s
        return Part('joint states', f'{rate_hz:.0f} Hz', {
            'rate (Hz)': rate_hz, 'longest gap (ms)': 1e3 * gap_s,
            'dropped': self._states_dropped, 'last drop': self._last_drop},
            warnings=('' if rate_hz else 'none arrive',
                      f'a gap of {1e3 * gap_s:.0f} ms' if slow else '',
                      f'{dropped} dropped: {self._last_drop}' if dropped else ''))

    def policy_part(self, warning_s: float, withheld: str, learner_silent: bool) -> Part:
        """How old the policy is.

        Args:
            warning_s: age that is worth a warning; 0 if no newer one is expected.
            withheld: why the policy may not act, if it may not.
            learner_silent: whether its learner has fallen silent.
        """
        age_s, acceptance = self.policy_age_s, self._intake.acceptance
        refused = self._growth.of('refused', acceptance.refused)
        _, latency_p99 = _percentiles(self._latencies_s, 50, 99)
        return Part('policy', f'version {self._version}', {
            'age (s)': age_s, 'applied': self._loop.count('policies_applied'),
            'refused': acceptance.refused, 'last refusal': acceptance.last_reason,
            'latency p99 (ms)': 1e3 * latency_p99},
            warnings=(f'{age_s:.0f} s old' if warning_s and age_s > warning_s else '',
                      'its learner is silent' if learner_silent else '',
                      f'{refused} refused: {acceptance.last_reason}' if refused else ''),
            errors=(withheld,))
