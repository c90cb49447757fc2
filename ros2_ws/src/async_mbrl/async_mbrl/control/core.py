"""What the control loop does at a tick: episodes, moves, holding. No I/O, no clock of its own.

The live loop (:mod:`async_mbrl.control.loop`) and the offline evaluation drive the same
:class:`ControlCore`; it only sees what it is handed at each tick. Whether the arm may move at all
is the business of :class:`async_mbrl.control.motion.MotionMachine`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from async_mbrl.control.episode import End, EpisodeRunner
from async_mbrl.control.filter import NON_FINITE_LIMIT
from async_mbrl.control.kinds import means_of
from async_mbrl.control.motion import Motion, MotionMachine
from async_mbrl.control.orders import flaw
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.control.takeover import SILENT_S, Takeover, TakeoverState
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.plan import Plan
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import (
    NOT_NOW,
    CommandKind,
    ControlStep,
    EpisodeCommand,
    StepKind,
)

IDLE, MOVING, RUNNING, HOLDING = 'idle', 'moving', 'running', 'holding'
FAULT, ESTOP = 'fault', 'estop'
STATES = (IDLE, MOVING, RUNNING, HOLDING, FAULT, ESTOP)

STALL_S = 0.05
"""After such a time between two ticks, wall time, guard may have sent the safe command."""

NON_FINITE = 'non_finite'
"""Cause of too much in a row that was not finite. It is over at once; the fault stays."""


class ControlCore:
    """Episodes, moves and holding of one robot on one task, tick by tick.

    Order of use: :meth:`set_policy`, :meth:`command` and what says whether the arm may move at any
    time between ticks, :meth:`tick` once a control period, :meth:`drain` for what happened.

    A loop that is held up never makes the arm catch up: a policy step that is missed by more than
    half its time ends the episode, and a longer gap ends a move; the arm is held then. How a robot
    is held, and how its episodes start, depends on its kind (:mod:`async_mbrl.control.kinds`);
    what happens in an episode is the business of :class:`async_mbrl.control.episode.EpisodeRunner`.
    """

    def __init__(self, robot: RobotConfig, task: Any, network: PolicyNetworkConfig, *,
                 state_timeout_s: float | None = None, stall_s: float = STALL_S,
                 takeover_silent_s: float = SILENT_S, dry_run: bool = False,
                 enabled: bool = True) -> None:
        """Prepare for a robot, a task (see :mod:`async_mbrl.tasks`) and a policy network.

        Args:
            robot: joints, limits, gains, rate of the loop.
            task: builds observations; tells the policy rate.
            network: shape of the policy.
            state_timeout_s: age at which joint states are stale, robot time; the robot's own
                without it.
            stall_s: time between two ticks, robot time, after which what was sent last may have
                come from guard.
            takeover_silent_s: silence after which a takeover by a person is lost, robot time.
            dry_run: the commands are not sent to the arm: moves arrive when their time is over,
                and the applied action is 0.
            enabled: whether orders are taken from the beginning.

        Raises:
            ConfigError: the control rate is not a multiple of the policy rate.
        """
        means = means_of(robot, dry_run)
        self.stale_holds = 0
        """Times that joint states became stale while the arm was under control."""
        self._robot = robot
        self._task = task
        self._state_timeout_s = (robot.state_timeout_s if state_timeout_s is None
                                 else state_timeout_s)
        self._machine = MotionMachine(enabled)
        self._filter = means.filter
        self._holding = means.holding
        self._run = EpisodeRunner(robot, task, network, means.start, dry_run,
                                 TakeoverState(takeover_silent_s))
        self._commands: list[EpisodeCommand] = []
        self._stale = False
        self._stall_s = max(stall_s, 2.5 / robot.control_rate_hz)
        self._anchor = np.zeros(robot.states)
        self._asked = np.zeros(robot.joints)
        self._at_rest = np.zeros(robot.states)
        self._last_position = np.zeros(robot.states)
        self._last_time_s = 0.0
        # Whether what is sent begins anew: guard may have set the arm to something else meanwhile.
        self._anew = False

    @property
    def ticks_per_step(self) -> int:
        """Control ticks in a policy step."""
        return self._run.ticks_per_step

    @property
    def policies_applied(self) -> int:
        """Policies swapped in so far."""
        return self._run.policies_applied

    @property
    def planned_steps(self) -> int:
        """Policy steps so far that were acted as planned."""
        return self._run.planned_steps

    @property
    def takeover_steps(self) -> int:
        """Policy steps so far in which a person acted."""
        return self._run.takeover_steps

    @property
    def takeovers_ignored(self) -> int:
        """Policy steps of evaluations so far in which a person wanted to act."""
        return self._run.takeovers_ignored

    @property
    def takeover_lost(self) -> bool:
        """Whether a takeover was lost up to the last tick, so that no episode begins."""
        return self._run.takeover_lost(self._last_time_s)

    @property
    def motion(self) -> Motion:
        """Whether the arm may move, and does."""
        return self._machine.motion

    @property
    def state(self) -> str:
        """What it does: idle, moving, running, holding, fault or estop."""
        motion = self._machine.motion
        if motion is Motion.RUNNING:
            return MOVING if self._run.starting else RUNNING
        return IDLE if motion is Motion.READY else motion.value

    @property
    def fault(self) -> str:
        """Reason of the fault or emergency stop; empty without one."""
        return self._machine.fault

    @property
    def fault_causes(self) -> tuple[str, ...]:
        """Causes that are present, as ``name: reason``."""
        return self._machine.named_causes()

    @property
    def policy_version(self) -> Version:
        """Version of the policy in use; (0, 0) before the first."""
        return self._run.policy_version

    @property
    def policy(self) -> PolicyParameters | None:
        """The policy in use; None before the first."""
        return self._run.policy

    @property
    def counts(self) -> dict[str, int]:
        """Ticks at which the filter changed the command, by kind; see :class:`CommandFilter`."""
        return self._filter.counts

    @property
    def active(self) -> bool:
        """Whether commands are being sent."""
        return self._machine.sending

    # ---- between ticks ----

    def set_policy(self, parameters: PolicyParameters) -> None:
        """Hand over a verified policy; it is swapped in at the next tick that allows it."""
        self._run.set_policy(parameters)

    def set_plan(self, plan: Plan) -> None:
        """Hand over a verified plan; see :meth:`EpisodeRunner.set_plan`."""
        self._run.set_plan(plan)

    def set_takeover(self, takeover: Takeover) -> None:
        """Hand over what a person asked for; see :meth:`EpisodeRunner.set_takeover`."""
        self._run.set_takeover(takeover)

    def command(self, command: EpisodeCommand) -> None:
        """Hand over an order; it is obeyed at the next tick, orders in the order given."""
        self._commands.append(command)

    def drain(self) -> list[ControlStep]:
        """Give the events since the last call, oldest first."""
        return self._run.drain()

    def wanted_state(self) -> np.ndarray | None:
        """Give the state (2 * states,) that the simulator is to put a benchmark body into, once."""
        return self._run.wanted_state()

    def set_cause(self, name: str, present: bool, reason: str = '') -> None:
        """Take that a cause for the arm not to move is present, or gone.

        While one is, and until :meth:`clear` after that, the arm is braked, if commands are sent.
        """
        if present:
            self._abort(reason or name)
        self._machine.set_cause(name, present, reason)

    def clear(self) -> str:
        """Leave the fault or emergency stop; give why not, empty if there is none any more."""
        refusal = self._machine.clear()
        if not refusal:
            self._filter.non_finite = self._run.bad_actions = 0
            self._anchor[:] = self._last_position
        return refusal

    def enable(self, on: bool) -> None:
        """Take orders from now on, or no more; then what runs is given up and the arm held."""
        if not on:
            self._abort(f'{NOT_NOW}the controller was deactivated')
        elif not self._machine.enabled:
            self._anchor[:] = self._last_position
        self._machine.enable(on)

    def hold_policy(self, reason: str) -> None:
        """Hold the arm, and refuse orders, while there is a reason; '' when there is none."""
        if reason:
            self._abort(NOT_NOW + reason)
        self._machine.withhold(reason)

    def halt(self, reason: str) -> None:
        """End what is going on, if anything is, and hold the arm where it was last measured."""
        self._abort(reason)

    def restart(self) -> None:
        """Begin anew what is sent: commands did not reach the arm for a while."""
        self._anew = True

    def release(self) -> None:
        """Send nothing any more until the next order; does nothing while enabled."""
        if not self._machine.enabled:
            self._machine.release()

    def safe_command(self) -> np.ndarray | None:
        """Give the next command on the way to the safe command; None if nothing is sent.

        The way is as short as the limits of rate allow; :attr:`safe` says whether it is behind.
        """
        return self._filter.safe() if self.active else None

    @property
    def safe(self) -> bool:
        """Whether the last command was the safe one, or none was sent."""
        return not self.active or self._filter.at_safe

    # ---- a tick ----

    def tick(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
             state_time_s: float) -> np.ndarray | None:
        """Do what is due at one tick.

        Args:
            time_s: robot time of the tick, s.
            position: newest measured positions (states,), rad.
            velocity: newest measured velocities (states,), rad/s.
            state_time_s: robot time at which these were received, s; -inf before the first.

        Returns:
            The command to send (n,), N m, rad/s or rad, valid until the next tick; None if nothing
            is to be sent.
        """
        self._anew |= time_s - self._last_time_s > self._stall_s
        self._last_time_s = time_s
        self._run.swap_policy(time_s, self._machine.motion is Motion.RUNNING)
        age_s = time_s - state_time_s
        finite = (all(map(math.isfinite, position.tolist()))
                  and all(map(math.isfinite, velocity.tolist())))
        fresh = finite and age_s <= self._state_timeout_s
        machine = self._machine
        if self._anew and fresh:
            if machine.sending:
                self._filter.start(position, velocity)
            self._anew = False
        if not fresh:
            self._lose_states(age_s)
        machine.observe(fresh, self._run.policy is not None)
        if fresh:
            self._last_position[:] = position
            if self._stale:
                self._stale = False
                self._anchor[:] = position
                self._filter.rejoin(position)
        was_sending = machine.sending
        if self._commands:
            self._obey(time_s, position, fresh, age_s)
        if not machine.sending:
            return None
        if not fresh:
            return self._filter.halt() if self._anew else self._filter.safe()
        if not was_sending:
            self._filter.start(position, velocity)
        if machine.motion is Motion.RUNNING:
            end = self._run.advance(time_s, position, velocity, self._asked)
            if end is not None:
                self._end(end)
            elif self._run.silent:
                return None
        if machine.latched:
            self._filter.rejoin(position)
            sent = self._filter.brake(position, velocity)
        else:
            if machine.motion is Motion.HOLDING:
                self._holding.command(self._anchor, self._at_rest, position, velocity,
                                      self._asked)
            sent = self._filter.apply(self._asked, position, velocity)
            if self._filter.non_finite >= NON_FINITE_LIMIT:
                self._fault_once(f'{NON_FINITE_LIMIT} commands in a row were not finite')
        self._run.applied.add(sent, self._filter.intervened)
        return sent

    def _lose_states(self, age_s: float) -> None:
        if not self.active or self._stale:
            return
        self._stale = True
        self.stale_holds += 1
        self._abort('joint states are not finite' if age_s <= self._state_timeout_s else
                    f'joint states are stale: the newest is {age_s:.3f} s old')

    # ---- orders ----

    def _obey(self, time_s: float, position: np.ndarray, fresh: bool, age_s: float) -> None:
        commands, self._commands = self._commands, []
        for command in commands:
            if command.kind == CommandKind.RUN_EPISODE:
                reason = self._refusal(command, fresh, age_s)
                if reason:
                    self._run.event(StepKind.ABORTED, time_s, command, 0, reason=reason)
                    continue
                self._abort(f'replaced by command {command.number}')
                self._machine.begin()
                self._run.begin(command, time_s, position)
            else:
                self._abort(f'stopped by command {command.number}')
                if self._machine.motion is Motion.READY:
                    self._machine.hold()
                    self._anchor[:] = position

    def _refusal(self, command: EpisodeCommand, fresh: bool, age_s: float) -> str:
        reason = self._machine.refusal()
        if reason and not fresh and not self._machine.latched and self._machine.enabled:
            return ('no joint states have arrived' if math.isinf(age_s)
                    else f'joint states are stale: the newest is {age_s:.3f} s old')
        return (reason or flaw(command, self._robot, self._task)
                or self._run.refusal(self._last_time_s))

    # ---- pieces ----

    def _end(self, end: End) -> None:
        """Hold after an episode that has ended by itself."""
        if end.fault:
            self._fault_once(end.reason)
        elif end.reason:
            self._abort(end.reason)
        else:
            self._hold()

    def _fault_once(self, reason: str) -> None:
        self.set_cause(NON_FINITE, True, reason)
        self.set_cause(NON_FINITE, False)

    def _abort(self, reason: str) -> None:
        """Give up what runs, and orders not obeyed yet, and hold."""
        commands, self._commands = self._commands, []
        for command in commands:
            if command.kind == CommandKind.RUN_EPISODE:
                self._run.event(StepKind.ABORTED, self._last_time_s, command, 0, reason=reason)
        if self._machine.motion is Motion.RUNNING:
            self._run.abort(self._last_time_s, reason)
            self._hold()

    def _hold(self) -> None:
        self._machine.end()
        self._run.over()
        self._anchor[:] = self._last_position
