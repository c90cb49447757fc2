"""Tool points and their velocities for given joint velocities, quick enough for every tick."""

from __future__ import annotations

import numpy as np

from async_mbrl.core.kinematics import KinematicChain, ToolKinematics


class ToolVelocities:
    """Points on the tool, and how they move, at one joint position after the other.

    The joints of a chain are screws; a combination of screws is a screw again, so the velocities of
    all points follow from one product once the screws are known. All arrays are made once.
    """

    def __init__(self, chain: KinematicChain, directions: int) -> None:
        """Prepare for a chain and a number of joint velocities at each position."""
        joints, points = chain.joints, chain.points
        constant, sine, cosine, tool = ToolKinematics(chain).constants
        self._parts = np.stack([constant, sine, cosine], 1).reshape(joints, 3, 16)
        self._factors = np.ones((joints, 1, 3))
        self._sine, self._cosine = self._factors[:, 0, 1], self._factors[:, 0, 2]
        self._links = np.zeros((joints, 1, 16))
        self._frames = np.zeros((joints, 4, 4))
        links = self._links.reshape(joints, 4, 4)
        self._chain = [(self._frames[i], links[i + 1], self._frames[i + 1])
                       for i in range(joints - 1)]
        self._first = (self._frames[0], links[0])
        self._tool = tool
        self._last = self._frames[-1]
        axes = np.reshape(chain.joint_axes, (joints, 3))
        self._axes = (axes / np.linalg.norm(axes, axis=1, keepdims=True))[:, :, None]
        self._rotations = self._frames[:, :3, :3]
        self._screws = np.zeros((joints, 6))
        self._turns = self._screws[:, :3, None]
        origin, screws = self._frames[:, :3, 3], self._screws
        self._moments = [
            (screws[:, 3 + i], origin[:, j], screws[:, k], origin[:, k], screws[:, j])
            for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1))]
        self._work = np.zeros(joints)
        self._world = np.zeros((4, points))
        # Velocity of a point of a screw (turn w, moment m): w x p + m, as a product with (w, m).
        self._lever = np.zeros((6, points, 3))
        self._lever[3:] = np.eye(3)[:, None, :]
        self._product = self._lever.reshape(6, 3 * points)
        self._levers = [(self._lever[i, :, j], sign, self._world[k])
                        for i, j, k, sign in ((0, 1, 2, -1), (0, 2, 1, 1), (1, 0, 2, 1),
                                              (1, 2, 0, -1), (2, 0, 1, -1), (2, 1, 0, 1))]
        self._combined = np.zeros((directions, 6))
        self._points = np.zeros((points, 3))
        self._coordinates = self._points.reshape(-1)
        self._rates = np.zeros((directions, 3 * points))

    def at(self, position: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate.

        Args:
            position: joint positions (n,), rad.
            velocities: joint velocities (directions, n), rad/s.

        Returns:
            The points (3 * points,), m, and their velocities (directions, 3 * points), m/s; both
            hold until the next call.
        """
        np.sin(position, out=self._sine)
        np.cos(position, out=self._cosine)
        np.matmul(self._factors, self._parts, out=self._links)
        frame, link = self._first
        frame[:] = link
        for before, link, after in self._chain:
            before.dot(link, after)
        np.matmul(self._rotations, self._axes, out=self._turns)
        work = self._work
        for moment, a, b, c, d in self._moments:
            np.multiply(a, b, out=moment)
            np.multiply(c, d, out=work)
            np.subtract(moment, work, out=moment)
        self._last.dot(self._tool, self._world)
        self._points[:] = self._world[:3].T
        for entry, sign, coordinate in self._levers:
            np.multiply(sign, coordinate, out=entry)
        velocities.dot(self._screws, self._combined)
        self._combined.dot(self._product, self._rates)
        return self._coordinates, self._rates

    def along(self, velocity: np.ndarray) -> np.ndarray:
        """Give the velocities (3 * points,), m/s, of the points for one more joint velocity (n,).

        The position is that of the last call of :meth:`at`.
        """
        return velocity.dot(self._screws).dot(self._product)
