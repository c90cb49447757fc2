"""What was really done during a policy step, as opposed to what was asked."""

from __future__ import annotations

import numpy as np

from async_mbrl.core.robot import RobotConfig


class AppliedAction:
    """The normalised action that the commands sent since the start of a step amount to.

    For efforts and velocities it is the mean of what was sent; for positions, which are
    displacements from where the step began, it is where the last one led.
    """

    def __init__(self, robot: RobotConfig, dry_run: bool) -> None:
        """Begin with nothing sent; in a dry run nothing ever is, and every action is 0."""
        joints = robot.joints
        self.intervened = False
        """Whether the filter changed a command since the start of the step."""
        self._dry_run = dry_run
        self._displacement = robot.command_interface == 'position'
        self._scale = np.array(robot.action_scale)
        self._sum = np.zeros(joints)
        self._ticks = 0
        self._from = np.zeros(joints)
        self._last = np.zeros(joints)

    def restart(self, position: np.ndarray) -> None:
        """Begin a step at measured joint positions (n,), rad."""
        self._sum.fill(0.0)
        self._ticks = 0
        self.intervened = False
        if self._displacement:
            self._from[:] = position

    def add(self, sent: np.ndarray, intervened: bool) -> None:
        """Take one command (n,) as it was sent."""
        self._sum += sent
        self._ticks += 1
        if intervened:
            self.intervened = True
        if self._displacement:
            self._last[:] = sent

    def action(self) -> np.ndarray:
        """Give the action (n,); 0 if nothing was sent."""
        if self._ticks == 0 or self._dry_run:
            return np.zeros_like(self._scale)
        if self._displacement:
            return (self._last - self._from) / self._scale
        return self._sum / (self._ticks * self._scale)
