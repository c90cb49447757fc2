"""Whether an order to run an episode makes sense for a robot and a task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.transition import EpisodeCommand


def flaw(command: EpisodeCommand, robot: RobotConfig, task: Any) -> str:
    """Say what is wrong with an episode command; empty if nothing is.

    No start pose at all is right: the episode then begins where the arm is, and takes no move.
    """
    pose, goal = command.start_pose, command.goal
    if pose.size:
        if pose.shape != (robot.joints,) or not np.isfinite(pose).all():
            return f'start_pose is not {robot.joints} finite numbers'
        if (pose < robot.limits.position_lower).any() or (pose > robot.limits.position_upper).any():
            return 'start_pose is outside the position limits'
        if not (math.isfinite(command.move_duration_s) and command.move_duration_s > 0):
            return f'move_duration_s {command.move_duration_s} is not positive'
    if goal.shape != (task.goal_size,) or not np.isfinite(goal).all():
        return f'goal is not {task.goal_size} finite numbers'
    if command.steps < 1:
        return 'an episode of no steps'
    return ''
