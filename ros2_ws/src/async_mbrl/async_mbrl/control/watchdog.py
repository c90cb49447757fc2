"""Whether the controller is alive, from its heartbeats. Time is handed in."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass

from async_mbrl.core.config import param


@dataclass(frozen=True)
class GuardSettings:
    """When and how guard acts."""

    timeout_s: float = param(
        'silence of the controller after which guard sends the safe command, wall time, s', 0.08,
        minimum=0.03, maximum=0.1)
    rate_hz: float = param('rate of the safe command while guard acts, Hz', 100.0, minimum=20.0,
                           maximum=1000.0)
    latch: bool = param(
        'once guard has acted, the controller stays in fault until that is cleared; otherwise it '
        'goes on when a mere stall is over', False)


class Heartbeat(enum.IntEnum):
    """State told by a heartbeat of the controller, as in ``SafetyStatus``."""

    IDLE = 0
    ACTIVE = 1
    FAULT = 2
    SHUTDOWN = 3
    ESTOP = 4


class Watchdog:
    """Armed by the heartbeat of an active controller, disarmed when it sends nothing any more.

    Armed, it acts on silence, and at once on the death of a process.
    """

    def __init__(self, timeout_s: float) -> None:
        """Act after a silence of ``timeout_s``."""
        self._timeout_s = timeout_s
        self._last_s = 0.0
        self.armed = False
        """Whether a silence will be acted on."""
        self.acting = False
        """Whether the safe command has to be sent."""
        self.trips = 0
        """Silences and deaths that were acted on."""
        self._armed_by: Hashable = None

    def heeds(self, state: Heartbeat, sender: Hashable) -> bool:
        """Say whether a heartbeat of a sender counts.

        While who has armed this lives, another can take its place by being active itself, but
        neither disarm this nor stand in for its silence.
        """
        return (not self.armed or self.acting or sender == self._armed_by
                or state == Heartbeat.ACTIVE)

    def heartbeat(self, state: Heartbeat, now_s: float, sender: Hashable = None) -> None:
        """Take a heartbeat that counts, received at a steady time."""
        self._last_s = now_s
        if state == Heartbeat.ACTIVE:
            self.armed, self._armed_by = True, sender
        elif state in (Heartbeat.IDLE, Heartbeat.SHUTDOWN):
            self.armed = False

    def check(self, now_s: float, dead: bool = False) -> bool:
        """Say whether the safe command has to be sent at a steady time.

        Args:
            now_s: the time.
            dead: whether a process of the controller that sent the last heartbeat has died.
        """
        acting = self.armed and (dead or self.silence_s(now_s) > self._timeout_s)
        self.trips += acting and not self.acting
        self.acting = acting
        return acting

    def silence_s(self, now_s: float) -> float:
        """Time since the last heartbeat, s."""
        return now_s - self._last_s
