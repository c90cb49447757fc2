"""The controllers of a simulated ros2_control: which are active, and what may be switched."""

from __future__ import annotations

from collections.abc import Sequence

from async_mbrl.core.robot import RobotConfig

BROADCASTER = 'joint_state_broadcaster'


class ControllerStates:
    """States of the controllers of an arm, as a controller_manager keeps them.

    At the start the other controllers are active, if there are any, and ours inactive: somebody
    has to hand the arm over.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Load the controllers that the robot names, and the one that publishes joint states."""
        self._ours = robot.controllers
        self._others = robot.other_controllers
        self._active = {BROADCASTER: True, **dict.fromkeys(self._ours, False),
                        **dict.fromkeys(self._others, True)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the controllers."""
        return tuple(self._active)

    def active(self, name: str) -> bool:
        """Whether a controller is active."""
        return self._active[name]

    def moves(self, name: str) -> bool:
        """Whether a controller commands the joints."""
        return name != BROADCASTER

    @property
    def following(self) -> bool:
        """Whether the arm follows our commands: all controllers that take them are active."""
        return all(self._active[name] for name in self._ours)

    def switch(self, activate: Sequence[str], deactivate: Sequence[str], strict: bool) -> str:
        """Switch controllers, all at once.

        Args:
            activate: names.
            deactivate: names.
            strict: do all of it or nothing; otherwise leave out what cannot be done.

        Returns:
            What is wrong with it, nothing having been done; empty if it was done.
        """
        asked = [(name, True) for name in activate] + [(name, False) for name in deactivate]
        flaws = [flaw for name, on in asked if (flaw := self._flaw(name, on))]
        if strict and flaws:
            return '; '.join(flaws)
        after = {**self._active, **{name: on for name, on in asked if not self._flaw(name, on)}}
        if any(after[name] for name in self._ours) and any(after[name] for name in self._others):
            return (f'{", ".join(self._ours)} and {", ".join(self._others)} command the same '
                    'joints, only one of them can be active')
        self._active = after
        return ''

    def _flaw(self, name: str, on: bool) -> str:
        if name not in self._active:
            return f'no controller {name}; there are: {", ".join(self._active)}'
        if self._active[name] is on:
            return f'{name} is {"active" if on else "inactive"} already'
        return ''
