"""Whether an order to run an episode makes sense for a robot and a task."""

from __future__ import annotations

from typing import Any

import numpy as np

from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.transition import EpisodeCommand


def flaw(command: EpisodeCommand, robot: RobotConfig, task: Any) -> str:
    """Say what is wrong with an episode command; empty if nothing is.

    No start pose at all is right: the episode then begins where the robot is, and takes no move.
    """
    pose, goal = command.start_pose, command.goal
    if pose.size:
        wrong = robot.start_flaw(pose, command.move_duration_s)
        if wrong:
            return wrong
    if goal.shape != (task.goal_size,) or not np.isfinite(goal).all():
        return f'goal is not {task.goal_size} finite numbers'
    if command.steps < 1:
        return 'an episode of no steps'
    return ''
