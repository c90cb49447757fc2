"""Is a command safe, and since when: judged from outside, by what was on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from async_mbrl.core.robot import RobotConfig

SHARE = 0.15
"""Torques below this share of the greatest action do not drive a joint."""

SLOW_RAD_S = 0.03
"""Below this speed, three times the noise of its measurement, a joint has no direction to brake."""


LATENCY_S = 0.06
"""Age of the measurements that a brake may act on, latencies of both ways included."""


class Command(NamedTuple):
    """A command as it was received, with the velocity of the joints at that time."""

    received_ns: int
    effort: np.ndarray
    velocity: np.ndarray


def drives(command: Command, scale: np.ndarray, velocities: np.ndarray | None = None) -> bool:
    """Whether a torque command moves the arm: some joint is pushed otherwise than against its way.

    The safe command, effort 0, does not, and braking does not. A brake acts on a measurement that
    is some time old, and may find the joint at rest, or already swinging back.

    Args:
        command: the command.
        scale: greatest action of each joint, N m.
        velocities: (times, joints) of the last moments, rad/s; that of the command without it.
    """
    recent = command.velocity[None] if velocities is None else velocities
    strong = np.abs(command.effort) > SHARE * scale
    braking = ((command.effort * recent < 0.0) & (np.abs(recent) > SLOW_RAD_S)).any(axis=0)
    return bool((strong & ~braking).any())


def driving(commands: Sequence[Command], scale: np.ndarray) -> list[bool]:
    """Say of each of some commands, in the order received, whether it moves the arm."""
    if not commands:
        return []
    times = np.array([command.received_ns for command in commands])
    velocities = np.stack([command.velocity for command in commands])
    first = np.searchsorted(times, times - int(LATENCY_S * 1e9))
    return [drives(command, scale, velocities[first[i]:i + 1])
            for i, command in enumerate(commands)]


def follows(command: Command, wanted: np.ndarray) -> bool:
    """Whether a command is about what a policy of constant torque ``wanted`` asks for."""
    return bool((np.abs(command.effort - wanted) <= 0.1 * np.abs(wanted) + 1e-6).all())


def hold_ms(commands: Sequence[Command], fault_ns: int, unsafe: Sequence[bool]) -> float | None:
    """Give the time from a fault to the first command of the run of safe ones that ends the record.

    Args:
        commands: in the order received, some from before the fault.
        fault_ns: when the fault was injected, on the clock of receipts.
        unsafe: for each command, whether it drives the arm.

    Returns:
        Milliseconds; 0 if what was in force at the fault was safe and stayed so; None if the arm is
        still driven by the last command.
    """
    if not commands or unsafe[-1]:
        return None
    last_unsafe = max((i for i, bad in enumerate(unsafe) if bad), default=None)
    if last_unsafe is None:
        return 0.0
    return max(0.0, (commands[last_unsafe + 1].received_ns - fault_ns) * 1e-6)


def beyond_limits(command: Command, robot: RobotConfig) -> bool:
    """Whether a torque command is not finite or beyond the greatest torques."""
    return not (np.isfinite(command.effort).all()
                and (np.abs(command.effort) <= np.array(robot.limits.effort) + 1e-9).all())
