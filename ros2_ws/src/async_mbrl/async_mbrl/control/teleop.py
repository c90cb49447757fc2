"""A joystick moves the arm: from axes and buttons to normalised actions. No ROS here."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from async_mbrl.control.impedance import MOST_ERROR_RAD, JointImpedance
from async_mbrl.control.settings import TakeoverSettings
from async_mbrl.control.takeover import SILENT_S
from async_mbrl.control.tool_velocity import ToolVelocities
from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import ArmConfig, RobotConfig

_HELD_STIFFNESS, _HELD_DAMPING = 0.1, 0.5
"""Most stiffness, in inertia / period^2, and damping, in inertia / period, of an impedance whose
torques are held for a period: with another period of delay it is still well damped."""


def deflections(settings: TakeoverSettings, axes: Sequence[float]) -> np.ndarray:
    """Give what the axes of a joystick ask for, (len(settings.axes),).

    From the edge of the dead zone on it grows from 0 to the scale at full deflection.

    Raises:
        ValueError: the joystick has too few axes, or one is not finite.
    """
    if max(settings.axes) >= len(axes):
        raise ValueError(f'it has {len(axes)} axes, but takeover.axes names {max(settings.axes)}')
    asked = np.array([0.0 if axis < 0 else axes[axis] for axis in settings.axes])
    if not np.isfinite(asked).all():
        raise ValueError('an axis is not finite')
    beyond = np.clip(np.abs(asked) - settings.deadzone, 0.0, 1.0 - settings.deadzone)
    full = np.array(settings.scale) if len(settings.scale) > 1 else settings.scale[0]
    return np.asarray(np.sign(asked) * beyond / (1.0 - settings.deadzone) * full)


class ToolInverse:
    """Joint velocities at which the tool moves with a wanted velocity and does not turn."""

    def __init__(self, robot: ArmConfig, damping: float) -> None:
        """Prepare for an arm; ``damping``, m/rad, bounds the velocities near singular poses."""
        self._velocities = ToolVelocities(robot.kinematics)
        self._joints = np.eye(robot.joints)
        self._damping = damping

    def jacobian(self, position: np.ndarray) -> np.ndarray:
        """Give how the tool points move with the joints (3 * points, n), m/rad.

        Args:
            position: joint positions (n,), rad.
        """
        return np.stack([self._velocities.at(position, joint)[4:7].T.ravel()
                         for joint in self._joints], 1)

    def velocity(self, position: np.ndarray, tool: np.ndarray) -> np.ndarray:
        """Give joint velocities (n,), rad/s.

        They bring all tool points as close as they can to the wanted velocity, by a damped
        least-squares inverse of their Jacobian (Nakamura & Hanafusa 1986).

        Args:
            position: joint positions (n,), rad.
            tool: velocity of the tool (3,), m/s, in the frame of the base.
        """
        jacobian = self.jacobian(position)
        points = len(jacobian) // 3
        square = jacobian @ jacobian.T + self._damping**2 * np.eye(len(jacobian))
        return np.asarray(jacobian.T @ np.linalg.solve(square, np.tile(tool, points)))


class ToolJog:
    """Actions that move the tool with a wanted velocity, for each command interface."""

    def __init__(self, robot: ArmConfig, damping: float, period_s: float) -> None:
        """Prepare for an arm whose actions are each held for ``period_s``, the policy's period."""
        self._inverse = ToolInverse(robot, damping)
        self._interface = robot.command_interface
        self._scale = np.array(robot.action_scale)
        self._period_s = period_s
        self._impedance = JointImpedance(_held(robot, period_s))
        self._target = np.zeros(robot.joints)
        self._effort = np.zeros(robot.joints)

    def start(self, position: np.ndarray) -> None:
        """Begin at measured joint positions (n,), rad."""
        self._target[:] = position

    def action(self, tool: np.ndarray, position: np.ndarray, velocity: np.ndarray,
               elapsed_s: float) -> np.ndarray:
        """Give the action (n,), normalised, within [-1, 1].

        Args:
            tool: wanted velocity of the tool (3,), m/s.
            position: measured (n,), rad.
            velocity: measured (n,), rad/s.
            elapsed_s: time since the last action, s.
        """
        wanted = self._inverse.velocity(position, tool)
        if self._interface != 'effort':
            asked = wanted / self._scale * (1.0 if self._interface == 'velocity'
                                            else self._period_s)
            # Slower as a whole: clipped joint by joint the tool would go somewhere else.
            return np.asarray(asked / max(1.0, float(np.abs(asked).max())))
        self._target += elapsed_s * wanted
        # Where the arm is blocked the target waits for it.
        np.clip(self._target, position - MOST_ERROR_RAD, position + MOST_ERROR_RAD,
                out=self._target)
        self._impedance.command(self._target, wanted, position, velocity, self._effort)
        return np.clip(self._effort / self._scale, -1.0, 1.0)


def _held(robot: ArmConfig, period_s: float) -> ArmConfig:
    """Give the arm with gains that are stable with torques held for a period.

    The inertia of a joint is taken from the deceleration that it reaches under its greatest torque,
    as the filter does.
    """
    inertia = np.array(robot.limits.effort) / np.array(robot.limits.braking_acceleration)
    return dataclasses.replace(robot, move=dataclasses.replace(
        robot.move,
        stiffness=tuple(np.minimum(robot.move.stiffness,
                                   _HELD_STIFFNESS * inertia / period_s**2).tolist()),
        damping=tuple(np.minimum(robot.move.damping,
                                 _HELD_DAMPING * inertia / period_s).tolist())))


END_EVERY_S = 0.5
"""Time, robot time, s, after which the end of a takeover is said again."""


class Hand(enum.Enum):
    """What the person does with the deadman button."""

    UNKNOWN = 'unknown'     # it must be seen let go before it counts
    FREE = 'free'
    HELD = 'held'


@dataclass(frozen=True)
class Ask:
    """What is to be sent: an action (n,), normalised; None gives the robot back."""

    action: np.ndarray | None


class Teleop:
    """What a joystick asks for, moment by moment.

    Only a button that was seen let go, and is pressed then, begins to act: not one that is held
    when the joystick appears, or comes back after a silence. As long as it is seen let go the end
    is said, again and again: one that was refused, while a process that died was still listed,
    would leave the arm held, and so would a takeover of such a process.
    """

    def __init__(self, settings: TakeoverSettings, robot: RobotConfig, policy_rate_hz: float,
                 silent_s: float = SILENT_S) -> None:
        """Prepare for a robot.

        Args:
            settings: buttons and axes.
            robot: what is moved.
            policy_rate_hz: rate of actions, Hz, robot time.
            silent_s: age, robot time, at which a joystick or joint states are no longer believed.

        Raises:
            ConfigError: the settings do not fit the robot.
        """
        flaw = settings.flaw(robot)
        if flaw:
            raise ConfigError(flaw)
        self._settings = settings
        self._joints = robot.joints
        self._silent_s = silent_s
        self._jog: ToolJog | None = None
        if settings.mode == 'tool':
            assert isinstance(robot, ArmConfig)
            self._jog = ToolJog(robot, settings.damping, 1.0 / policy_rate_hz)
        self.hand = Hand.UNKNOWN
        """What the person does."""
        self.trouble = ''
        """Why what is held counts no more; empty if it does."""
        self.running = False
        """Whether policy steps are made; in between the arm is moved by others."""
        self._end_due = False
        self._asked = np.zeros(len(settings.axes))
        self._heard_s = self._measured_s = -math.inf
        self._acted_s = 0.0
        self._ended_s = -math.inf
        self._position = self._velocity = np.zeros(robot.joints)

    def joy(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> None:
        """Take the state of the joystick at a robot time, s.

        Raises:
            ValueError: it is none that the settings fit; nothing of it counts.
        """
        deadman = self._settings.deadman_button
        if deadman >= len(buttons):
            raise ValueError(f'it has {len(buttons)} buttons, but takeover.deadman_button is '
                             f'{deadman}')
        asked = deflections(self._settings, axes)
        self._notice_silence(now_s)
        self._asked, self._heard_s = asked, now_s
        if not buttons[deadman]:
            self._end_due |= self.hand is not Hand.FREE
            self.hand, self.trouble = Hand.FREE, ''
        elif self.hand is Hand.FREE:
            self.hand = Hand.HELD
            self._acted_s = now_s
            if self._jog is not None:
                self._jog.start(self._position)

    def measured(self, position: np.ndarray, velocity: np.ndarray, now_s: float) -> None:
        """Take joint positions (n,), rad, and velocities (n,), rad/s, at a robot time, s."""
        self._position, self._velocity, self._measured_s = position, velocity, now_s

    def next(self, now_s: float) -> Ask | None:
        """Give what is to be sent at a robot time, s; None if nothing is."""
        seen_free = self.hand is Hand.FREE and now_s - self._heard_s <= self._silent_s
        if self._end_due or (seen_free and now_s - self._ended_s >= END_EVERY_S):
            self._end_due, self._ended_s = False, now_s
            return Ask(None)
        self._notice_silence(now_s)
        if self.hand is not Hand.HELD:
            return None
        elapsed_s, self._acted_s = now_s - self._acted_s, now_s
        if self._jog is not None:
            if not self.running:
                self._jog.start(self._position)
            return Ask(self._jog.action(self._asked, self._position, self._velocity, elapsed_s))
        action = np.zeros(self._joints)
        action[:len(self._asked)] = self._asked
        return Ask(np.clip(action, -1.0, 1.0))

    def _notice_silence(self, now_s: float) -> None:
        if self.hand is not Hand.HELD:
            return
        if now_s - self._heard_s > self._silent_s:
            self.hand, self.trouble = Hand.UNKNOWN, 'the joystick fell silent'
        elif self._jog is not None and now_s - self._measured_s > self._silent_s:
            self.hand, self.trouble = Hand.UNKNOWN, 'no joint states arrive'
