"""Goals from the topic ``goal`` to the sequence that goes to them, checked on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node

from async_mbrl.collection.collector import Clearance
from async_mbrl.collection.goals import GoalCheck, GoalError, GoalSequence
from async_mbrl.core.robot import ArmConfig
from async_mbrl.ros import qos
from async_mbrl.ros.arm_watch import ArmWatch
from async_mbrl.ros.bounds import subscribe

MOST_BYTES = 4096


class GoalIntake:
    """Subscribe to poses of the tool frame and hand over the ones that the arm can reach."""

    def __init__(self, node: Node, robot: ArmConfig, task: Any, clearance: Clearance,
                 arm: ArmWatch, sequence: GoalSequence, seed: int,
                 taken: Callable[[], None]) -> None:
        """Create the subscription.

        Args:
            node: owner.
            robot: limits, workspace, frame.
            task: its tool points are what a goal is.
            clearance: tells collisions.
            arm: tells where the arm is.
            sequence: takes the goals.
            seed: of the poses that the search for a pose begins at.
            taken: called after each goal that was taken.
        """
        self._node = node
        self._arm = arm
        self._sequence = sequence
        self._taken = taken
        self._check = GoalCheck(robot, task, clearance, seed)
        subscribe(node, PoseStamped, 'goal', self._on_goal, qos.GOAL, maximum_bytes=MOST_BYTES)

    def _on_goal(self, message: PoseStamped) -> None:
        at, turn = message.pose.position, message.pose.orientation
        try:
            goal = self._check.check(
                message.header.frame_id, np.array([at.x, at.y, at.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]), self._arm.position)
        except GoalError as error:
            self._sequence.refuse(str(error))
            self._node.get_logger().warning(f'goal refused: {error}')
            return
        self._node.get_logger().info(
            f'goal {self._sequence.goals + 1}: tool at [{at.x:.3f}, {at.y:.3f}, {at.z:.3f}] m')
        self._sequence.take(goal)
        self._taken()
