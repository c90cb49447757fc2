"""Whether measured joints can be what they say: a driver may lie. Time is handed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SPEED_FACTOR = 2.0
"""Joints may measure as moving this many times as fast as their limit allows."""

SLACK_RAD = 0.05
"""Distance that is no jump, however short the time: noise, and messages that come in a bunch."""

MOST_STAMPED_S = 1.0
"""Time between two stamps that is believed, where the messages came closer together."""

MOST_IN_A_ROW = 3
"""Implausible joint states in a row that are a fault."""

RECOVERY_S = 0.5
"""Joint states must have been plausible for so long before they are trusted again."""


class Plausibility:
    """Judge joint states one by one: what jumps, or comes from the past, is to be dropped.

    A jump of :data:`MOST_IN_A_ROW` joint states is a fault: either the driver or the arm cannot be
    trusted. From then on each is judged by the one before, whatever the place, so that trust can
    come back. Stamps that go back are dropped, unless they go on from there for
    :data:`RECOVERY_S`: then it was the clock of the driver that went back.
    """

    def __init__(self, velocity_limits: Sequence[float]) -> None:
        """Judge joints with these greatest speeds (n,), rad/s; inf for one that may jump."""
        self._most_speed = SPEED_FACTOR * np.array(velocity_limits)
        self._jumps = bool(np.isinf(self._most_speed).all())
        self._position: np.ndarray | None = None
        self._received_s = -math.inf
        self._kept_stamp_ns = 0
        self._stamp_ns = 0
        self._past_stamp_ns = 0
        self._past_since_s = -math.inf
        self._in_a_row = 0
        self._plausible_since_s = math.inf
        self.reason = ''
        """Why joint states are not trusted; empty while they are."""

    def flaw(self, received_s: float, stamp_ns: int, position: np.ndarray) -> str:
        """Say why a joint state is to be dropped; empty if it is not.

        Args:
            received_s: when it was received, robot time, s.
            stamp_ns: what its driver stamped it with, ns; 0 without a stamp.
            position: measured positions (n,), rad, finite.
        """
        flaw = (self._stamp_flaw(received_s, stamp_ns)
                or self._jump(received_s, stamp_ns, position))
        if flaw:
            self._plausible_since_s = math.inf
            return flaw
        self._in_a_row = 0
        self._plausible_since_s = min(self._plausible_since_s, received_s)
        if self.reason and received_s - self._plausible_since_s >= RECOVERY_S:
            self.reason = ''
        return ''

    def _stamp_flaw(self, received_s: float, stamp_ns: int) -> str:
        if stamp_ns == 0 or stamp_ns >= self._stamp_ns:
            self._stamp_ns = max(stamp_ns, self._stamp_ns)
            self._past_since_s = -math.inf
            return ''
        if math.isinf(self._past_since_s) or stamp_ns < self._past_stamp_ns:
            self._past_since_s = received_s
        self._past_stamp_ns = stamp_ns
        if received_s - self._past_since_s >= RECOVERY_S:
            self._stamp_ns = stamp_ns
            return ''
        return f'their stamp is {1e-9 * (self._stamp_ns - stamp_ns):.3f} s before the last one'

    def _jump(self, received_s: float, stamp_ns: int, position: np.ndarray) -> str:
        before = self._position
        if before is None or self._jumps:
            self._keep(received_s, stamp_ns, position)
            return ''
        elapsed_s = max(0.0, received_s - self._received_s)
        if stamp_ns and self._kept_stamp_ns:
            # One that was held up on its way comes close before the next, but was measured before.
            stamped_s = 1e-9 * (stamp_ns - self._kept_stamp_ns)
            elapsed_s = max(elapsed_s, min(stamped_s, MOST_STAMPED_S))
        excess = np.abs(position - before) - self._most_speed * elapsed_s - SLACK_RAD
        worst = int(excess.argmax())
        if excess[worst] <= 0.0:
            self._keep(received_s, stamp_ns, position)
            return ''
        self._in_a_row += 1
        flaw = (f'joint {worst} jumped by {position[worst] - before[worst]:.3f} rad in '
                f'{elapsed_s:.3f} s, more than {SPEED_FACTOR:g} times its greatest speed allows')
        if self._in_a_row >= MOST_IN_A_ROW:
            self.reason = f'{MOST_IN_A_ROW} joint states in a row are implausible: {flaw}'
        if self.reason:
            self._keep(received_s, stamp_ns, position)
        return flaw

    def _keep(self, received_s: float, stamp_ns: int, position: np.ndarray) -> None:
        self._position = position.copy()
        self._received_s, self._kept_stamp_ns = received_s, stamp_ns


class Standstill:
    """Whether joints have stood still for a time: so they do where nothing is sent to them."""

    def __init__(self, duration_s: float, most_rad: float, most_rad_s: float) -> None:
        """Want them to stay within ``most_rad`` and below ``most_rad_s`` for ``duration_s``."""
        self._duration_s = duration_s
        self._most_rad, self._most_rad_s = most_rad, most_rad_s
        self._since_s = math.inf
        self._lowest = self._highest = np.zeros(0)
        self.worst = ''
        """What moved last; empty if nothing has."""

    def stands(self, now_s: float, position: np.ndarray, velocity: np.ndarray) -> bool:
        """Take measured joints (n,), rad and rad/s, at a time; say whether they stand by now."""
        if math.isinf(self._since_s):
            self._restart(now_s, position)
        self._lowest = np.minimum(self._lowest, position)
        self._highest = np.maximum(self._highest, position)
        moved = self._highest - self._lowest
        speed = np.abs(velocity)
        if (moved > self._most_rad).any() or (speed > self._most_rad_s).any():
            joint = int((moved / self._most_rad + speed / self._most_rad_s).argmax())
            self.worst = (f'joint {joint} moved by {moved[joint]:.3f} rad, with {speed[joint]:.3f} '
                          'rad/s')
            self._restart(now_s, position)
        return now_s - self._since_s >= self._duration_s

    def _restart(self, now_s: float, position: np.ndarray) -> None:
        self._since_s = now_s
        self._lowest = self._highest = position.copy()
