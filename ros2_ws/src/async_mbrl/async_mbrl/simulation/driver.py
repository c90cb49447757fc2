"""What a simulated arm driver does besides physics: judging commands, and keeping time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from async_mbrl.control.histogram import Histogram
from async_mbrl.core.clock import Clock
from async_mbrl.core.robot import RobotConfig
from async_mbrl.simulation.config import PlantConfig

_TOLERANCE = 1e-9


class SimulatedDriver:
    """Receive commands as a driver does: check them, keep the newest, notice their silence."""

    def __init__(self, robot: RobotConfig, plant: PlantConfig) -> None:
        """Start without a command."""
        lower, upper = robot.command_bounds
        self._lower = (lower - _TOLERANCE * np.abs(lower)).tolist()
        self._upper = (upper + _TOLERANCE * np.abs(upper)).tolist()
        self._joints = robot.joints
        self._names = robot.joint_names
        taken = robot.command_joint_names or robot.joint_names
        self._order = None if taken == robot.joint_names else [
            taken.index(name) for name in robot.joint_names]
        self._start: np.ndarray | None = None
        self._start_s = self._duration_s = 0.0
        self._unit = {'effort': 'N m', 'velocity': 'rad/s', 'position': 'rad'}[
            robot.command_interface]
        self._timeout_s = plant.driver_timeout_s if plant.driver_timeout == 'hold' else math.inf
        self._command: np.ndarray | None = None
        self._accepted_at_s = 0.0
        self._last_receipt_ns: int | None = None
        self.received = 0
        self.refused = 0
        self.violations = 0
        self.gaps = Histogram()
        """Times between two commands."""

    def receive(self, values: Sequence[float], time_s: float, receipt_ns: int) -> str | None:
        """Take a command.

        Args:
            values: what the message held, in the order in which the driver takes joints.
            time_s: robot time, s.
            receipt_ns: when it arrived at the middleware, ns; only differences are used.

        Returns:
            What is wrong with it; None for a good one. A command of wrong size or not finite is
            refused, the one before stays in force. One beyond the limits is counted and passed
            on: the motors themselves give no more than they can.
        """
        self._count(receipt_ns)
        if len(values) != self._joints:
            self.refused += 1
            return f'refused: {len(values)} numbers for {self._joints} joints'
        if self._order is not None:
            values = [values[index] for index in self._order]
        return self._accept(values, time_s)

    def receive_point(self, names: Sequence[str], values: Sequence[float], duration_s: float,
                      neutral: np.ndarray, time_s: float, receipt_ns: int) -> str | None:
        """Take a trajectory of one point; it is gone to in a straight line from the setpoint.

        Args:
            names: joints, in the order of the values.
            values: positions of the point, rad.
            duration_s: time from now at which it is to be reached, s.
            neutral: setpoint before the first command, and of an arm that is held.
            time_s: robot time, s.
            receipt_ns: as for :meth:`receive`.

        Returns:
            As :meth:`receive`.
        """
        self._count(receipt_ns)
        if sorted(names) != sorted(self._names) or len(values) != self._joints:
            self.refused += 1
            return (f'refused: a trajectory of {len(values)} positions for {list(names)}, not for '
                    f'{list(self._names)}')
        if not duration_s >= 0.0:
            self.refused += 1
            return f'refused: time_from_start is {duration_s} s'
        setpoint = self.command(time_s, neutral)
        fault = self._accept([values[names.index(name)] for name in self._names], time_s)
        if fault is None or not fault.startswith('refused'):
            self._start = neutral if setpoint is None else setpoint
            self._start_s, self._duration_s = time_s, duration_s
        return fault

    def _count(self, receipt_ns: int) -> None:
        self.received += 1
        if self._last_receipt_ns is not None:
            self.gaps.add(max(0, receipt_ns - self._last_receipt_ns) * 1e-9)
        self._last_receipt_ns = receipt_ns

    def _accept(self, values: Sequence[float], time_s: float) -> str | None:
        fault = None
        # Number by number: for so few, and so often, numpy costs several times as much.
        for name, value, low, high in zip(self._names, values, self._lower, self._upper,
                                          strict=True):
            if low <= value <= high:
                continue
            if not all(map(math.isfinite, values)):
                self.refused += 1
                return f'refused: not finite: {list(values)}'
            self.violations += 1
            fault = (f'beyond the limits: {value:.6g} {self._unit} for {name}, limits {low:.6g} '
                     f'to {high:.6g}')
            break
        self._command = np.array(values, np.float64)
        self._accepted_at_s = time_s
        return fault

    def command(self, time_s: float, neutral: np.ndarray | None) -> np.ndarray | None:
        """Give the command in force at robot time ``time_s``; None when the driver holds.

        Args:
            time_s: robot time, s.
            neutral: what is in force before the first command; None to hold until then.
        """
        if self._command is None:
            return neutral
        if time_s - self._accepted_at_s > self._timeout_s:
            return None
        elapsed_s = time_s - self._start_s
        if self._start is not None and elapsed_s < self._duration_s:
            share = max(0.0, elapsed_s / self._duration_s)
            return self._start + share * (self._command - self._start)
        return self._command

    def forget(self) -> None:
        """Drop the command in force, as after a reset; the gap to the next one is none."""
        self._command = self._start = None
        self._last_receipt_ns = None


class CatchUpPacer:
    """Pace steps of a fixed period by absolute deadlines.

    After a pause of the whole machine it asks for several steps at once, so that simulated time
    stays on the clock instead of drifting. The catching up is bounded: what is missing beyond the
    limit is given up and counted, so a machine that is too slow runs behind and never spirals.
    """

    def __init__(self, clock: Clock, period_s: float, limit: int, *,
                 between: bool = False) -> None:
        """Start now.

        Args:
            clock: the clock to keep to.
            period_s: robot time of a step, s.
            limit: steps asked for at once at most.
            between: keep deadlines half a period off the whole multiples of it, which are those
                of a control loop: a command then takes effect in the step after the state that it
                answers, whichever process is started first.
        """
        self._clock = clock
        self._period_s = period_s
        self._limit = limit
        self._start_s = clock.now()
        if between:
            self._start_s = (math.floor(self._start_s / period_s) + 0.5) * period_s
        self._steps = 0
        self.given_up = 0
        """Steps that were due and never asked for."""

    @property
    def late_s(self) -> float:
        """Time since the deadline of the last step asked for, s of the clock."""
        return max(0.0, self._clock.now() - self._start_s - self._steps * self._period_s)

    def wait(self) -> int:
        """Sleep to the next deadline; give the number of steps due, at least 1."""
        self._clock.sleep_until(self._start_s + (self._steps + 1) * self._period_s)
        reached = int((self._clock.now() - self._start_s) / self._period_s + 1e-6)
        due = max(1, reached - self._steps)
        self._steps += due
        if due > self._limit:
            self.given_up += due - self._limit
            return self._limit
        return due
