"""The last thing between a wish and the robot: what leaves here is finite and within limits.

Precedence, highest first: finite, magnitude, rate of change, braking before joint limits, braking
before the limits of the workspace. What that means for each interface is in
docs/explanation/filter.md.
"""

from __future__ import annotations

import math

import numpy as np

from async_mbrl.control.braking import JointLimiter
from async_mbrl.control.smoothing import JerkLimitedSteps
from async_mbrl.control.workspace import WorkspaceBarrier
from async_mbrl.core.robot import RobotConfig

NON_FINITE_LIMIT = 3
"""So many in a row that are not finite make a fault."""

FINITE, MAGNITUDE, BRAKING, WORKSPACE, SMOOTHED = (
    'interventions_finite', 'interventions_magnitude', 'interventions_braking',
    'interventions_workspace', 'smoothed')
COUNTS = ('interventions', FINITE, MAGNITUDE, BRAKING, WORKSPACE, SMOOTHED)
"""Kinds of changes that are counted; a tick at which only the rate was limited is smoothed."""

REJOIN_RAD = 0.05
"""A setpoint that stands still this far from the arm has lost it."""

_FAR = 1e6
"""Measurements are cut here, rad and rad/s, so that no arithmetic overflows."""


class CommandFilter:
    """Bring commands of any interface within the limits of a robot.

    Order of use: :meth:`start` before the first command of a sequence, then one of :meth:`apply`,
    :meth:`brake` and :meth:`safe` a tick. All arrays it gives are its own and hold until the next
    call.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Prepare the constants of a robot's limits."""
        joints = robot.joints
        self.counts = dict.fromkeys(COUNTS, 0)
        """Ticks at which a command was changed, by kind of change."""
        self.intervened = False
        """Whether the last command was changed in any way other than smoothing."""
        self.non_finite = 0
        """Commands in a row, up to the last one, that were not finite as asked, or measurements."""
        self._interface = robot.command_interface
        self._limiter = JointLimiter(robot)
        limiter = self._limiter
        self._workspace = WorkspaceBarrier(robot, float(limiter.ramp_s.max()),
                                           float(limiter.sent_ramp_s.max()))
        self._steps = JerkLimitedSteps(robot)
        self._period_s = self._steps.period_s
        self._least_damping = -np.array(robot.move.damping)
        self._least = np.array(robot.limits.position_lower)
        self._most = np.array(robot.limits.position_upper)
        self._rate = limiter.effort_rate * self._period_s
        self._barrier_gain = limiter.inertia / limiter.ramp_s
        self._per_inertia = 1.0 / limiter.inertia
        self._least_effort = -limiter.effort
        self._sent = np.zeros(joints)
        self._asked = np.zeros(joints)
        self._wanted = np.zeros(joints)
        self._braking = np.zeros(joints)
        self._bound = np.zeros((2, joints))
        self._work = np.zeros(joints)
        self._zero = np.zeros(joints)
        self._changes: set[str] = set()

    @property
    def failures(self) -> int:
        """Steps that the generator of trajectories had no answer to; braked instead."""
        return self._steps.failures

    @property
    def at_safe(self) -> bool:
        """Whether what was sent last is the safe command: no torque, or a standing joint."""
        if self._interface == 'effort':
            return not self._sent.any()
        return self._steps.standing

    def start(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Begin to send, from measured joints (n,), rad and rad/s; finite."""
        if self._interface == 'effort':
            self._sent.fill(0.0)
            return
        limit = self._limiter.velocity
        speed = np.clip(velocity, -limit, limit) if self._interface == 'velocity' else self._zero
        self._steps.begin(np.clip(position, self._least, self._most), speed)
        self._show_steps()

    def rejoin(self, position: np.ndarray) -> None:
        """Move a setpoint that has lost the arm to the measured joints (n,), rad.

        While an arm is stopped its driver may not follow, and somebody may move it. A driver that
        follows again must not pull it back. Only a setpoint that stands still is moved.
        """
        if (self._interface == 'position' and self._steps.standing
                and np.abs(self._sent - position).max() > REJOIN_RAD):
            self.start(position, self._zero)

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        """Give the command (n,) to send.

        Args:
            command: what is asked (n,), N m, rad/s or rad; may be anything.
            position: measured joint positions (n,), rad.
            velocity: measured joint velocities (n,), rad/s.

        Returns:
            The nearest command within the limits; for one that is not finite, the one nearest to
            the safe command, so that a fast joint is still braked. Where measurements are not
            finite, the next on the way to the safe command.
        """
        self._changes.clear()
        self._asked[:] = command
        finite = all(map(math.isfinite, self._asked.tolist()))
        measured = (all(map(math.isfinite, position.tolist()))
                    and all(map(math.isfinite, velocity.tolist())))
        self.non_finite = 0 if finite and measured else self.non_finite + 1
        if not finite or not measured:
            self._changes.add(FINITE)
        if not measured:
            self.safe()
        else:
            position = np.maximum(np.minimum(position, _FAR), -_FAR)
            velocity = np.maximum(np.minimum(velocity, _FAR), -_FAR)
            if self._interface == 'effort':
                self._apply_effort(finite, position, velocity)
            elif self._interface == 'velocity':
                self._apply_velocity(finite, position)
            else:
                self._apply_position(finite)
        self._count()
        return self._sent

    def brake(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Give the command (n,) that brings measured joints (n,), rad and rad/s, to rest."""
        if self._interface != 'effort':
            return self.safe()
        np.maximum(np.minimum(velocity, _FAR), -_FAR, out=self._work)
        np.multiply(self._least_damping, self._work, out=self._work)
        return self.apply(self._work, position, velocity)

    def safe(self) -> np.ndarray:
        """Give the next command (n,) on the way to the safe one; needs no measurements.

        The first is already a step on that way. Torques go to 0 as fast as their rate allows,
        speeds to 0, and positions to a stop, as fast as acceleration and jerk allow.
        """
        if self._interface == 'effort':
            np.maximum(np.minimum(self._sent, self._rate), -self._rate, out=self._work)
            self._sent -= self._work
        else:
            self._steps.take(self._steps.braking())
            self._show_steps()
        return self._sent

    # ---- interfaces ----

    def _apply_effort(self, finite: bool, position: np.ndarray, velocity: np.ndarray) -> None:
        limiter, wanted, bound, braking = self._limiter, self._wanted, self._bound, self._braking
        most, least = limiter.effort, self._least_effort
        wanted[:] = self._asked if finite else 0.0
        self._clip(wanted, least, most, MAGNITUDE)
        np.multiply(limiter.direction, velocity, out=bound)
        np.subtract(limiter.allowed_speed(position), bound, out=bound)
        np.multiply(bound, self._barrier_gain, out=bound)
        np.minimum(bound, most, out=bound)
        np.maximum(bound, least, out=bound)
        np.negative(bound[1], out=bound[1])
        self._clip(wanted, bound[1], bound[0], BRAKING)
        np.multiply(velocity, self._barrier_gain, out=braking)
        np.negative(braking, out=braking)
        np.maximum(np.minimum(braking, most), least, out=braking)
        share = self._workspace.share(position, velocity, wanted * self._per_inertia,
                                      lambda: braking * self._per_inertia)
        if share > 0.0:
            self._changes.add(WORKSPACE)
            wanted += share * (braking - wanted)
        step = self._work
        np.subtract(wanted, self._sent, out=step)
        np.minimum(step, self._rate, out=step)
        np.maximum(step, -self._rate, out=step)
        np.add(self._sent, step, out=step)
        # Where nothing had to be smoothed, what is wanted is sent to the last bit.
        near = np.abs(step - wanted) <= 1e-12 * most
        np.copyto(step, wanted, where=near)
        if not near.all():
            self._changes.add(SMOOTHED)
        np.maximum(np.minimum(step, most), least, out=self._sent)

    def _apply_velocity(self, finite: bool, position: np.ndarray) -> None:
        limiter, wanted = self._limiter, self._wanted
        wanted[:] = self._asked if finite else 0.0
        self._clip(wanted, -limiter.velocity, limiter.velocity, MAGNITUDE)
        allowed = limiter.allowed_speed(position)
        self._clip(wanted, -allowed[1], allowed[0], BRAKING)
        self._step(self._steps.changing_to(wanted), position)
        np.maximum(np.minimum(self._steps.velocity, limiter.velocity), -limiter.velocity,
                   out=self._sent)
        if np.abs(self._sent - wanted).max() > 1e-9:
            self._changes.add(SMOOTHED)

    def _apply_position(self, finite: bool) -> None:
        limiter, wanted, steps = self._limiter, self._wanted, self._steps
        if not finite:
            self.safe()
            return
        wanted[:] = self._asked
        self._clip(wanted, limiter.lower, limiter.upper, MAGNITUDE)
        self._step(steps.towards(wanted), steps.position)
        self._show_steps()
        if np.abs(self._sent - wanted).max() > 1e-9:
            self._changes.add(SMOOTHED)

    # ---- pieces ----

    def _step(self, step: np.ndarray, position: np.ndarray) -> None:
        """Take a step (3, n), blended with braking so that the tool stays in the workspace."""
        steps = self._steps
        braking: list[np.ndarray] = []

        def brake() -> np.ndarray:
            braking.append(steps.braking())
            return braking[0][2]

        share = self._workspace.share(position, steps.velocity, step[2], brake)
        if share > 0.0:
            self._changes.add(WORKSPACE)
            step = step + share * (braking[0] - step)
        steps.take(step)

    def _show_steps(self) -> None:
        if self._interface == 'velocity':
            self._sent[:] = self._steps.velocity
        else:
            np.maximum(np.minimum(self._steps.position, self._most), self._least, out=self._sent)

    def _clip(self, values: np.ndarray, lower: np.ndarray, upper: np.ndarray, kind: str) -> None:
        np.minimum(values, upper, out=self._work)
        np.maximum(self._work, lower, out=self._work)
        # Bytes are compared in no time, but -0.0 is 0.0.
        if self._work.tobytes() != values.tobytes() and (self._work != values).any():
            self._changes.add(kind)
            values[:] = self._work

    def _count(self) -> None:
        changes, counts = self._changes, self.counts
        self.intervened = bool(changes - {SMOOTHED})
        if self.intervened:
            changes.discard(SMOOTHED)
            counts['interventions'] += 1
        for kind in changes:
            counts[kind] += 1
