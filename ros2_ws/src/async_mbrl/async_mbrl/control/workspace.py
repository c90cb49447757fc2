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
from async_mbrl.core.robot import RobotConfig

MARGIN_M = 0.01
"""Points are stopped this far before the faces: the model of the arm is a simple one."""

_TINY = 1e-9


class WorkspaceBarrier:
    """Says how far what the joints are asked must give way to braking."""

    def __init__(self, robot: RobotConfig, braking_ramp_s: float, ramp_s: float) -> None:
        """Prepare for a robot.

        Args:
            robot: its workspace and kinematics.
            braking_ramp_s: ramp time that braking distances allow for, s.
            ramp_s: time in which the bound of the acceleration goes over to braking, s; no longer.
        """
        workspace, points = robot.workspace, robot.kinematics.points
        lower = np.array(workspace.lower)
        lower[2] = max(lower[2], workspace.minimum_height_m)
        # A box too narrow for the margins still has an inside.
        margin = np.minimum(MARGIN_M, 0.25 * (np.array(workspace.upper) - lower))
        ones = np.ones(3 * points)
        self._allowed = AllowedSpeed(
            np.tile(lower + margin, points), np.tile(np.array(workspace.upper) - margin, points),
            workspace.braking_acceleration * ones, braking_ramp_s * ones)
        self._per_ramp = 1.0 / ramp_s
        self._tool = ToolVelocities(robot.kinematics, 2)
        self._motions = np.zeros((2, robot.joints))
        self._outward = np.zeros((2, 2, 3 * points))
        self._bound = np.zeros((2, 3 * points))

    def share(self, position: np.ndarray, velocity: np.ndarray, wanted: np.ndarray,
              braking: Callable[[], np.ndarray]) -> float:
        """Give the share of braking, from 0 to 1, that keeps the tool inside.

        Args:
            position: joint positions (n,), rad.
            velocity: joint velocities (n,), rad/s.
            wanted: joint accelerations asked for (n,), rad/s^2.
            braking: gives the joint accelerations of braking (n,), rad/s^2; asked only if needed.
        """
        motions, outward, bound = self._motions, self._outward, self._bound
        motions[0] = velocity
        motions[1] = wanted
        points, rates = self._tool.at(position, motions)
        np.multiply(self._allowed.direction, rates[:, None, :], out=outward)
        np.subtract(self._allowed.at(points), outward[0], out=bound)
        np.multiply(bound, self._per_ramp, out=bound)
        excess = np.subtract(outward[1], bound, out=bound)
        if excess.max() <= 0.0:
            return 0.0
        gain = outward[1] - self._allowed.direction * self._tool.along(braking())
        of_use = (excess > 0.0) & (gain > _TINY)
        if not of_use.any():
            return 0.0
        return float(min(1.0, (excess[of_use] / gain[of_use]).max()))
