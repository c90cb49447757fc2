"""What is known of a robot before anything is learned: joints, limits, interface, topics."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.kinematics import KinematicChain


@dataclass(frozen=True)
class JointLimits:
    """Limits that no command may pass, one number a joint. None of them has a default."""

    position_lower: tuple[float, ...] = param('least joint positions, rad')
    position_upper: tuple[float, ...] = param('greatest joint positions, rad')
    velocity: tuple[float, ...] = param('greatest joint speeds, rad/s, above 0', minimum=0.0)
    effort: tuple[float, ...] = param('greatest torques sent to the robot, N m, above 0',
                                      minimum=0.0)
    braking_acceleration: tuple[float, ...] = param(
        'deceleration that the joint reaches under its greatest torque, rad/s^2, above 0',
        minimum=0.0)


@dataclass(frozen=True)
class MoveGains:
    """Joint impedance of moves to a start pose and of holding, one number a joint."""

    stiffness: tuple[float, ...] = param('proportional gain, N m/rad', minimum=0.0)
    damping: tuple[float, ...] = param('derivative gain, N m s/rad', minimum=0.0)
    velocity: tuple[float, ...] = param('greatest planned joint speeds, rad/s, above 0',
                                        minimum=0.0)


@dataclass(frozen=True)
class RobotConfig:
    """A robot as the graph sees it."""

    name: str = param('identifier, e.g. arm7')
    joint_names: tuple[str, ...] = param('joints in the order of actions and commands')
    command_interface: str = param('what the driver takes', choices=('effort', 'velocity',
                                                                     'position'))
    action_scale: tuple[float, ...] = param(
        'command at normalised action 1: N m, rad/s, or rad of displacement from the measured '
        'position; above 0', minimum=0.0)
    home: tuple[float, ...] = param('home pose, rad')
    control_rate_hz: float = param('rate of the control loop, Hz', minimum=10.0, maximum=1000.0)
    gravity_compensated: bool = param('effort 0 keeps the arm where it is')
    state_timeout_s: float = param('age of joint states at which the arm is stopped, s',
                                   minimum=0.005, maximum=0.1)
    limits: JointLimits = param('limits that no command may pass')
    move: MoveGains = param('how moves to a start pose are made')
    kinematics: KinematicChain = param('table for forward kinematics')
    joint_states_topic: str = param('sensor_msgs/JointState from the driver', 'joint_states')
    commands_topic: str = param('std_msgs/Float64MultiArray to the driver', 'commands')

    ROWS: ClassVar[tuple[str, ...]] = ('action_scale', 'home')
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (
        'action_scale', 'limits.velocity', 'limits.effort', 'limits.braking_acceleration',
        'move.velocity')

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if count == 0:
            raise ConfigError('joint_names: at least one joint is needed')
        if len(set(self.joint_names)) != count:
            raise ConfigError(f'joint_names: {list(self.joint_names)} names a joint twice')
        groups: tuple[tuple[str, object, Iterable[str]], ...] = (
            ('', self, self.ROWS), ('limits.', self.limits, vars(self.limits)),
            ('move.', self.move, vars(self.move)))
        for prefix, part, names in groups:
            for name in names:
                length = len(getattr(part, name))
                if length != count:
                    raise ConfigError(
                        f'{prefix}{name}: {length} numbers for {count} joints; give one a joint')
        for key in self.ABOVE_ZERO:
            for name, value in zip(self.joint_names, operator.attrgetter(key)(self), strict=True):
                if not value > 0.0:
                    raise ConfigError(f'{key}: {value} of {name} is not above 0')
        if self.kinematics.joints != count:
            raise ConfigError(f'kinematics: {self.kinematics.joints} joints, but joint_names has '
                              f'{count}')
        for name, low, high, home in zip(self.joint_names, self.limits.position_lower,
                                         self.limits.position_upper, self.home, strict=True):
            if low >= high:
                raise ConfigError(f'limits.position_lower: {low} of {name} is not below '
                                  f'position_upper {high}')
            if not low <= home <= high:
                raise ConfigError(f'home: {home} of {name} is outside [{low}, {high}]')

    @property
    def joints(self) -> int:
        """Number of joints."""
        return len(self.joint_names)
