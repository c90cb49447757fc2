"""A person who acts instead of the policy, as the control loop knows them.

Human corrections while learning, as of HIL-SERL (Luo et al. 2024, arXiv:2410.21845): a person takes
a learning episode over, step by step, and gives it back.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from async_mbrl.core.transition import NOT_NOW

SILENT_S = 0.25
"""A takeover of which nothing was received for so long has fallen silent."""

LOST = (f'{NOT_NOW}the takeover fell silent for more than {SILENT_S} s without an end, or was '
        'refused; the arm is held until it is ended: let go of the button, or send a message with '
        'active: false')
"""Why no episode begins: where somebody thought to be in charge, no policy begins to act."""


@dataclass(frozen=True)
class Takeover:
    """What a person asked for last.

    Attributes:
        received_s: robot time at which it was received, s.
        action: (action_size,) float32, normalised to [-1, 1]; None where the takeover is over.
    """

    received_s: float
    action: np.ndarray | None


def unheard(action_size: int) -> Takeover:
    """Give a takeover that is silent from its beginning: somebody acts who cannot be believed."""
    return Takeover(-math.inf, np.zeros(action_size, np.float32))


class TakeoverRecord:
    """Bytes of what a person asked for."""

    _head = struct.Struct('<d?xxx')

    def __init__(self, action_size: int) -> None:
        """Leave room for one action."""
        self._action = action_size
        self.size = self._head.size + 4 * action_size
        """Bytes of a record."""

    def pack(self, takeover: Takeover) -> bytes:
        """Give the bytes.

        Raises:
            ValueError: the action is of another size.
        """
        action = takeover.action
        if action is None:
            return self._head.pack(takeover.received_s, False)
        if action.shape != (self._action,):
            raise ValueError(f'an action of shape {action.shape}, where {(self._action,)} fits')
        return self._head.pack(takeover.received_s, True) + (
            np.ascontiguousarray(action, '<f4').tobytes())

    def unpack(self, record: bytes) -> Takeover:
        """Give what bytes say."""
        received_s, active = self._head.unpack_from(record)
        return Takeover(received_s, np.frombuffer(record, '<f4', self._action, self._head.size)
                        if active else None)


class TakeoverState:
    """Whether somebody is in charge, what they ask for, and whether they are still heard."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        """Begin with nobody in charge; ``silent_s``: silence that is too long, robot time, s."""
        self._silent_s = silent_s
        self._newest: Takeover | None = None
        self._lost = False

    def take(self, takeover: Takeover) -> None:
        """Take what was asked for last; only an end makes up for a silence that was too long."""
        if takeover.action is None:
            self._newest, self._lost = None, False
            return
        self.lost(takeover.received_s)
        self._newest = takeover

    def lost(self, time_s: float) -> bool:
        """Say whether somebody in charge was not heard for too long up to a robot time, s."""
        newest = self._newest
        if newest is not None and time_s - newest.received_s > self._silent_s:
            self._lost = True
        return self._lost

    @property
    def action(self) -> np.ndarray | None:
        """The action (action_size,) asked for; None while nobody is in charge."""
        return None if self._newest is None else self._newest.action
