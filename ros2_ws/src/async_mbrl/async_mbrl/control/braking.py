"""How fast a joint, or a point of the tool, may be on its way to a limit.

At distance d a thing may be as fast as it can still be stopped in d, a reaction time T before the
brakes bite included: v T + v^2 / (2 a) = d, so v = sqrt((a T)^2 + 2 a d) - a T. Where the speed
passes what is allowed, the acceleration is bounded by (allowed - speed) / R with a ramp time R.
Close to the limit that makes d'' + d' / R + d / (R T) = 0, which hardly overshoots for T = 3 R.
"""

from __future__ import annotations

import numpy as np

from async_mbrl.core.robot import RobotConfig

RAMP_TIME_S = 0.05
"""Least ramp time R: some times the latency of commands, so that it never rattles."""

SENT_RAMP_TIME_S = 0.01
"""The same where the speed is that of what is sent, which is known without latency."""

REACTION_PER_RAMP = 3.0
"""Reaction time T over ramp time R."""

MARGIN_RAD = 0.02
"""Joints are stopped this far before their limits."""


class AllowedSpeed:
    """Greatest speeds towards the limits on both sides of each of some coordinates."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray, braking: np.ndarray,
                 ramp_s: np.ndarray) -> None:
        """Take the limits (n,), the decelerations reached (n,) and the ramp times (n,), s."""
        # Row 0 faces the upper limit, row 1 the lower one; speeds of row 1 are those towards the
        # lower limit, so that one set of operations serves both.
        self.direction = np.array([[1.0], [-1.0]])
        """Sign of each row."""
        self._stops = np.stack([upper, -lower])
        self._braking_twice = 2.0 * braking
        self._lag = braking * REACTION_PER_RAMP * ramp_s
        self._lag_squared = np.square(self._lag)
        self._speed = np.zeros_like(self._stops)

    def at(self, coordinates: np.ndarray) -> np.ndarray:
        """Give the speeds allowed (2, n), at least 0, at coordinates (n,); holds until the next."""
        speed = self._speed
        np.multiply(self.direction, coordinates, out=speed)
        np.subtract(self._stops, speed, out=speed)
        np.maximum(speed, 0.0, out=speed)
        np.multiply(speed, self._braking_twice, out=speed)
        np.add(speed, self._lag_squared, out=speed)
        np.sqrt(speed, out=speed)
        np.subtract(speed, self._lag, out=speed)
        return speed


class JointLimiter:
    """What the limits of a robot's joints mean for what is sent, whatever its interface."""

    def __init__(self, robot: RobotConfig) -> None:
        """Prepare the constants."""
        limits = robot.limits
        self.velocity = np.array(limits.velocity)
        """Greatest speeds (n,), rad/s."""
        acceleration, jerk = np.array(limits.acceleration), np.array(limits.jerk)
        braking = np.array(limits.braking_acceleration)
        effort = np.array(limits.effort)
        self.inertia = effort / braking
        """The model of the arm: one inertia a joint (n,), kg m^2."""
        self.effort = np.minimum(effort, self.inertia * acceleration)
        """Greatest torques (n,), N m, acceleration considered."""
        self.effort_rate = np.minimum(limits.effort_rate, self.inertia * jerk)
        """Fastest changes of torque (n,), N m/s, jerk considered."""
        # Brakes that bite slowly need a wider ramp: twice the time that they take to bite.
        if robot.command_interface == 'effort':
            bite_s = self.effort / self.effort_rate
        else:
            bite_s = acceleration / jerk
        self.ramp_s = np.maximum(RAMP_TIME_S, 2.0 * bite_s)
        """Ramp times (n,), s."""
        self.sent_ramp_s = (self.ramp_s if robot.command_interface == 'effort' else
                            np.maximum(SENT_RAMP_TIME_S, 2.0 * bite_s))
        """Ramp times (n,) where speeds are those of what is sent, s."""
        self.braking = np.minimum(braking, acceleration)
        """Decelerations reached (n,), rad/s^2."""
        self.lower = np.array(limits.position_lower) + MARGIN_RAD
        """Least joint positions to be commanded (n,), rad."""
        self.upper = np.array(limits.position_upper) - MARGIN_RAD
        """Greatest joint positions to be commanded (n,), rad."""
        self._allowed = AllowedSpeed(self.lower, self.upper, self.braking, self.ramp_s)
        self.direction = self._allowed.direction
        """Sign of the rows of allowed speeds: towards the upper limits, towards the lower ones."""

    def allowed_speed(self, position: np.ndarray) -> np.ndarray:
        """Give speeds allowed (2, n) at positions (n,): speed limits and braking distances."""
        speed = self._allowed.at(position)
        return np.minimum(speed, self.velocity, out=speed)
