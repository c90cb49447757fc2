"""Absolute deadlines on the steady clock."""

from __future__ import annotations

import time

MOST_LEFT_OUT = 1000
"""Deadlines left out at once that are told one by one; more of them would only take time."""


class Pacer:
    """Wait for one deadline after the other; deadlines that passed are left out, not made up for.

    However late one tick is, the next is back on the grid: delays never make a burst.
    """

    def __init__(self, period_ns: int) -> None:
        """Begin a grid of deadlines with the next whole period."""
        self._period_ns = period_ns
        self.missed = 0
        """Deadlines left out."""
        self.lateness_ns: list[int] = []
        """Lateness of each deadline that passed at the last wait, ns: of the one waited for, and of
        those up to the newest, which went by meanwhile. Statistics must count them all: a loop that
        stands still has missed many deadlines, not one."""
        self.deadline_ns = (time.monotonic_ns() // period_ns + 1) * period_ns
        """The newest deadline that has come, on the steady clock."""

    def wait(self) -> int:
        """Return when the next deadline has come, with the lateness against it, ns."""
        deadline = self.deadline_ns + self._period_ns
        now = time.monotonic_ns()
        if now < deadline:
            time.sleep((deadline - now) * 1e-9)
            now = time.monotonic_ns()
        late = now - deadline
        self.lateness_ns = [late]
        if late >= self._period_ns:
            left_out = late // self._period_ns
            self.missed += left_out
            deadline += left_out * self._period_ns
            self.lateness_ns += [late - k * self._period_ns
                                 for k in range(1, min(left_out, MOST_LEFT_OUT) + 1)]
        self.deadline_ns = deadline
        return late
