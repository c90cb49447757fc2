"""What the process of the control loop is started with, and the memory it shares."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from async_mbrl.control.histogram import BINS
from async_mbrl.control.mailbox import SharedBlock
from async_mbrl.control.policy import PolicyLayout
from async_mbrl.core.config import ConfigError, load, param, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import ArmConfig, RobotConfig
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


TELEOP = 'teleop'
"""Node that takes over by a joystick."""


@dataclass(frozen=True)
class TakeoverSettings:
    """Who may act instead of the policy in learning episodes, and how a joystick does."""

    node: str = param(
        'name of the node whose messages on takeover are obeyed; teleop: a joystick, by a node of '
        'the run; empty: nobody may take over', '')
    deadman_button: int = param('button of the joystick that must be held to take over', 4,
                                minimum=0)
    mode: str = param('tool: three axes move the tool along x, y and z of the base; joints: axis i '
                      'gives the action of joint i', 'tool', choices=('tool', 'joints'))
    axes: tuple[int, ...] = param('axes of the joystick, in the order of what they move; -1: none',
                                  (1, 0, 4), minimum=-1)
    scale: tuple[float, ...] = param(
        'what full deflection asks for, m/s of the tool or normalised action, one a listed axis or '
        'one for all; negative: the other way', (0.1,), minimum=-1.0, maximum=1.0)
    deadzone: float = param('share of the deflection that counts as none', 0.1, minimum=0.0,
                            maximum=0.9)
    damping: float = param('of the inverse of the Jacobian, m/rad: greater is slower near singular '
                           'poses', 0.05, minimum=0.001, maximum=1.0)
    rate_hz: float = param('messages sent while the button is held, Hz, robot time; the policy '
                           'rate where that is higher', 50.0, minimum=10.0, maximum=500.0)

    def __post_init__(self) -> None:
        if self.node and not re.fullmatch('[A-Za-z_][A-Za-z0-9_]*', self.node):
            raise ConfigError(f'node: {self.node[:40]!r} is not the name of a node')
        if not self.axes:
            raise ConfigError('axes: none given')
        if len(self.scale) not in (1, len(self.axes)):
            raise ConfigError(f'scale: {len(self.scale)} numbers for {len(self.axes)} axes; give '
                              'one for all, or one each')
        if self.mode == 'tool' and len(self.axes) != 3:
            raise ConfigError(f'axes: {len(self.axes)} of them, but a tool is moved by 3: along x, '
                              'y and z')

    def flaw(self, robot: RobotConfig) -> str:
        """Say why a robot cannot be moved so; empty if it can."""
        if self.mode == 'tool' and not isinstance(robot, ArmConfig):
            return (f'takeover.mode: tool, but robot {robot.name} is no arm whose kinematics is '
                    'known; use joints')
        if self.mode == 'joints' and len(self.axes) > robot.joints:
            return (f'takeover.axes: {len(self.axes)} axes for the {robot.joints} joints of '
                    f'{robot.name}')
        return ''


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
