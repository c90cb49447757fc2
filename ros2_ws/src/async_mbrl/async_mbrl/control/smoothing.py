"""Steps of one control period within limits of speed, acceleration and jerk, of what is sent.

Each step begins where the last one ended, so the limits hold for the sequence that is sent: a
trajectory within limits, sampled, has finite differences within the same limits. Steps may be
blended: the states from which joints can still stop in time form a convex set.
"""

from __future__ import annotations

import math

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Ruckig, Synchronization

from async_mbrl.core.robot import ArmConfig

_STANDING = 1e-9


class JerkLimitedSteps:
    """Joint positions, speeds and accelerations as sent, and the steps that may follow."""

    def __init__(self, robot: ArmConfig) -> None:
        """Begin at rest at 0."""
        joints, limits = robot.joints, robot.limits
        self.period_s = 1.0 / robot.control_rate_hz
        """Time of a step, s."""
        self._state = np.zeros((3, joints))
        self.position, self.velocity, self.acceleration = self._state
        """Joint positions sent last (n,), rad, their speeds, rad/s, and accelerations, rad/s^2."""
        self.failures = 0
        """Steps that the generator had no answer to; braking was taken instead."""
        self._zeros = [0.0] * joints
        self._jerk_step = np.array(limits.jerk) * self.period_s
        self._generators = []
        for interface in (ControlInterface.Position, ControlInterface.Velocity):
            asked = InputParameter(joints)
            asked.control_interface = interface
            asked.synchronization = Synchronization.No
            asked.max_velocity = list(limits.velocity)
            asked.max_acceleration = list(limits.acceleration)
            asked.max_jerk = list(limits.jerk)
            asked.target_velocity = asked.target_acceleration = self._zeros
            self._generators.append((Ruckig(joints, self.period_s), asked, OutputParameter(joints)))

    @property
    def standing(self) -> bool:
        """Whether what is sent does not change any more."""
        _, velocity, acceleration = self._state.tolist()
        return (max(map(abs, velocity)) < _STANDING
                and max(map(abs, acceleration)) < _STANDING)

    def begin(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Begin anew at joint positions (n,), rad, and speeds (n,), rad/s."""
        self.position[:] = position
        self.velocity[:] = velocity
        self.acceleration.fill(0.0)

    def towards(self, target: list[float]) -> np.ndarray:
        """Give the step (3, n) towards joint positions (n,), rad, to stand there."""
        generator = self._generators[0]
        generator[1].target_position = target
        step = self._step(generator)
        if step is None:
            self.failures += 1
            return self.braking()
        return step

    def changing_to(self, target: list[float]) -> np.ndarray:
        """Give the step (3, n) towards joint speeds (n,), rad/s, to keep them."""
        generator = self._generators[1]
        generator[1].target_velocity = target
        step = self._step(generator)
        if step is None:
            # Without a plan there is still a way that keeps to the limits: accelerate ever less.
            self.failures += 1
            less = np.clip(self.acceleration, -self._jerk_step, self._jerk_step)
            after = self.acceleration - less
            speed = self.velocity + 0.5 * self.period_s * (self.acceleration + after)
            return np.stack([self.position + self.period_s * self.velocity, speed, after])
        return step

    def braking(self) -> np.ndarray:
        """Give the step (3, n) that brings all joints to rest as fast as the limits allow."""
        return self.changing_to(self._zeros)

    def take(self, step: np.ndarray) -> None:
        """Go on from the end of a step (3, n): positions, speeds, accelerations."""
        self._state[:] = step
        if self.standing:
            self._state[1:] = 0.0

    def _step(self, generator: tuple[Ruckig, InputParameter, OutputParameter]
              ) -> np.ndarray | None:
        otg, asked, given = generator
        (asked.current_position, asked.current_velocity,
         asked.current_acceleration) = self._state.tolist()
        otg.reset()     # what was blended is no step of its own plan
        if otg.update(asked, given).value < 0:
            return None
        step = given.new_position, given.new_velocity, given.new_acceleration
        # A sum is finite where all are.
        return np.array(step) if math.isfinite(sum(map(sum, step))) else None
