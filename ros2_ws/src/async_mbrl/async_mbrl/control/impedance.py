"""Joint impedance: how moves and holding become commands of each interface."""

from __future__ import annotations

import numpy as np

from async_mbrl.core.robot import ArmConfig

MOST_ERROR_RAD = 0.3
"""Tracking errors count up to here: a blocked arm is not pushed ever harder."""


class JointImpedance:
    """Springs and dampers between the measured and the wanted joints.

    No joint is pulled harder than by a tracking error of :data:`MOST_ERROR_RAD`, nor, by a position
    interface, sent further than that from where it is.
    """

    def __init__(self, robot: ArmConfig) -> None:
        """Take the gains of a robot's moves."""
        self._interface = robot.command_interface
        self._stiffness = np.array(robot.move.stiffness)
        self._damping = np.array(robot.move.damping)
        # The same closed loop as an overdamped impedance, seen from its slow pole.
        self._pull = self._stiffness / np.maximum(self._damping, 1e-9)
        self._work = np.zeros(robot.joints)

    def command(self, wanted: np.ndarray, wanted_velocity: np.ndarray, position: np.ndarray,
                velocity: np.ndarray, out: np.ndarray) -> None:
        """Write the command (n,), N m, rad/s or rad, to ``out``.

        Args:
            wanted: joint positions to go to (n,), rad.
            wanted_velocity: joint velocities to have (n,), rad/s.
            position: measured (n,), rad.
            velocity: measured (n,), rad/s.
            out: takes the command, before any limit.
        """
        np.subtract(wanted, position, out=out)
        np.minimum(out, MOST_ERROR_RAD, out=out)
        np.maximum(out, -MOST_ERROR_RAD, out=out)
        if self._interface == 'position':
            np.add(position, out, out=out)
            return
        if self._interface == 'velocity':
            np.multiply(out, self._pull, out=out)
            np.add(out, wanted_velocity, out=out)
            return
        work = self._work
        np.multiply(out, self._stiffness, out=out)
        np.subtract(wanted_velocity, velocity, out=work)
        np.multiply(work, self._damping, out=work)
        np.add(out, work, out=out)
