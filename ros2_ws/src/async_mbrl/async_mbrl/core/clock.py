"""Robot time on the steady clock: a second of it lasts 1 / real_time_factor wall seconds."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Something that tells robot time."""

    def now(self) -> float:
        """Robot time, s, from an arbitrary zero; never goes back."""
        ...

    def sleep_until(self, time_s: float) -> None:
        """Return when robot time has reached ``time_s``."""
        ...


class RobotClock:
    """The steady clock of the machine, scaled. All processes of one machine agree on it."""

    def __init__(self, real_time_factor: float = 1.0) -> None:
        """Scale the steady clock by ``real_time_factor``."""
        self._factor = real_time_factor

    def now(self) -> float:
        """Robot time, s."""
        return time.monotonic() * self._factor

    def sleep_until(self, time_s: float) -> None:
        """Sleep until robot time has reached ``time_s``."""
        remaining = time_s / self._factor - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)


class FakeClock:
    """A clock that moves only when told to, for tests and lockstep simulation."""

    def __init__(self, time_s: float = 0.0) -> None:
        """Start at ``time_s``."""
        self.time_s = time_s

    def now(self) -> float:
        """Robot time, s."""
        return self.time_s

    def sleep_until(self, time_s: float) -> None:
        """Jump to ``time_s`` if it lies ahead."""
        self.time_s = max(self.time_s, time_s)
