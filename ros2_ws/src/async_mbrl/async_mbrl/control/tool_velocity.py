"""Tool points and their velocities for given joint velocities, quick enough for every tick."""

from __future__ import annotations

import numpy as np

from async_mbrl.core.kinematics import KinematicChain, ToolKinematics


class ToolVelocities:
    """Points on the tool, and how they move, at one joint position after the other.

    Points and velocities go from the frame of one joint to that of the one before it together
    (dual numbers, as in forward differentiation)::

        [x]     [T      0] [x]
        [v]  <- [q' T'  R] [v]

    with the transform T of the joint, its derivative T', its rotation R and the speed q' of the
    joint. So it takes one small product a joint, and no Jacobian. The matrices are linear in
    (1, sin q, cos q, q' cos q, q' sin q), as the transforms are in (1, sin q, cos q). All arrays
    are made once.
    """

    def __init__(self, chain: KinematicChain) -> None:
        """Prepare for a chain."""
        joints = chain.joints
        constant, sine, cosine, tool = ToolKinematics(chain).constants
        parts = np.zeros((joints, 5, 7, 7))
        for part, transform in enumerate((constant, sine, cosine)):
            parts[:, part, :4, :4] = transform
            parts[:, part, 4:, 4:] = transform[:, :3, :3]
        parts[:, 3, 4:, :4] = sine[:, :3]
        parts[:, 4, 4:, :4] = -cosine[:, :3]
        self._parts = parts.reshape(joints, 5, 49)
        self._factors = np.ones((joints, 1, 5))
        self._sine, self._cosine, self._fast_cosine, self._fast_sine = (
            self._factors[:, 0, i] for i in range(1, 5))
        self._matrices = np.zeros((joints, 1, 49))
        tool = np.concatenate([tool, np.zeros((3, chain.points))])
        frames = [*np.zeros((joints, 7, chain.points)), tool]
        self._world = frames[0]
        steps = zip(self._matrices.reshape(joints, 7, 7), frames[1:], frames[:-1], strict=True)
        self._steps = list(steps)[::-1]

    def at(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Evaluate.

        Args:
            position: joint positions (n,), rad.
            velocity: joint velocities (n,), rad/s.

        Returns:
            An array (7, points) that holds until the next call: x, y, z of the points, m, a row of
            ones, and the velocities in x, y, z, m/s.
        """
        np.sin(position, out=self._sine)
        np.cos(position, out=self._cosine)
        np.multiply(velocity, self._cosine, out=self._fast_cosine)
        np.multiply(velocity, self._sine, out=self._fast_sine)
        np.matmul(self._factors, self._parts, out=self._matrices)
        for matrix, after, before in self._steps:
            matrix.dot(after, before)
        return self._world
