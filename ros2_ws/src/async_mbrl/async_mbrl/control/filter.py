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
from async_mbrl.core.robot import ArmConfig

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

    def __init__(self, robot: ArmConfig) -> None:
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
        self._lower = np.array(robot.limits.position_lower)
        self._upper = np.array(robot.limits.position_upper)
        self._least, self._most = self._lower.copy(), self._upper.copy()
        self._least_velocity = -limiter.velocity
        self._rate = limiter.effort_rate * self._period_s
        self._per_inertia = 1.0 / limiter.inertia
        # Numbers of the single joints: with so few of them, plain floats are quicker than arrays.
        self._effort_joints = list(zip(
            limiter.effort.tolist(), (limiter.inertia / limiter.ramp_s).tolist(), strict=True))
        # Where only rounding is left to smooth, what is wanted is sent to the last bit.
        self._effort_steps = list(zip(
            self._rate.tolist(), (self._rate + 1e-12 * limiter.effort).tolist(), strict=True))
        self._speeds = limiter.velocity.tolist()
        self._places = list(zip(limiter.lower.tolist(), limiter.upper.tolist(), strict=True))
        self._sent = np.zeros(joints)
        self._asked = np.zeros(joints)
        self._position = np.zeros(joints)
        self._velocity = np.zeros(joints)
        self._wanted = np.zeros(joints)
        self._work = np.zeros(joints)
        self._zero = np.zeros(joints)
        self._rest = [0.0] * joints
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
        """Begin to send, from measured joints (n,), rad and rad/s; finite.

        A position begins where the joint is, also beyond its limits, and only goes inwards from
        there: brought within them at once it would be a step.
        """
        if self._interface == 'effort':
            self._sent.fill(0.0)
            return
        limit = self._limiter.velocity
        speed = np.clip(velocity, -limit, limit) if self._interface == 'velocity' else self._zero
        place = np.clip(position, -_FAR, _FAR)
        np.minimum(self._lower, place, out=self._least)
        np.maximum(self._upper, place, out=self._most)
        self._steps.begin(place, speed)
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
        asked = self._asked.tolist()
        finite = all(map(math.isfinite, asked))
        measured = (_measure(position, self._position) and _measure(velocity, self._velocity))
        self.non_finite = 0 if finite and measured else self.non_finite + 1
        if not finite or not measured:
            self._changes.add(FINITE)
        if not measured:
            self.safe()
        elif self._interface == 'effort':
            self._apply_effort(asked if finite else self._rest)
        elif self._interface == 'velocity':
            self._apply_velocity(asked if finite else self._rest)
        elif finite:
            self._apply_position(asked)
        else:
            self.safe()
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

    def halt(self) -> np.ndarray | None:
        """Give the command (n,) that stops the arm at once, as guard does; needs no measurements.

        None for positions: the driver holds the last one.
        """
        if self._interface == 'effort':
            self._sent.fill(0.0)
        elif self._interface == 'velocity':
            self._steps.begin(self._steps.position, self._zero)
            self._show_steps()
        else:
            return None
        return self._sent

    # ---- interfaces ----

    def _apply_effort(self, asked: list[float]) -> None:
        velocity = self._velocity.tolist()
        allowed = self._limiter.allowed_speed(self._position.tolist())
        wanted, braking = [], []
        for torque, speed, (down, up), (most, gain) in zip(
                asked, velocity, allowed, self._effort_joints, strict=True):
            if not -most <= torque <= most:
                self._changes.add(MAGNITUDE)
                torque = most if torque > 0.0 else -most
            upper, lower = (up - speed) * gain, (-down - speed) * gain
            if torque > upper and torque > -most:
                self._changes.add(BRAKING)
                torque = max(upper, -most)
            if torque < lower and torque < most:
                self._changes.add(BRAKING)
                torque = min(lower, most)
            wanted.append(torque)
            braking.append(min(max(-speed * gain, -most), most))
        self._wanted[:] = wanted
        np.multiply(self._wanted, self._per_inertia, out=self._work)
        share = self._workspace.share(self._position, self._velocity, self._work,
                                      lambda: np.multiply(braking, self._per_inertia))
        if share > 0.0:
            self._changes.add(WORKSPACE)
            wanted = [min(max(torque + share * (brake - torque), -most), most)
                      for torque, brake, (most, _) in zip(wanted, braking, self._effort_joints,
                                                          strict=True)]
        sent = []
        for torque, last, (step, near) in zip(wanted, self._sent.tolist(), self._effort_steps,
                                              strict=True):
            change = torque - last
            if not -near <= change <= near:
                self._changes.add(SMOOTHED)
                torque = last + step if change > 0.0 else last - step
            sent.append(torque)
        self._sent[:] = sent

    def _apply_velocity(self, asked: list[float]) -> None:
        allowed = self._limiter.allowed_speed(self._position.tolist())
        wanted = []
        for speed, (down, up), most in zip(asked, allowed, self._speeds, strict=True):
            if not -most <= speed <= most:
                self._changes.add(MAGNITUDE)
                speed = most if speed > 0.0 else -most
            if not -down <= speed <= up:
                self._changes.add(BRAKING)
                speed = up if speed > 0.0 else -down
            wanted.append(speed)
        self._step(self._steps.changing_to(wanted), self._position)
        self._show_steps()
        self._compare(wanted)

    def _apply_position(self, asked: list[float]) -> None:
        wanted = []
        for place, (lower, upper) in zip(asked, self._places, strict=True):
            if not lower <= place <= upper:
                self._changes.add(MAGNITUDE)
                place = max(min(place, upper), lower)
            wanted.append(place)
        self._step(self._steps.towards(wanted), self._steps.position)
        self._show_steps()
        self._compare(wanted)

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
        sent, steps = self._sent, self._steps
        if self._interface == 'velocity':
            np.minimum(steps.velocity, self._limiter.velocity, out=sent)
            np.maximum(sent, self._least_velocity, out=sent)
        else:
            np.minimum(steps.position, self._most, out=sent)
            np.maximum(sent, self._least, out=sent)

    def _compare(self, wanted: list[float]) -> None:
        for sent, asked in zip(self._sent.tolist(), wanted, strict=True):
            if abs(sent - asked) > 1e-9:
                self._changes.add(SMOOTHED)
                return

    def _count(self) -> None:
        changes, counts = self._changes, self.counts
        self.intervened = bool(changes - {SMOOTHED})
        if self.intervened:
            changes.discard(SMOOTHED)
            counts['interventions'] += 1
        for kind in changes:
            counts[kind] += 1


def _measure(values: np.ndarray, out: np.ndarray) -> bool:
    """Copy measurements, cut where they are far; say whether all are finite."""
    out[:] = values
    numbers = out.tolist()
    if sum(map(abs, numbers)) <= _FAR:      # so none is far, and all are finite
        return True
    if not all(map(math.isfinite, numbers)):
        return False
    np.minimum(out, _FAR, out=out)
    np.maximum(out, -_FAR, out=out)
    return True
