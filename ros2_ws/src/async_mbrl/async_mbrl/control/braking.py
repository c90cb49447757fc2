"""How fast a joint, or a point of the tool, may be on its way to a limit.

At distance d a thing may be as fast as it can still be stopped in d, a reaction time T before the
brakes bite included: v T + v^2 / (2 a) = d, so v = sqrt((a T)^2 + 2 a d) - a T. Where the speed
passes what is allowed, the acceleration is bounded by (allowed - speed) / R with a ramp time R.
Close to the limit that makes d'' + d' / R + d / (R T) = 0, which hardly overshoots for T = 3 R.
"""

from __future__ import annotations

import math

import numpy as np

from async_mbrl.core.robot import ArmConfig

RAMP_TIME_S = 0.05
"""Least ramp time R: some times the latency of commands, so that it never rattles."""

SENT_RAMP_TIME_S = 0.01
"""The same where the speed is that of what is sent, which is known without latency."""

REACTION_PER_RAMP = 3.0
"""Reaction time T over ramp time R."""

MARGIN_RAD = 0.02
"""Joints are stopped this far before their limits."""


class AllowedSpeed:
    """Greatest speed towards a limit, of its distance.

    On plain floats: a handful of them is done before numpy has begun.
    """

    def __init__(self, braking: float, ramp_s: float) -> None:
        """Take the deceleration reached, rad/s^2 or m/s^2, and the ramp time, s."""
        self._braking_twice = 2.0 * braking
        self._lag = braking * REACTION_PER_RAMP * ramp_s
        self._lag_squared = self._lag * self._lag

    def at(self, distance: float) -> float:
        """Give the speed allowed, rad/s or m/s, at least 0, at a distance, rad or m."""
        if distance <= 0.0:
            return 0.0
        return math.sqrt(self._lag_squared + self._braking_twice * distance) - self._lag

    def distance(self, speed: float) -> float:
        """Give the distance, rad or m, from which on a speed, rad/s or m/s, is allowed."""
        return speed * (speed + 2.0 * self._lag) / self._braking_twice


class JointLimiter:
    """What the limits of a robot's joints mean for what is sent, whatever its interface."""

    def __init__(self, robot: ArmConfig) -> None:
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
        # Where the distance allows the greatest speed anyway there is no root to take.
        self._joints = []
        for lower, upper, speed, *reached in zip(
                self.lower.tolist(), self.upper.tolist(), self.velocity.tolist(),
                self.braking.tolist(), self.ramp_s.tolist(), strict=True):
            allowed = AllowedSpeed(*reached)
            self._joints.append((lower, upper, speed, allowed.distance(speed), allowed.at))

    def allowed_speed(self, position: list[float]) -> list[tuple[float, float]]:
        """Give the speeds allowed at positions (n,): limits of speed and braking distances.

        Returns:
            For each joint the speeds towards its lower and its upper limit, at least 0, rad/s.
        """
        speeds = []
        for angle, (lower, upper, speed, free, allowed) in zip(position, self._joints,
                                                               strict=True):
            down, up = angle - lower, upper - angle
            speeds.append((speed if down >= free else min(speed, allowed(down)),
                           speed if up >= free else min(speed, allowed(up))))
        return speeds
