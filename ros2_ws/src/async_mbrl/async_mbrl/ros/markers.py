"""What a viewer shows of the task: goal, tool points, workspace, and the frame of the tool."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from async_mbrl.collection.goals import ToolFrame
from async_mbrl.core.robot import ArmConfig
from async_mbrl.ros import qos

_GOAL = ColorRGBA(r=0.05, g=0.66, b=0.33, a=0.85)
_TOOL = ColorRGBA(r=0.05, g=0.48, b=0.86, a=1.0)
_BOX = ColorRGBA(r=0.5, g=0.5, b=0.5, a=0.8)
_SPHERE_M, _LINE_M = 0.03, 0.005


class Markers:
    """Publish ``markers`` and ``/tf``; cheap where nobody looks."""

    def __init__(self, node: Node, robot: ArmConfig, tool_points: ToolFrame) -> None:
        """Create the publishers.

        Args:
            node: owner.
            robot: names the frames.
            tool_points: gives the pose of the tool.
        """
        self._frame = robot.base_frame
        self._tool_frame = f'{robot.name}_tool'
        self._tool = tool_points
        self._markers = node.create_publisher(MarkerArray, 'markers', qos.STATUS)
        self._transforms = node.create_publisher(TFMessage, '/tf', qos.TRANSFORMS)
        space = robot.workspace
        lower = np.maximum(space.lower, [-np.inf, -np.inf, space.minimum_height_m])
        self._box = self._marker('workspace', Marker.LINE_LIST, _BOX, _LINE_M,
                                 _edges(lower, np.asarray(space.upper)))

    def publish(self, stamp: Time, position: np.ndarray, points: np.ndarray,
                goal: np.ndarray | None) -> None:
        """Show where the tool is, and where it is to go.

        Args:
            stamp: ROS time.
            position: joints (n,), rad.
            points: tool points (3p,), m.
            goal: the same of the goal, None where there is none.
        """
        origin, rotation = self._tool.pose(position)
        x, y, z, w = quaternion(rotation)
        transform = TransformStamped(
            child_frame_id=self._tool_frame,
            transform=Transform(translation=Vector3(x=origin[0], y=origin[1], z=origin[2]),
                                rotation=Quaternion(x=x, y=y, z=z, w=w)))
        transform.header.frame_id, transform.header.stamp = self._frame, stamp
        self._transforms.publish(TFMessage(transforms=[transform]))
        if not self._markers.get_subscription_count():
            return
        markers = [self._box, self._marker('tool', Marker.SPHERE_LIST, _TOOL, _SPHERE_M, points)]
        if goal is None:
            goal_marker = self._marker('goal', Marker.SPHERE_LIST, _GOAL, _SPHERE_M, np.zeros(0))
            goal_marker.action = Marker.DELETE
        else:
            goal_marker = self._marker('goal', Marker.SPHERE_LIST, _GOAL, _SPHERE_M, goal)
        markers.append(goal_marker)
        for marker in markers:
            marker.header.stamp = stamp
        self._markers.publish(MarkerArray(markers=markers))

    def _marker(self, name: str, kind: int, colour: ColorRGBA, size_m: float,
                points: np.ndarray) -> Marker:
        marker = Marker(ns=name, type=kind, action=Marker.ADD, color=colour, points=[
            Point(x=x, y=y, z=z) for x, y, z in np.reshape(points, (-1, 3)).tolist()])
        marker.pose.orientation.w = 1.0
        marker.scale = Vector3(x=size_m, y=size_m, z=size_m)
        marker.header.frame_id = self._frame
        return marker


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Give the unit quaternion x, y, z, w of a rotation matrix (3, 3)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    # The columns of 4 q q^T; the one of the largest component is the best conditioned.
    columns = np.array([
        [1 + xx - yy - zz, yx + xy, zx + xz, zy - yz],
        [yx + xy, 1 - xx + yy - zz, zy + yz, xz - zx],
        [zx + xz, zy + yz, 1 - xx - yy + zz, yx - xy],
        [zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz]])
    best = columns[:, int(np.argmax(np.diag(columns)))]
    x, y, z, w = (best / np.linalg.norm(best)).tolist()
    return x, y, z, w


def _edges(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Give the ends (24, 3) of the edges of a box."""
    corners = np.array([[x, y, z] for x in (lower[0], upper[0]) for y in (lower[1], upper[1])
                        for z in (lower[2], upper[2])])
    return np.array([corner for first in range(8) for bit in (1, 2, 4) if not first & bit
                     for corner in (corners[first], corners[first | bit])])
