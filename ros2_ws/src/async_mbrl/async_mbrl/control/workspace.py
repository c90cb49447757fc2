"""Keeps the points of the tool inside a box and above a height, whatever the joints are asked.

The joints are asked for accelerations, and could brake instead. The outward acceleration of each
point at each face is bounded by its braking distance (:mod:`async_mbrl.control.braking`). Where the
accelerations asked for pass a bound, they are blended with those of braking just so far that they
no longer do. Inward motion and inward accelerations are never blended.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from async_mbrl.control.braking import AllowedSpeed
from async_mbrl.control.tool_velocity import ToolVelocities
from async_mbrl.core.robot import ArmConfig

MARGIN_M = 0.01
"""Points are stopped this far before the faces: the model of the arm is a simple one."""

_TINY = 1e-9


class WorkspaceBarrier:
    """Says how far what the joints are asked must give way to braking."""

    def __init__(self, robot: ArmConfig, braking_ramp_s: float, ramp_s: float) -> None:
        """Prepare for a robot.

        Args:
            robot: its workspace and kinematics.
            braking_ramp_s: ramp time that braking distances allow for, s.
            ramp_s: time in which the bound of the acceleration goes over to braking, s; no longer.
        """
        workspace = robot.workspace
        lower, upper = np.array(workspace.lower), np.array(workspace.upper)
        lower[2] = max(lower[2], workspace.minimum_height_m)
        # A box too narrow for the margins still has an inside.
        margin = np.minimum(MARGIN_M, 0.25 * (upper - lower))
        self._box = list(zip((lower + margin).tolist(), (upper - margin).tolist(), strict=True))
        self._allowed = AllowedSpeed(workspace.braking_acceleration, braking_ramp_s)
        self._ramp_s = ramp_s
        self._tool = ToolVelocities(robot.kinematics)
        self._motion = np.zeros(robot.joints)

    def share(self, position: np.ndarray, velocity: np.ndarray, wanted: np.ndarray,
              braking: Callable[[], np.ndarray]) -> float:
        """Give the share of braking, from 0 to 1, that keeps the tool inside.

        Args:
            position: joint positions (n,), rad.
            velocity: joint velocities (n,), rad/s.
            wanted: joint accelerations asked for (n,), rad/s^2.
            braking: gives the joint accelerations of braking (n,), rad/s^2; asked only if needed.
        """
        # acceleration > (allowed - velocity) / R is velocity + R acceleration > allowed, and both
        # are linear in those of the joints: one speed says it all.
        motion, ramp_s = self._motion, self._ramp_s
        np.multiply(wanted, ramp_s, out=motion)
        np.add(motion, velocity, out=motion)
        world = self._tool.at(position, motion).tolist()
        allowed = self._allowed.at
        outside = []
        for axis, (lower, upper) in enumerate(self._box):
            for point, (place, speed) in enumerate(zip(world[axis], world[4 + axis], strict=True)):
                excess = (speed - allowed(upper - place) if speed > 0.0 else
                          -speed - allowed(place - lower))
                if excess > 0.0:
                    outside.append((axis, point, speed > 0.0, excess))
        if not outside:
            return 0.0
        relief = self._tool.at(position, wanted - braking())
        share = 0.0
        for axis, point, upwards, excess in outside:
            gain = relief[4 + axis, point] if upwards else -relief[4 + axis, point]
            if gain > _TINY:
                share = max(share, excess / (ramp_s * gain))
        return min(1.0, float(share))
