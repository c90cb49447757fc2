"""Moves between poses along minimum-jerk paths."""

from __future__ import annotations

import enum

import numpy as np

from async_mbrl.control.impedance import JointImpedance
from async_mbrl.core.robot import ArmConfig

ARRIVED_RAD = 0.03
"""A move has arrived when every joint is this close to its target."""

AT_REST_RAD_S = 0.1
"""A move has arrived when every joint is slower than this."""

HELD_UP_S = 0.25
"""A move is given up after so long without a tick: going on would jump ahead on its path."""

MOVE_PATIENCE = 0.5
"""Share of the duration of a move that its end is waited for beyond it."""

SETTLE_SHARE = 0.2
"""Share of the duration of a move in which the arm stands at the target and comes to rest."""

PEAK_SPEED = 1.875
"""Greatest speed of a minimum-jerk path over its mean speed."""


class MinimumJerkMove:
    """A minimum-jerk path from one pose to another that takes a whole number of control ticks."""

    def __init__(self, start: np.ndarray, target: np.ndarray, duration_s: float,
                 speed_limit: np.ndarray, rate_hz: float) -> None:
        """Plan a move.

        Args:
            start: joint positions now (n,), rad.
            target: joint positions wanted (n,), rad.
            duration_s: duration of the whole move, settling included; stretched only if the speed
                limit demands it.
            speed_limit: greatest speeds (n,), rad/s.
            rate_hz: ticks a second.
        """
        self._start = np.array(start, np.float64)
        self._target = np.array(target, np.float64)
        self._difference = self._target - self._start
        settle_s = SETTLE_SHARE * duration_s
        needed_s = PEAK_SPEED * float(np.max(np.abs(self._difference) / speed_limit))
        self.travel_s = max(duration_s - settle_s, needed_s, 1.0 / rate_hz)
        """Time under way, before settling, s."""
        self.ticks = max(1, round((self.travel_s + settle_s) * rate_hz))
        """Ticks from the start of the move to its end."""

    @property
    def target(self) -> np.ndarray:
        """Where the move leads to (n,), rad."""
        return self._target

    def at(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Give planned positions (n,), rad, and velocities (n,), rad/s, ``time_s`` after start."""
        share = min(1.0, max(0.0, time_s / self.travel_s))
        way = share * share * share * (10.0 + share * (6.0 * share - 15.0))
        rest = share * (1.0 - share)
        return (self._start + way * self._difference,
                (30.0 * rest * rest / self.travel_s) * self._difference)


class Progress(enum.Enum):
    """How a move stands."""

    UNDER_WAY = 0
    ARRIVED = 1
    GIVEN_UP = 2


class StartMove:
    """A move to a start pose as it is executed: pull along the path, arrive or give up."""

    silent = False
    """Commands are sent meanwhile."""

    def __init__(self, robot: ArmConfig, impedance: JointImpedance, dry_run: bool) -> None:
        """Prepare for the moves of a robot.

        Args:
            robot: its rate and its limits of moves.
            impedance: makes commands of poses.
            dry_run: the arm does not follow, so that a move arrives when its time is over.
        """
        self._rate_hz = robot.control_rate_hz
        self._speed_limit = np.array(robot.move.velocity)
        self._impedance = impedance
        self._dry_run = dry_run
        self._at_rest = np.zeros(robot.joints)
        self._path = MinimumJerkMove(self._at_rest, self._at_rest, 1.0, self._speed_limit,
                                     self._rate_hz)
        self._start_s = self._tick_s = 0.0
        self.remaining_ticks = 0
        """Ticks until the planned end; below 0 after it."""
        self.reason = ''
        """Why it was given up."""

    def begin(self, position: np.ndarray, target: np.ndarray, duration_s: float,
              time_s: float) -> None:
        """Begin at measured joint positions (n,), rad, towards others, at a robot time, s."""
        self._path = MinimumJerkMove(position, target, duration_s, self._speed_limit,
                                     self._rate_hz)
        self._start_s = self._tick_s = time_s

    def advance(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                out: np.ndarray) -> Progress:
        """Write the command of a tick (n,), before any limit, to ``out`` and say how it goes."""
        path = self._path
        gap_s, self._tick_s = time_s - self._tick_s, time_s
        if gap_s > HELD_UP_S:
            self.reason = (f'no tick for {gap_s:.3f} s of the move to the start pose: the control '
                           'loop was held up')
            return Progress.GIVEN_UP
        elapsed_s = time_s - self._start_s
        tick = round(elapsed_s * self._rate_hz)
        self.remaining_ticks = path.ticks - tick
        if tick >= path.ticks:
            error = float(np.abs(position - path.target).max())
            speed = float(np.abs(velocity).max())
            if self._dry_run or (error <= ARRIVED_RAD and speed <= AT_REST_RAD_S):
                return Progress.ARRIVED
            if tick >= (1.0 + MOVE_PATIENCE) * path.ticks:
                self.reason = (f'did not reach the start pose: {error:.3f} rad away, '
                               f'{speed:.3f} rad/s fast after {elapsed_s:.2f} s')
                return Progress.GIVEN_UP
        if elapsed_s >= path.travel_s:
            self._impedance.command(path.target, self._at_rest, position, velocity, out)
        else:
            self._impedance.command(*path.at(elapsed_s), position, velocity, out)
        return Progress.UNDER_WAY

    def wanted_state(self) -> None:
        """Give nothing: an arm is moved, and no simulator asked."""
