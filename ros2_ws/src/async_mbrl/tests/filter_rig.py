"""Random robots, hostile streams and checks of what the filter sends; for tests and benchmarks."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
from control_rig import robot_mapping

from async_mbrl.control.filter import CommandFilter
from async_mbrl.core.config import load
from async_mbrl.core.robot import RobotConfig

INTERFACES = ('effort', 'velocity', 'position')
ROUNDING = 1e-9
"""Share of a limit that rounding may pass it by."""

NOISE = 64 * np.finfo(float).eps
"""Rounding of a difference, as a share of the numbers it is taken of."""


def random_robot(rng: np.random.Generator, interface: str, **changes: Any) -> RobotConfig:
    """Draw an arm: joints, chain, limits, rate."""
    joints = int(rng.integers(2, 8))

    def each(low: float, high: float) -> list[float]:
        return np.exp(rng.uniform(np.log(low), np.log(high), joints)).tolist()

    lower = rng.uniform(-3.0, -0.3, joints)
    upper = rng.uniform(0.3, 3.0, joints)
    axes = np.eye(3)[rng.integers(0, 3, joints)]
    frames = np.concatenate([np.zeros((joints, 2)), rng.uniform(0.05, 0.3, (joints, 1))], 1)
    corner = rng.uniform(0.2, 0.8, 3)
    floor = float(rng.uniform(-0.3, 0.1))
    mapping: dict[str, Any] = robot_mapping(
        joint_names=[f'joint_{i}' for i in range(joints)], command_interface=interface,
        action_scale=[0.1] * joints, home=[0.0] * joints,
        control_rate_hz=float(rng.choice([100.0, 250.0, 500.0, 1000.0])),
        limits={
            'position_lower': lower.tolist(), 'position_upper': upper.tolist(),
            'velocity': each(0.5, 5.0), 'acceleration': each(2.0, 60.0), 'jerk': each(50.0, 2e4),
            'effort': each(1.0, 100.0), 'effort_rate': each(50.0, 5e3),
            'braking_acceleration': each(3.0, 40.0)},
        workspace={'lower': (-corner).tolist(), 'upper': (corner + [0.0, 0.0, 0.5]).tolist(),
                   'minimum_height_m': floor, 'braking_acceleration': float(rng.uniform(0.5, 4.0))},
        move={'stiffness': [20.0] * joints, 'damping': [4.0] * joints, 'velocity': [1.0] * joints},
        kinematics={
            'joint_positions': frames.ravel().tolist(),
            'joint_quaternions': [1.0, 0.0, 0.0, 0.0] * joints,
            'joint_axes': axes.ravel().tolist(),
            'tool_points': [0.1, 0.0, 0.05, 0.0, 0.1, 0.05, 0.0, 0.0, 0.15]})
    return load(RobotConfig, {**mapping, **changes})


class Checks:
    """Count what is sent beyond a limit, by kind, from finite differences alone."""

    KINDS = ('non_finite', 'magnitude', 'first', 'second', 'third')

    def __init__(self, robot: RobotConfig) -> None:
        """Take the limits of a robot; the orders of difference depend on the interface."""
        limits, period_s = robot.limits, 1.0 / robot.control_rate_hz
        self.counts: collections.Counter[str] = collections.Counter()
        velocity, acceleration, jerk = (np.array(values) for values in (
            limits.velocity, limits.acceleration, limits.jerk))
        if robot.command_interface == 'effort':
            inertia = np.array(limits.effort) / limits.braking_acceleration
            self._upper = np.minimum(limits.effort, inertia * acceleration)
            self._bounds = [np.minimum(limits.effort_rate, inertia * jerk) * period_s]
        elif robot.command_interface == 'velocity':
            self._upper = velocity
            self._bounds = [acceleration * period_s, jerk * period_s**2]
        else:
            self._upper = np.array(limits.position_upper)
            self._bounds = [velocity * period_s, acceleration * period_s**2, jerk * period_s**3]
        self._positions = robot.command_interface == 'position'
        self._lower = np.array(limits.position_lower) if self._positions else -self._upper
        self._limits = self._lower, self._upper
        self._history = np.zeros((4, robot.joints))

    def begin(self, first: np.ndarray) -> None:
        """Begin a sequence: what was sent, or stood, until now (n,).

        A position that begins beyond its limits may stay there, and come back, but go no further.
        """
        self._history[:] = first
        if self._positions:
            lower, upper = self._limits
            self._lower, self._upper = np.minimum(lower, first), np.maximum(upper, first)

    def take(self, sent: np.ndarray) -> None:
        """Check one command (n,)."""
        if not np.isfinite(sent).all():
            self.counts['non_finite'] += 1
            return
        slack = ROUNDING * np.maximum(np.abs(self._lower), np.abs(self._upper))
        if (sent > self._upper + slack).any() or (sent < self._lower - slack).any():
            self.counts['magnitude'] += 1
        sent = np.clip(sent, -1e100, 1e100)     # beyond anyway; differences must not overflow
        history = self._history
        history[:-1] = history[1:]
        history[-1] = sent
        size = np.abs(history).max(axis=0)
        difference = history
        for kind, bound in zip(self.KINDS[2:], self._bounds, strict=False):
            difference = np.diff(difference, axis=0)
            if (np.abs(difference[-1]) > bound * (1.0 + 1e-6) + NOISE * size).any():
                self.counts[kind] += 1


_SPECIAL = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e30, 1e-300, 0.0])


def hostile(rng: np.random.Generator, robot: RobotConfig, ticks: int
            ) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Give (what is called, command, position, velocity) of some ticks, bad in changing ways."""
    limits, joints = robot.limits, robot.joints
    velocity_limit = np.array(limits.velocity)
    lower, upper = np.array(limits.position_lower), np.array(limits.position_upper)
    scale = {'effort': np.array(limits.effort), 'velocity': velocity_limit,
             'position': upper - lower}[robot.command_interface]
    position, velocity = rng.uniform(lower, upper), rng.normal(size=joints) * velocity_limit
    command = np.zeros(joints)
    call, left, wild = 'apply', 0, 1.0
    for _ in range(ticks):
        if left == 0:
            left = int(rng.integers(1, 12))
            call = str(rng.choice(['apply', 'apply', 'apply', 'apply', 'safe', 'brake']))
            wild = float(rng.choice([0.3, 1.0, 1.5, 10.0, 1e4]))
            command = rng.choice([-1.0, 1.0], joints) * wild * scale
        left -= 1
        if rng.random() < 0.3:
            command = rng.normal(size=joints) * wild * scale
        asked = command
        if rng.random() < 0.1:
            asked = np.where(rng.random(joints) < 0.4, rng.choice(_SPECIAL, joints), command)
        draw = rng.random()
        if draw < 0.05:      # jumps, far outside too
            position = rng.normal(size=joints) * float(rng.choice([1.0, 4.0, 100.0, 1e200]))
        elif draw < 0.1:
            velocity = rng.normal(size=joints) * float(rng.choice([1.0, 10.0, 1e3, 1e200]))
        elif draw < 0.15:
            position, velocity = rng.uniform(lower, upper), np.zeros(joints)
        measured, speed = position, velocity
        if rng.random() < 0.05:
            measured = np.where(rng.random(joints) < 0.3, rng.choice(_SPECIAL, joints), position)
            speed = np.where(rng.random(joints) < 0.3, rng.choice(_SPECIAL, joints), velocity)
        yield call, asked, measured, speed
        with np.errstate(all='ignore'):
            velocity = velocity + rng.normal(size=joints) * 0.05 * velocity_limit
            position = position + velocity / robot.control_rate_hz


def torment(rng: np.random.Generator, robot: RobotConfig, command_filter: CommandFilter,
            checks: Checks, ticks: int, *, restart: bool = True) -> None:
    """Run one sequence through a filter and check everything that it sends.

    Args:
        rng: draws the sequence.
        robot: of the filter.
        command_filter: the filter.
        checks: of the same robot, following the same filter.
        ticks: length of the sequence.
        restart: begin to send anew, instead of going on from what was sent last.
    """
    if restart:
        _restart(rng, robot, command_filter, checks)
    for call, asked, measured, speed in hostile(rng, robot, ticks):
        if call == 'safe':
            sent = command_filter.safe()
        elif call == 'brake' and np.isfinite(measured).all() and np.isfinite(speed).all():
            sent = command_filter.brake(measured, speed)
        else:
            sent = command_filter.apply(asked, measured, speed)
        checks.take(sent)


def _restart(rng: np.random.Generator, robot: RobotConfig, command_filter: CommandFilter,
             checks: Checks) -> None:
    limits = robot.limits
    lower, upper = np.array(limits.position_lower), np.array(limits.position_upper)
    spread = upper - lower
    position = rng.uniform(lower - 0.1 * spread, upper + 0.1 * spread)
    velocity = rng.normal(size=robot.joints) * np.array(limits.velocity)
    command_filter.start(position, velocity)
    checks.begin({
        'effort': np.zeros(robot.joints),
        'velocity': np.clip(velocity, -np.array(limits.velocity), limits.velocity),
        'position': position}[robot.command_interface])


class UnlimitedRate(CommandFilter):
    """A filter that is broken on purpose: it sends what is asked within magnitudes, at once."""

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        sent = super().apply(command, position, velocity)
        if np.isfinite(command).all():
            limiter = self._limiter
            most = {'effort': limiter.effort, 'velocity': limiter.velocity,
                    'position': limiter.upper}[self._interface]
            least = limiter.lower if self._interface == 'position' else -most
            sent = np.clip(command, least, most)
        return sent


class Unbounded(CommandFilter):
    """A filter that is broken on purpose: it sends whatever is asked."""

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        super().apply(command, position, velocity)
        return command


BROKEN: dict[str, type[CommandFilter]] = {'none': CommandFilter, 'rate': UnlimitedRate,
                                          'everything': Unbounded}


class SimpleArm:
    """An arm without friction that does what is sent, by any interface."""

    def __init__(self, robot: RobotConfig, position: np.ndarray, velocity: np.ndarray) -> None:
        """Begin somewhere."""
        self.position, self.velocity = np.array(position), np.array(velocity)
        limits = robot.limits
        self._interface = robot.command_interface
        self._inertia = np.array(limits.effort) / limits.braking_acceleration
        self._period_s = 1.0 / robot.control_rate_hz

    def step(self, sent: np.ndarray) -> None:
        """Advance a control period."""
        before = self.position
        if self._interface == 'effort':
            self.velocity = self.velocity + self._period_s * sent / self._inertia
            self.position = before + self._period_s * self.velocity
        elif self._interface == 'velocity':
            self.velocity = np.array(sent)
            self.position = before + self._period_s * self.velocity
        else:
            self.position = np.array(sent)
            self.velocity = (self.position - before) / self._period_s
