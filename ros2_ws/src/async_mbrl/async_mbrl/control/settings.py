"""What the process of the control loop is started with, and the memory it shares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from async_mbrl.control.histogram import BINS
from async_mbrl.control.mailbox import SharedBlock
from async_mbrl.control.policy import PolicyLayout
from async_mbrl.core.config import load, param, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.tasks import TaskConfig, make_task


@dataclass(frozen=True)
class ControllerSettings:
    """What the controller watches besides the robot, and what it does about it."""

    policy_age_warning_s: float = param('age of the policy in use at which it is reported, s', 60.0,
                                        minimum=0.1)
    policy_age_limit_s: float = param(
        'age of the policy in use at which the arm is held until a newer one comes, s; 0: go on '
        'with the last good policy', 0.0, minimum=0.0)
    learner_timeout_s: float = param(
        'silence of the policy learner that is reported, s', 5.0, minimum=1.0)
    hold_without_learner: bool = param(
        'hold the arm while the policy learner is silent, instead of going on with its last policy',
        False)
    robot_interface_timeout_s: float = param(
        'silence of a robot_interface that still exists after which the arm is held, s', 2.0,
        minimum=0.6)


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the control loop, as handed to its process."""

    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    network: PolicyNetworkConfig = param('the policy network')
    parent: int = param('process id of the parent')
    real_time_factor: float = param('seconds of robot time in a second of wall time', 1.0)
    priority: int = param('of SCHED_FIFO, where allowed; 0 for the plain scheduler', 50,
                          minimum=0, maximum=99)
    dry_run: bool = param('nothing is sent to the arm, so that it does not follow', False)

    @classmethod
    def from_json(cls, content: str) -> LoopSettings:
        """Read settings.

        Raises:
            ConfigError: they do not fit.
        """
        return load(cls, json.loads(content))

    def to_json(self) -> str:
        """Write settings."""
        return json.dumps(to_mapping(self))

    def make_task(self) -> Any:
        """Build the task."""
        return make_task(self.task, self.robot)

    def make_block(self, descriptor: int, task: Any) -> SharedBlock:
        """Map the shared memory: both processes lay it out from these settings."""
        return SharedBlock(
            descriptor, joints=self.robot.joints, states=self.robot.states,
            start_size=self.robot.start_size, observation_size=task.observation_size,
            goal_size=task.goal_size, policy_bytes=PolicyLayout(task, self.network).size,
            histogram_bins=BINS)
