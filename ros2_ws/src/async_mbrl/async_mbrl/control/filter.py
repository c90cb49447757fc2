"""The last thing between a wish and the robot: what leaves here is finite and within limits.

Speed is bounded by braking distance. Towards a joint limit at distance d a joint may be as fast as
it can still be stopped in d, a reaction time T before the brakes bite included:
v T + v^2 / (2 a) = d, so v = sqrt((a T)^2 + 2 a d) - a T, and never faster than its speed limit.
Where the speed passes what is allowed, the bound of the torque goes linearly from greatest torque
through zero to greatest braking torque, over the speed that the brakes take in a ramp time R.
Close to the limit that makes d'' + d' / R + d / (R T) = 0, which hardly overshoots for T = 3 R.
"""

from __future__ import annotations

import math

import numpy as np

from async_mbrl.core.robot import RobotConfig

REACTION_TIME_S = 0.15
"""Delay that braking distances allow for."""

RAMP_TIME_S = 0.05
"""Width of the barrier as a time: some times the latency of commands, so that it never rattles."""

MARGIN_RAD = 0.02
"""Joints are stopped this far before their limits."""

NON_FINITE_LIMIT = 3
"""So many commands in a row that are not finite make a fault."""


class CommandFilter:
    """Bring commands of any interface within the limits of a robot.

    All arrays it gives are its own and hold until the next call.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Prepare the constants of a robot's limits."""
        limits = robot.limits
        joints = robot.joints
        self.interventions = 0
        """Commands changed so far."""
        self.intervened = False
        """Whether the last command was changed."""
        self.non_finite = 0
        """Commands in a row, up to the last one, that were not finite as asked or as limited."""
        self._interface = robot.command_interface
        self._lower = np.array(limits.position_lower)
        self._upper = np.array(limits.position_upper)
        braking = np.array(limits.braking_acceleration)
        velocity = np.array(limits.velocity)
        effort = np.array(limits.effort)
        # Row 0 faces the upper limit, row 1 the lower one; speeds and torques of row 1 are those
        # towards the lower limit, so that one set of operations serves both.
        self._direction = np.array([[1.0], [-1.0]])
        self._stops = np.stack([self._upper - MARGIN_RAD, -(self._lower + MARGIN_RAD)])
        self._braking_twice = 2.0 * braking
        self._lag = braking * REACTION_TIME_S
        self._lag_squared = np.square(self._lag)
        self._velocity = velocity
        self._effort = effort
        self._least_effort = -effort
        self._barrier_gain = effort / np.maximum(braking * RAMP_TIME_S, 1e-9)
        self._step = velocity / robot.control_rate_hz
        self._least_step = -self._step
        self._inner_lower = self._lower + MARGIN_RAD
        self._inner_upper = self._upper - MARGIN_RAD
        self._distance = np.zeros((2, joints))
        self._moving = np.zeros((2, joints))
        self._sent = np.zeros(joints)
        self._bound = np.zeros(joints)
        self._changed = np.zeros(joints, bool)
        self._previous = np.zeros(joints)
        self._zero = np.zeros(joints)
        self._started = False

    @property
    def faulted(self) -> bool:
        """Whether too many commands in a row were not finite."""
        return self.non_finite >= NON_FINITE_LIMIT

    def safe(self, position: np.ndarray) -> np.ndarray:
        """Give the safe command (n,): effort 0, velocity 0, or the measured position (n,), rad."""
        if self._interface == 'position':
            np.maximum(position, self._lower, out=self._sent)
            np.minimum(self._sent, self._upper, out=self._sent)
            self._previous[:] = self._sent
            self._started = True
        else:
            self._sent.fill(0.0)
        return self._sent

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        """Give the command (n,) to send.

        Args:
            command: what is asked (n,), N m, rad/s or rad; may be anything.
            position: measured joint positions (n,), rad, finite.
            velocity: measured joint velocities (n,), rad/s, finite.

        Returns:
            The nearest command within the limits; for one that is not finite, the one nearest to
            the safe command, so that a fast joint is still braked. Where even that is not finite,
            as for measurements that are not, the safe command itself.
        """
        finite = all(map(math.isfinite, command.tolist()))
        if not finite:
            command = position if self._interface == 'position' else self._zero
        sent = self._sent
        if self._interface == 'position':
            self._limit_position(command, position)
        else:
            allowed = self._allowed_speed(position)
            if self._interface == 'effort':
                self._limit_effort(command, velocity, allowed)
            else:
                np.minimum(command, allowed[0], out=sent)
                np.negative(allowed[1], out=self._bound)
                np.maximum(sent, self._bound, out=sent)
        if not all(map(math.isfinite, sent.tolist())):
            finite = False
            self.safe(position)
        self.non_finite = 0 if finite else self.non_finite + 1
        np.not_equal(sent, command, out=self._changed)
        self.intervened = not finite or bool(self._changed.any())
        if self.intervened:
            self.interventions += 1
        return sent

    def _allowed_speed(self, position: np.ndarray) -> np.ndarray:
        speed = self._distance
        np.multiply(self._direction, position, out=speed)
        np.subtract(self._stops, speed, out=speed)
        np.maximum(speed, 0.0, out=speed)
        np.multiply(speed, self._braking_twice, out=speed)
        np.add(speed, self._lag_squared, out=speed)
        np.sqrt(speed, out=speed)
        np.subtract(speed, self._lag, out=speed)
        np.minimum(speed, self._velocity, out=speed)
        return speed

    def _limit_effort(self, command: np.ndarray, velocity: np.ndarray,
                      allowed: np.ndarray) -> None:
        bound, sent = self._moving, self._sent
        np.multiply(self._direction, velocity, out=bound)
        np.subtract(allowed, bound, out=bound)
        np.multiply(bound, self._barrier_gain, out=bound)
        np.minimum(bound, self._effort, out=bound)
        np.maximum(bound, self._least_effort, out=bound)
        np.minimum(command, bound[0], out=sent)
        np.negative(bound[1], out=self._bound)
        np.maximum(sent, self._bound, out=sent)

    def _limit_position(self, command: np.ndarray, position: np.ndarray) -> None:
        sent, previous = self._sent, self._previous
        if not self._started:
            previous[:] = position
            self._started = True
        np.maximum(command, self._inner_lower, out=sent)
        np.minimum(sent, self._inner_upper, out=sent)
        np.subtract(sent, previous, out=sent)
        np.minimum(sent, self._step, out=sent)
        np.maximum(sent, self._least_step, out=sent)
        np.add(previous, sent, out=sent)
        previous[:] = sent
