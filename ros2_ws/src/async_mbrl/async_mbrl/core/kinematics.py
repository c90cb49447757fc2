"""Forward kinematics of points on the tool, from a table, on numpy and torch alike.

The table (:class:`KinematicChain`) is built once from a robot model; evaluating it needs neither
the simulator nor a parser, so the real-time loop, the tasks and the learners share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.core.config import ConfigError, param


@dataclass(frozen=True)
class KinematicChain:
    """A serial chain of revolute joints with points fixed on the last link.

    All arrays are flattened row by row. Joint i turns about ``joint_axes[i]`` through the origin of
    its frame, which stands in the frame of joint i - 1 (the world for i = 0) at
    ``joint_positions[i]`` with orientation ``joint_quaternions[i]`` while the joint reads 0.
    """

    joint_positions: tuple[float, ...] = param('(joints, 3) origins in the parent frame, m')
    joint_quaternions: tuple[float, ...] = param('(joints, 4) orientations, w x y z')
    joint_axes: tuple[float, ...] = param('(joints, 3) unit axes in the joint frame')
    tool_points: tuple[float, ...] = param('(points, 3) points in the frame of the last joint, m')
    tool_frame: tuple[float, ...] = param(
        '(4, 3) origin of the frame of the tool, and ends of its unit axes, in the frame of the '
        'last joint, m; empty: that frame itself', ())

    def __post_init__(self) -> None:
        joints = len(self.joint_axes) // 3
        if joints == 0 or len(self.joint_axes) != 3 * joints:
            raise ConfigError('joint_axes: expected 3 numbers a joint')
        if len(self.joint_positions) != 3 * joints or len(self.joint_quaternions) != 4 * joints:
            raise ConfigError(f'joint_positions, joint_quaternions: expected {joints} rows')
        if not self.tool_points or len(self.tool_points) % 3:
            raise ConfigError('tool_points: expected 3 numbers a point, at least one point')
        if len(self.tool_frame) not in (0, 12):
            raise ConfigError(f'tool_frame: {len(self.tool_frame)} numbers, expected 12 or none')

    @property
    def joints(self) -> int:
        """Number of joints."""
        return len(self.joint_axes) // 3

    @property
    def points(self) -> int:
        """Number of points on the tool."""
        return len(self.tool_points) // 3


class ToolKinematics:
    """Evaluate the tool points of a chain with one array namespace.

    The transform of joint i is linear in (1, sin q, cos q) (Rodrigues' formula), so all joints are
    formed by one broadcast, and the product of the chain is taken as a tree: few, batched
    operations, which is what makes it cheap inside imagined rollouts.
    """

    def __init__(self, chain: KinematicChain, xp: Any = np) -> None:
        """Build the constants.

        Args:
            chain: the table.
            xp: ``numpy`` or ``torch``; decides what :meth:`points` takes and gives.
        """
        joints = chain.joints
        position = np.reshape(chain.joint_positions, (joints, 3))
        rotation = np.stack([_rotation(row) for row in
                             np.reshape(chain.joint_quaternions, (joints, 4))])
        cross = np.stack([_cross(row) for row in np.reshape(chain.joint_axes, (joints, 3))])
        constant, sine, cosine = (np.zeros((joints, 4, 4)) for _ in range(3))
        constant[:, :3, :3] = rotation @ (np.eye(3) + cross @ cross)
        constant[:, :3, 3] = position
        constant[:, 3, 3] = 1.0
        sine[:, :3, :3] = rotation @ cross
        cosine[:, :3, :3] = -rotation @ cross @ cross
        tool = np.ones((4, chain.points))
        tool[:3] = np.reshape(chain.tool_points, (chain.points, 3)).T
        self._xp = xp
        self._joints = joints
        dtype = xp.float64 if xp is np else xp.float32
        self._constant, self._sine, self._cosine, self._tool = (
            xp.asarray(array, dtype=dtype) for array in (constant, sine, cosine, tool))

    @property
    def constants(self) -> tuple[Any, Any, Any, Any]:
        """Parts (joints, 4, 4) of each link's transform: constant, on the sine, on the cosine.

        The fourth are the tool points, homogeneous, (4, points).
        """
        return self._constant, self._sine, self._cosine, self._tool

    def points(self, position: Any) -> Any:
        """Give the tool points for joint positions.

        Args:
            position: (..., joints) joint positions, rad.

        Returns:
            (..., 3 * points) coordinates in the world, m, point by point.
        """
        xp = self._xp
        if xp is np and position.ndim == 1:
            return self._at_once(position)
        angle = position[..., None, None]
        links = self._constant + xp.sin(angle) * self._sine + xp.cos(angle) * self._cosine
        while links.shape[-3] > 1:
            pairs = links.shape[-3] // 2
            product = links[..., 0:2 * pairs:2, :, :] @ links[..., 1:2 * pairs:2, :, :]
            if links.shape[-3] % 2:
                product = xp.concatenate([product, links[..., -1:, :, :]], -3)
            links = product
        world = (links[..., 0, :3, :] @ self._tool)
        return xp.swapaxes(world, -1, -2).reshape(*position.shape[:-1], -1)

    def _at_once(self, position: np.ndarray) -> np.ndarray:
        # One position, as the control loop asks for: what takes time there are not the operations
        # but the calls, and carrying the points through the joints takes the fewest.
        sine, cosine = np.sin(position)[:, None, None], np.cos(position)[:, None, None]
        points = self._tool
        for link in (self._constant + sine * self._sine + cosine * self._cosine)[::-1]:
            points = link.dot(points)
        return points[:3].T.reshape(-1)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])


def _cross(axis: np.ndarray) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
