"""What differs between kinds of robots: how an episode starts, what holds them, what filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from async_mbrl.control.body import EffortClip, NoHolding, StateReset
from async_mbrl.control.filter import CommandFilter
from async_mbrl.control.impedance import JointImpedance
from async_mbrl.control.move import Progress, StartMove
from async_mbrl.core.robot import ArmConfig, RobotConfig


class Filter(Protocol):
    """What brings commands within the limits; see :class:`CommandFilter`."""

    counts: dict[str, int]
    intervened: bool
    non_finite: int

    @property
    def at_safe(self) -> bool:
        """Whether what was sent last is the safe command."""
        ...

    def start(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Begin to send."""
        ...

    def rejoin(self, position: np.ndarray) -> None:
        """Move a setpoint that has lost the robot to where it is."""
        ...

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        """Give the command (n,) to send."""
        ...

    def brake(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Give the command (n,) that brings the robot to rest."""
        ...

    def safe(self) -> np.ndarray:
        """Give the next command (n,) on the way to the safe one."""
        ...

    def halt(self) -> np.ndarray | None:
        """Give the command (n,) that stops the robot at once; None if the last one does."""
        ...


class Holding(Protocol):
    """What holds the robot where it is; see :class:`JointImpedance`."""

    def command(self, wanted: np.ndarray, wanted_velocity: np.ndarray, position: np.ndarray,
                velocity: np.ndarray, out: np.ndarray) -> None:
        """Write the command (n,) to ``out``."""
        ...


class Start(Protocol):
    """The way to where an episode starts; see :class:`StartMove`."""

    silent: bool
    remaining_ticks: int
    reason: str

    def begin(self, position: np.ndarray, target: np.ndarray, duration_s: float,
              time_s: float) -> None:
        """Begin."""
        ...

    def advance(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                out: np.ndarray) -> Progress:
        """Do what is due at a tick, and say how it goes."""
        ...

    def wanted_state(self) -> np.ndarray | None:
        """Give the state that the simulator is to be asked for, once; None if none is."""
        ...


@dataclass(frozen=True)
class Means:
    """What a robot is moved by."""

    filter: Filter
    holding: Holding
    start: Start


def means_of(robot: RobotConfig, dry_run: bool) -> Means:
    """Choose by the kind of robot; in a dry run nothing that is sent arrives."""
    if isinstance(robot, ArmConfig):
        impedance = JointImpedance(robot)
        return Means(CommandFilter(robot), impedance, StartMove(robot, impedance, dry_run))
    return Means(EffortClip(robot), NoHolding(), StateReset(robot, dry_run))
