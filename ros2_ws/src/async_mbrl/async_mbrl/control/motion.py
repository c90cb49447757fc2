"""Whether the arm may move: a machine of states without I/O, clock or arithmetic.

A *cause* is a named reason why the arm must not move. While one is present, and after that until
somebody clears it, the machine is in fault, or in emergency stop for causes of that name.
"""

from __future__ import annotations

import enum

from async_mbrl.core.transition import NOT_NOW

EMERGENCY_STOP = 'emergency_stop'
"""Causes whose name begins so make an emergency stop, all others a fault."""

ORDERS_LOST = 'orders_lost'
"""Cause that never goes away: what was asked is not known any more."""

STALE = 'stale: no fresh joint states, so that nobody knows where the arm is'
"""What keeps a fault of an arm that is sent something, until joint states are fresh."""


class Motion(str, enum.Enum):
    """What the arm may do, and does."""

    IDLE = 'idle'           # not enabled, or no fresh joint states, or no verified policy
    READY = 'ready'         # could move; nothing is sent yet
    RUNNING = 'running'     # a move or an episode
    HOLDING = 'holding'     # holding commands are sent
    FAULT = 'fault'         # must not move, until cleared
    ESTOP = 'estop'         # the same, by an emergency stop


MOTIONS = tuple(Motion)


class MotionMachine:
    """States of motion over what is known: enabled, joint states, policy, orders, causes."""

    def __init__(self, enabled: bool = True) -> None:
        """Begin with nothing sent.

        Args:
            enabled: whether orders are taken from the beginning.
        """
        self.enabled = enabled
        """Whether orders are taken."""
        self.sending = False
        """Whether commands are being sent, be it holding or braking ones."""
        self.fault = ''
        """Why it is in fault or emergency stop; empty if it is in neither."""
        self.causes: dict[str, str] = {}
        """Causes that are present, by name, with their reasons."""
        self._fresh = False
        self._policy = False
        self._running = False
        self._withheld = ''
        self._latched: Motion | None = None

    @property
    def motion(self) -> Motion:
        """The state."""
        if self._latched is not None:
            return self._latched
        if self._running:
            return Motion.RUNNING
        if self.sending:
            return Motion.HOLDING
        return Motion.READY if self.enabled and self._fresh and self._policy else Motion.IDLE

    @property
    def latched(self) -> bool:
        """Whether it is in fault or emergency stop."""
        return self._latched is not None

    def observe(self, fresh: bool, policy: bool) -> None:
        """Take whether joint states are fresh and whether there is a verified policy.

        What runs when joint states are fresh no more is held.
        """
        self._fresh, self._policy = fresh, policy
        if not fresh:
            self.end()

    def enable(self, on: bool) -> None:
        """Take orders from now on, or no more; then what runs is held."""
        self.enabled = on
        if not on:
            self.end()

    def withhold(self, reason: str) -> None:
        """Run nothing while there is a reason, such as a policy that is too old; '' ends that."""
        self._withheld = reason
        if reason:
            self.end()

    def refusal(self) -> str:
        """Say why no order could be obeyed now; empty if one could."""
        if self._latched is Motion.ESTOP:
            return f'emergency stop: {self.fault}'
        if self._latched is not None:
            return f'in fault: {self.fault}'
        if not self.enabled:
            return (f'{NOT_NOW}the controller is not active; once the arm may move: '
                    'ros2 lifecycle set controller activate')
        if not self._fresh:
            return 'joint states are not fresh'
        if not self._policy:
            return 'no policy has arrived'
        return NOT_NOW + self._withheld if self._withheld else ''

    def begin(self) -> None:
        """Run a move or an episode, in place of what runs.

        Raises:
            RuntimeError: none may run; see :meth:`refusal`.
        """
        if reason := self.refusal():
            raise RuntimeError(f'nothing may run: {reason}')
        self._running = self.sending = True

    def end(self) -> None:
        """Hold instead of running, if anything runs."""
        self._running = False

    def hold(self) -> None:
        """Hold: what runs is ended, and from ready on holding commands are sent."""
        self._running = False
        if self.motion is Motion.READY:
            self.sending = True

    def release(self) -> None:
        """Send nothing any more, the arm being somebody else's.

        Raises:
            RuntimeError: it is enabled, so that the arm is still ours.
        """
        if self.enabled:
            raise RuntimeError('the arm cannot be let go while the controller is active')
        self._running = self.sending = False

    def set_cause(self, name: str, present: bool, reason: str = '') -> None:
        """Take that a cause is present, or that it is gone.

        Args:
            name: of the cause.
            present: a new one makes a fault or an emergency stop at once, and ends what runs.
            reason: said to people; the name without one.
        """
        if not present:
            if name != ORDERS_LOST:
                self.causes.pop(name, None)
            return
        self.causes[name] = reason or name
        latch = Motion.ESTOP if name.startswith(EMERGENCY_STOP) else Motion.FAULT
        if self._latched is None or (latch is Motion.ESTOP and self._latched is Motion.FAULT):
            self._latched = latch
            self.fault = reason or name
        self._running = False

    def clear(self) -> str:
        """Leave fault or emergency stop for holding, if commands were sent, or ready or idle.

        Returns:
            Why not, naming the causes that are still present; empty if it left, or was in neither.
        """
        if causes := self.named_causes():
            return 'still there: ' + '; '.join(causes)
        self._latched = None
        self.fault = ''
        return ''

    def named_causes(self) -> tuple[str, ...]:
        """Give the causes that are present as ``name: reason``.

        While stopped, what is sent follows the arm, which somebody may move; it cannot while joint
        states are stale. A driver that listens again would pull the arm to where it was.
        """
        named = tuple(f'{name}: {reason}' for name, reason in self.causes.items())
        return (*named, STALE) if self.latched and self.sending and not self._fresh else named
