"""What is learned: observation, reward, goal and success, one definition on numpy and torch."""

from __future__ import annotations

from typing import Any

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import RobotConfig
from async_mbrl.tasks.config import TaskConfig
from async_mbrl.tasks.locomotion import Ant, HalfCheetah, Hopper, Swimmer, Walker2d
from async_mbrl.tasks.manipulation import InvertedPendulum, Pusher, Reacher
from async_mbrl.tasks.reach import ReachTask

TASKS: dict[str, Any] = {
    'reach': ReachTask, 'half_cheetah': HalfCheetah, 'hopper': Hopper, 'walker2d': Walker2d,
    'ant': Ant, 'swimmer': Swimmer, 'reacher': Reacher, 'pusher': Pusher,
    'inverted_pendulum': InvertedPendulum}
"""Class of each task, by its identifier."""

__all__ = ['TASKS', 'ReachTask', 'TaskConfig', 'make_task']


def make_task(config: TaskConfig, robot: RobotConfig) -> Any:
    """Build the task that the configuration names, for a robot.

    Raises:
        ConfigError: no such task, or task and robot do not fit.
    """
    if config.name not in TASKS:
        raise ConfigError(f'task.name: no task {config.name!r}; there are: {", ".join(TASKS)}')
    return TASKS[config.name](config, robot)
