"""Moves between poses along minimum-jerk paths."""

from __future__ import annotations

import numpy as np

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
