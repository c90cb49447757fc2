"""How a benchmark body is moved: by efforts within those of its motors, reset by its simulator."""

from __future__ import annotations

import math

import numpy as np

from async_mbrl.control.filter import COUNTS, FINITE, MAGNITUDE
from async_mbrl.control.move import HELD_UP_S, MOVE_PATIENCE, Progress
from async_mbrl.core.robot import RobotConfig

PUT = 0.02
"""A body is where it was to be put if every position is this close, rad or m."""


class EffortClip:
    """Bring efforts within those of the motors; nothing else limits a body that cannot break.

    The same as :class:`async_mbrl.control.filter.CommandFilter` to who uses it.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Take the greatest efforts of a robot."""
        self.counts = dict.fromkeys(COUNTS, 0)
        """Ticks at which a command was changed, by kind of change."""
        self.intervened = False
        """Whether the last command was changed."""
        self.non_finite = 0
        """Commands in a row, up to the last one, that were not finite as asked, or measurements."""
        self._least, self._most = robot.command_bounds
        self._sent = np.zeros(robot.joints)

    @property
    def at_safe(self) -> bool:
        """Whether what was sent last is no effort."""
        return not self._sent.any()

    def start(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Begin to send."""
        self._sent.fill(0.0)

    def rejoin(self, position: np.ndarray) -> None:
        """Do nothing: efforts have no setpoint."""

    def apply(self, command: np.ndarray, position: np.ndarray,
              velocity: np.ndarray) -> np.ndarray:
        """Give the nearest efforts (n,) within limits; none where something is not finite."""
        finite = (all(map(math.isfinite, command.tolist()))
                  and all(map(math.isfinite, position.tolist()))
                  and all(map(math.isfinite, velocity.tolist())))
        self.non_finite = 0 if finite else self.non_finite + 1
        if finite:
            np.minimum(command, self._most, out=self._sent)
            np.maximum(self._sent, self._least, out=self._sent)
        else:
            self._sent.fill(0.0)
        self.intervened = not finite or bool((self._sent != command).any())
        if self.intervened:
            self.counts['interventions'] += 1
            self.counts[MAGNITUDE if finite else FINITE] += 1
        return self._sent

    def brake(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Give no effort (n,)."""
        return self.safe()

    def safe(self) -> np.ndarray:
        """Give no effort (n,)."""
        self._sent.fill(0.0)
        return self._sent

    def halt(self) -> np.ndarray | None:
        """Give no effort (n,)."""
        return self.safe()


class NoHolding:
    """Holds nothing: a body without a task gets no effort."""

    def command(self, wanted: np.ndarray, wanted_velocity: np.ndarray, position: np.ndarray,
                velocity: np.ndarray, out: np.ndarray) -> None:
        """Write no effort to ``out`` (n,)."""
        out.fill(0.0)


class StateReset:
    """Ask the simulator for a start state, and wait, sending nothing, until the time is over.

    The simulator keeps the body in that state until the first command, so that the episode begins
    exactly there.
    """

    silent = True
    """Nothing is sent meanwhile."""

    def __init__(self, robot: RobotConfig, dry_run: bool) -> None:
        """Prepare for the episodes of a robot; in a dry run the body need not be there."""
        self.remaining_ticks = 0
        """Ticks until the end; below 0 after it."""
        self.reason = ''
        """Why it was given up."""
        self._rate_hz = robot.control_rate_hz
        self._states = robot.states
        self._dry_run = dry_run
        self._target = np.zeros(robot.start_size)
        self._wanted = False
        self._start_s = self._tick_s = 0.0
        self._ticks = 0

    def begin(self, position: np.ndarray, target: np.ndarray, duration_s: float,
              time_s: float) -> None:
        """Want a state (2 * states,) and begin to wait at a robot time, s."""
        self._target, self._wanted = np.array(target), True
        self._start_s = self._tick_s = time_s
        self._ticks = max(1, round(duration_s * self._rate_hz))

    def advance(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                out: np.ndarray) -> Progress:
        """Say whether the time is over and the body there."""
        gap_s, self._tick_s = time_s - self._tick_s, time_s
        if gap_s > HELD_UP_S:
            self.reason = (f'no tick for {gap_s:.3f} s of the reset: the control loop was held up')
            return Progress.GIVEN_UP
        tick = round((time_s - self._start_s) * self._rate_hz)
        self.remaining_ticks = self._ticks - tick
        if tick < self._ticks:
            return Progress.UNDER_WAY
        error = float(np.abs(position - self._target[:self._states]).max())
        if self._dry_run or error <= PUT:
            return Progress.ARRIVED
        if tick >= (1.0 + MOVE_PATIENCE) * self._ticks:
            self.reason = (f'the simulator has not put the body where the episode starts: a '
                           f'position is {error:.3f} away')
            return Progress.GIVEN_UP
        return Progress.UNDER_WAY

    def wanted_state(self) -> np.ndarray | None:
        """Give the state that the simulator is to be asked for, once; None if none is."""
        if not self._wanted:
            return None
        self._wanted = False
        return self._target
