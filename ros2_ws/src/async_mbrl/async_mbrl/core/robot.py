"""What is known of a robot before anything is learned: joints, limits, interface, topics."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.kinematics import KinematicChain


@dataclass(frozen=True)
class JointLimits:
    """Limits that no command may pass, one number a joint. None of them has a default."""

    position_lower: tuple[float, ...] = param('least joint positions, rad')
    position_upper: tuple[float, ...] = param('greatest joint positions, rad')
    velocity: tuple[float, ...] = param('greatest joint speeds, rad/s, above 0', minimum=0.0)
    acceleration: tuple[float, ...] = param('greatest joint accelerations, rad/s^2, above 0',
                                            minimum=0.0)
    jerk: tuple[float, ...] = param('greatest joint jerks, rad/s^3, above 0', minimum=0.0)
    effort: tuple[float, ...] = param('greatest torques sent to the robot, N m, above 0',
                                      minimum=0.0)
    effort_rate: tuple[float, ...] = param('fastest change of torques sent, N m/s, above 0',
                                           minimum=0.0)
    braking_acceleration: tuple[float, ...] = param(
        'deceleration that the joint reaches under its greatest torque, rad/s^2, above 0',
        minimum=0.0)


@dataclass(frozen=True)
class WorkspaceLimits:
    """Where the tool points may be, in the base frame. None of it has a default."""

    lower: tuple[float, ...] = param('least x, y, z of the tool points, m')
    upper: tuple[float, ...] = param('greatest x, y, z of the tool points, m')
    minimum_height_m: float = param('least z of the tool points, m; e.g. of a table and a margin')
    braking_acceleration: float = param(
        'deceleration of the tool that the arm reaches anywhere in the box, m/s^2, above 0',
        minimum=0.0)

    def __post_init__(self) -> None:
        if len(self.lower) != 3 or len(self.upper) != 3:
            raise ConfigError('workspace: lower and upper take 3 numbers each: x, y, z')
        for axis, low, high in zip('xyz', self.lower, self.upper, strict=True):
            if low >= high:
                raise ConfigError(f'workspace.lower: {low} of {axis} is not below upper {high}')
        if self.minimum_height_m >= self.upper[2]:
            raise ConfigError(f'workspace.minimum_height_m: {self.minimum_height_m} is not below '
                              f'upper z {self.upper[2]}')
        if not self.braking_acceleration > 0.0:
            raise ConfigError('workspace.braking_acceleration: '
                              f'{self.braking_acceleration} is not above 0')


MOST_MOVE_S = 600.0
"""A move to a start pose may take so long."""

LEAST = ('position_lower', 'lower', 'minimum_height_m')
"""Limits that are the tighter the greater they are."""

Limits = TypeVar('Limits', JointLimits, WorkspaceLimits)


def tighten(limits: Limits, other: Limits, names: Sequence[str]) -> tuple[Limits, tuple[str, ...]]:
    """Take the tighter one of each limit; never the looser.

    Args:
        limits: those that are tightened.
        other: those that may be tighter.
        names: of the joints or axes that the numbers of each limit belong to.

    Returns:
        The limits, and what was tightened, as text for each number.

    Raises:
        ConfigError: one has another number of joints, or what is left of a workspace is empty.
    """
    found: dict[str, Any] = {}
    changes = []
    for field in dataclasses.fields(limits):
        key, choose = field.name, max if field.name in LEAST else min
        before, by = getattr(limits, key), getattr(other, key)
        if not isinstance(before, tuple):
            found[key] = choose(before, by)
            if found[key] != before:
                changes.append(f'{key} {before:g} -> {by:g}')
            continue
        if len(by) != len(names):
            raise ConfigError(f'{key}: {len(by)} numbers for {len(names)}; give one each')
        found[key] = tuple(map(choose, before, by))
        changes += [f'{key} of {name} {old:g} -> {new:g}' for name, old, new in zip(
            names, before, by, strict=True) if choose(old, new) != old]
    return dataclasses.replace(limits, **found), tuple(changes)


def _duration_flaw(duration_s: float) -> str:
    """Say what is wrong with the time to get to a start, s; empty if nothing is."""
    if not 0.0 < duration_s <= MOST_MOVE_S:
        return f'move_duration_s {duration_s} is not above 0 and at most {MOST_MOVE_S:g}'
    return ''


@dataclass(frozen=True)
class MoveGains:
    """Joint impedance of moves to a start pose and of holding, one number a joint."""

    stiffness: tuple[float, ...] = param('proportional gain, N m/rad', minimum=0.0)
    damping: tuple[float, ...] = param('derivative gain, N m s/rad', minimum=0.0)
    velocity: tuple[float, ...] = param('greatest planned joint speeds, rad/s, above 0',
                                        minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """A robot as the graph sees it: what arms and benchmark bodies have in common.

    A mapping is loaded as :class:`ArmConfig` or :class:`BenchmarkConfig`, by its ``kind``.
    """

    name: str = param('identifier, e.g. arm7')
    kind: str = param('arm: an arm, real or simulated; benchmark: a body that exists only in '
                      'simulation', 'arm', choices=('arm', 'benchmark'))
    joint_names: tuple[str, ...] = param('joints in the order of actions and commands')
    command_interface: str = param('what the driver takes', choices=('effort', 'velocity',
                                                                     'position'))
    action_scale: tuple[float, ...] = param(
        'command at normalised action 1: N m, rad/s, or rad of displacement from the measured '
        'position; above 0', minimum=0.0)
    control_rate_hz: float = param('rate of the control loop, Hz', minimum=10.0, maximum=1000.0)
    state_timeout_s: float = param('age of joint states at which the robot is stopped, s',
                                   minimum=0.005, maximum=0.1)
    model: str = param('MJCF or URDF, for kinematics, collisions and simulation: a name in the '
                       'sim/ folder of the package, a path, or gymnasium: and the name of one of '
                       'its MuJoCo models')
    policy_blend_s: float = param('time over which a new policy takes over, s', 0.2, minimum=0.0,
                                  maximum=5.0)
    joint_states_topic: str = param('sensor_msgs/JointState from the driver', 'joint_states')
    commands_topic: str = param('topic on which the driver takes commands', 'commands')
    command_adapter: str = param(
        'forward: std_msgs/Float64MultiArray, as forward command and joint group controllers take; '
        'joint_trajectory: trajectory_msgs/JointTrajectory of one point, streamed, as the '
        'JointTrajectoryController takes, position interface only', 'forward',
        choices=('forward', 'joint_trajectory'))
    command_joint_names: tuple[str, ...] = param(
        'joints in the order in which the driver takes them; empty: that of joint_names', ())
    trajectory_rate_hz: float = param('points streamed a second by joint_trajectory, Hz', 100.0,
                                      minimum=10.0, maximum=1000.0)
    trajectory_horizon_s: float = param('time from now at which a streamed point is to be reached, '
                                        's', 0.03, minimum=0.002, maximum=1.0)
    controller_manager: str = param('name of the controller_manager of ros2_control, e.g. '
                                    '/controller_manager; empty: there is none', '')
    controllers: tuple[str, ...] = param('ros2_control controllers that take our commands', ())
    other_controllers: tuple[str, ...] = param(
        'ros2_control controllers that use the same joints otherwise: deactivated while ours are '
        'active, given back at the end', ())

    @classmethod
    def variant(cls, mapping: Mapping[str, Any]) -> type[RobotConfig]:
        """Choose the class by the kind of robot.

        Raises:
            ConfigError: there is no such kind.
        """
        kinds: dict[str, type[RobotConfig]] = {'arm': ArmConfig, 'benchmark': BenchmarkConfig}
        kind = mapping.get('kind', 'arm')
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f'kind: {str(kind)[:40]!r} is not one of {", ".join(kinds)}')
        return kinds[kind]

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if count == 0:
            raise ConfigError('joint_names: at least one joint is needed')
        if len(set(self.joint_names)) != count:
            raise ConfigError(f'joint_names: {list(self.joint_names)} names a joint twice')
        self._check_rows(('action_scale',))
        self._check_above_zero(('action_scale',))
        if self.command_adapter == 'joint_trajectory' and self.command_interface != 'position':
            raise ConfigError(f'command_adapter: joint_trajectory takes positions, but '
                              f'command_interface is {self.command_interface}')
        if self.command_joint_names and set(self.command_joint_names) != set(self.joint_names):
            raise ConfigError(f'command_joint_names: {list(self.command_joint_names)} are not the '
                              f'joints of joint_names in some order, {list(self.joint_names)}')
        if self.controller_manager and not self.controllers:
            raise ConfigError(f'controllers: none given, but controller_manager is '
                              f'{self.controller_manager}; name those that take the commands')

    @property
    def joints(self) -> int:
        """Number of joints that are commanded."""
        return len(self.joint_names)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all that the driver reports and the task observes, in its order."""
        raise NotImplementedError

    @property
    def states(self) -> int:
        """How many positions, and velocities, the driver reports."""
        return len(self.state_names)

    @property
    def start_size(self) -> int:
        """Numbers of what an episode starts from."""
        raise NotImplementedError

    def start_flaw(self, start: np.ndarray, duration_s: float) -> str:
        """Say what is wrong with what an episode is to start from; empty if nothing is."""
        raise NotImplementedError

    @property
    def command_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest commands (n,) that the driver may be sent, N m, rad/s or rad."""
        raise NotImplementedError

    @property
    def most_speed(self) -> tuple[float, ...]:
        """Speeds (states,) that measured joints do not exceed, rad/s; inf where any may be."""
        raise NotImplementedError

    def _check_rows(self, keys: Iterable[str]) -> None:
        for key in keys:
            length = len(operator.attrgetter(key)(self))
            if length != self.joints:
                raise ConfigError(
                    f'{key}: {length} numbers for {self.joints} joints; give one a joint')

    def _check_above_zero(self, keys: Iterable[str]) -> None:
        for key in keys:
            for name, value in zip(self.joint_names, operator.attrgetter(key)(self), strict=True):
                if not value > 0.0:
                    raise ConfigError(f'{key}: {value} of {name} is not above 0')


@dataclass(frozen=True, kw_only=True)
class ArmConfig(RobotConfig):
    """An arm: a serial chain of joints that carries a tool."""

    home: tuple[float, ...] = param('home pose, rad')
    gravity_compensated: bool = param('effort 0 keeps the arm where it is')
    limits: JointLimits = param('limits that no command may pass')
    workspace: WorkspaceLimits = param('where the tool may be')
    move: MoveGains = param('how moves to a start pose are made')
    kinematics: KinematicChain = param('table for forward kinematics')
    tool_sites: tuple[str, ...] = param('sites of the model that are the tool points, MJCF only',
                                        ())
    tool_link: str = param('link that the tool points are fixed to, where there are no sites', '')
    tool_points: tuple[float, ...] = param('tool points in the frame of tool_link, three numbers '
                                           'each, one after the other, m', ())
    base_frame: str = param('tf frame of the base of the arm', 'base_link')

    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (
        'limits.velocity', 'limits.acceleration', 'limits.jerk', 'limits.effort',
        'limits.effort_rate', 'limits.braking_acceleration', 'move.velocity')

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rows(('home', *(f'limits.{name}' for name in vars(self.limits)),
                          *(f'move.{name}' for name in vars(self.move))))
        self._check_above_zero(self.ABOVE_ZERO)
        if self.kinematics.joints != self.joints:
            raise ConfigError(f'kinematics: {self.kinematics.joints} joints, but joint_names has '
                              f'{self.joints}')
        for name, low, high, home in zip(self.joint_names, self.limits.position_lower,
                                         self.limits.position_upper, self.home, strict=True):
            if low >= high:
                raise ConfigError(f'limits.position_lower: {low} of {name} is not below '
                                  f'position_upper {high}')
            if not low <= home <= high:
                raise ConfigError(f'home: {home} of {name} is outside [{low}, {high}]')

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the joints."""
        return self.joint_names

    @property
    def start_size(self) -> int:
        """Numbers of a start pose: one a joint."""
        return self.joints

    def start_flaw(self, start: np.ndarray, duration_s: float) -> str:
        """Say what is wrong with a start pose (n,), rad, and a move there; empty if nothing is."""
        if start.shape != (self.joints,) or not np.isfinite(start).all():
            return f'start_pose is not {self.joints} finite numbers'
        if ((start < self.limits.position_lower).any()
                or (start > self.limits.position_upper).any()):
            return 'start_pose is outside the position limits'
        return _duration_flaw(duration_s)

    @property
    def command_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The limits of the interface that is commanded."""
        limits = self.limits
        if self.command_interface == 'position':
            return np.asarray(limits.position_lower), np.asarray(limits.position_upper)
        most = np.asarray(limits.effort if self.command_interface == 'effort' else limits.velocity)
        return -most, most

    @property
    def most_speed(self) -> tuple[float, ...]:
        """The limits of speed."""
        return self.limits.velocity


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(RobotConfig):
    """A body of a benchmark, which exists only in simulation.

    It takes efforts. Its greatest ones, ``action_scale``, are those that its motors give, and the
    only limits that its commands have. An episode starts from a state of the whole body that the
    simulator puts it into: positions, then velocities, each in the order of ``state_joint_names``.
    """

    task: str = param('identifier of the task that the body does')
    state_joint_names: tuple[str, ...] = param(
        'all that the driver reports, in the order of the state of the simulator; a joint of the '
        'model by its name, a free joint as <name>_x, _y, _z, _qw, _qx, _qy, _qz, of which _qw has '
        'velocity 0')
    home: tuple[float, ...] = param('positions around which episodes start, one a state joint, '
                                    'rad or m')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.command_interface != 'effort':
            raise ConfigError(f'command_interface: {self.command_interface}, but a benchmark body '
                              'takes effort')
        names = self.state_joint_names
        if len(set(names)) != len(names):
            raise ConfigError(f'state_joint_names: {list(names)} names a joint twice')
        missing = [name for name in self.joint_names if name not in names]
        if missing:
            raise ConfigError(f'state_joint_names: {missing} of joint_names are missing')
        if len(self.home) != len(names):
            raise ConfigError(f'home: {len(self.home)} numbers for {len(names)} state joints; give '
                              'one a joint')

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state joints."""
        return self.state_joint_names

    @property
    def start_size(self) -> int:
        """Numbers of a start state: a position and a velocity each state joint."""
        return 2 * self.states

    def start_flaw(self, start: np.ndarray, duration_s: float) -> str:
        """Say what is wrong with a start state, and the time to get there; empty if nothing is."""
        if start.shape != (self.start_size,) or not np.isfinite(start).all():
            return f'start_pose is not {self.start_size} finite numbers'
        return _duration_flaw(duration_s)

    @property
    def command_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The greatest efforts that the motors give."""
        most = np.asarray(self.action_scale)
        return -most, most

    @property
    def most_speed(self) -> tuple[float, ...]:
        """No limits: a simulator puts a body where it likes."""
        return (math.inf,) * self.states
