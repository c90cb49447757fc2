"""What the control loop does at a tick: episodes, moves, holding. No I/O, no clock of its own.

The live loop (:mod:`async_mbrl.control.loop`) and the offline evaluation drive the same
:class:`ControlCore`; it only sees what it is handed at each tick.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from async_mbrl.control.applied import AppliedAction
from async_mbrl.control.exploration import CorrelatedNoise
from async_mbrl.control.filter import NON_FINITE_LIMIT, CommandFilter
from async_mbrl.control.impedance import JointImpedance
from async_mbrl.control.move import MinimumJerkMove
from async_mbrl.control.orders import flaw
from async_mbrl.control.policy import NumpyPolicy, PolicyParameters
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand, Mode, StepKind
from async_mbrl.tasks.config import TaskConfig

IDLE, MOVING, RUNNING, HOLDING, FAULT = 'idle', 'moving', 'running', 'holding', 'fault'
STATES = (IDLE, MOVING, RUNNING, HOLDING, FAULT)

ARRIVED_RAD = 0.03
"""A move has arrived when every joint is this close to its target."""

AT_REST_RAD_S = 0.1
"""A move has arrived when every joint is slower than this."""

HELD_UP_S = 0.25
"""A move is given up after so long without a tick: going on would jump ahead on its path."""

MOVE_PATIENCE = 0.5
"""Share of the duration of a move that its end is waited for beyond it."""


def ticks_per_step(robot: RobotConfig, task: TaskConfig) -> int:
    """Give the control ticks in a policy step.

    Raises:
        ConfigError: the control rate is not a multiple of the policy rate.
    """
    ratio = robot.control_rate_hz / task.policy_rate_hz
    ticks = round(ratio)
    if ticks < 1 or abs(ratio - ticks) > 1e-9:
        raise ConfigError(f'task.policy_rate_hz: {task.policy_rate_hz} does not divide '
                          f'robot.control_rate_hz {robot.control_rate_hz}; task and robot do not '
                          'fit')
    return ticks


class ControlCore:
    """Episodes, moves and holding of one robot on one task, tick by tick.

    Order of use: :meth:`set_policy` and :meth:`command` at any time between ticks, :meth:`tick`
    once a control period, :meth:`drain` for what happened.

    A loop that is held up never makes the arm catch up: a policy step that is missed by more than
    half its time ends the episode, and a gap of more than :data:`HELD_UP_S` ends a move; the arm is
    held then. Moves and holding pull with bounded force (see :class:`JointImpedance`).
    """

    def __init__(self, robot: RobotConfig, task: Any, network: PolicyNetworkConfig, *,
                 state_timeout_s: float | None = None) -> None:
        """Prepare for a robot, a task (see :mod:`async_mbrl.tasks`) and a policy network.

        Args:
            robot: joints, limits, gains, rate of the loop.
            task: builds observations; tells the policy rate.
            network: shape of the policy.
            state_timeout_s: age at which joint states are stale, robot time; the robot's own
                without it.

        Raises:
            ConfigError: the control rate is not a multiple of the policy rate.
        """
        self.ticks_per_step = ticks_per_step(robot, task.config)
        """Control ticks in a policy step."""
        joints = robot.joints
        self.policies_applied = 0
        """Policies swapped in so far."""
        self.stale_holds = 0
        """Times that joint states became stale while the arm was under control."""
        self.fault = ''
        """Reason of the fault; empty without one."""
        self._robot = robot
        self._task = task
        self._rate_hz = robot.control_rate_hz
        self._state_timeout_s = (robot.state_timeout_s if state_timeout_s is None
                                 else state_timeout_s)
        self._filter = CommandFilter(robot)
        self._policy = NumpyPolicy(task, network)
        self._noise = CorrelatedNoise(joints)
        self._pending_policy: PolicyParameters | None = None
        self._commands: list[EpisodeCommand] = []
        self._events: list[ControlStep] = []
        self._state = IDLE
        self._active = False
        self._stale = False
        self._episode = EpisodeCommand(CommandKind.HOLD)
        self._pinned = NO_VERSION
        self._move: MinimumJerkMove | None = None
        self._phase_start_s = 0.0
        self._move_tick_s = 0.0
        self._step = 0
        self._displacement = robot.command_interface == 'position'
        self._scale = np.array(robot.action_scale)
        self._speed_limit = np.array(robot.move.velocity)
        self._impedance = JointImpedance(robot)
        self._applied = AppliedAction(robot)
        self._anchor = np.zeros(joints)
        self._asked = np.zeros(joints)
        self._at_rest = np.zeros(joints)
        self._last_position: np.ndarray | None = None
        self._last_time_s = 0.0

    @property
    def state(self) -> str:
        """What it does: idle, moving, running, holding or fault."""
        return self._state

    @property
    def policy_version(self) -> Version:
        """Version of the policy in use; (0, 0) before the first."""
        parameters = self._policy.parameters
        return NO_VERSION if parameters is None else parameters.version

    @property
    def policy(self) -> PolicyParameters | None:
        """The policy in use; None before the first."""
        return self._policy.parameters

    @property
    def interventions(self) -> int:
        """Ticks at which the filter changed the command."""
        return self._filter.interventions

    @property
    def active(self) -> bool:
        """Whether commands are being sent."""
        return self._active

    def set_policy(self, parameters: PolicyParameters) -> None:
        """Hand over a verified policy; it is swapped in at the next tick that allows it."""
        self._pending_policy = parameters

    def command(self, command: EpisodeCommand) -> None:
        """Hand over an order; it is obeyed at the next tick, orders in the order given."""
        self._commands.append(command)

    def drain(self) -> list[ControlStep]:
        """Give the events since the last call, oldest first."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

    def fail(self, reason: str) -> None:
        """Go to fault for good: from now on the safe command, joints braked, or nothing if idle."""
        if self._state == FAULT:
            return
        self.fault = reason
        self._pinned = NO_VERSION
        if self._state in (MOVING, RUNNING):
            self._emit_abort(self._last_time_s, reason)
        self._state = FAULT
        if self._last_position is not None:
            self._anchor[:] = self._last_position

    def halt(self, reason: str) -> None:
        """End what is going on, if anything is, and hold the arm where it was last measured."""
        if self._state in (MOVING, RUNNING):
            assert self._last_position is not None
            self._abort(self._last_time_s, self._last_position, reason)

    def safe_command(self) -> np.ndarray | None:
        """Give the safe command (n,) for the last measured position; None if nothing was sent."""
        if not self._active or self._last_position is None:
            return None
        return self._filter.safe(self._last_position)

    def tick(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
             state_time_s: float) -> np.ndarray | None:
        """Do what is due at one tick.

        Args:
            time_s: robot time of the tick, s.
            position: newest measured joint positions (n,), rad.
            velocity: newest measured joint velocities (n,), rad/s.
            state_time_s: robot time at which these were received, s; -inf before the first.

        Returns:
            The command to send (n,), N m, rad/s or rad, valid until the next tick; None if nothing
            is to be sent.
        """
        self._last_time_s = time_s
        if self._pending_policy is not None and self._pinned == NO_VERSION:
            self._policy.use(self._pending_policy)
            self._pending_policy = None
            self.policies_applied += 1
        age_s = time_s - state_time_s
        fresh = (age_s <= self._state_timeout_s
                 and all(map(math.isfinite, position.tolist()))
                 and all(map(math.isfinite, velocity.tolist())))
        if self._commands:
            self._obey(time_s, position, fresh, age_s)
        if not self._active:
            return None
        if not fresh:
            return self._stop_stale(time_s, age_s)
        if self._last_position is None:
            self._last_position = np.zeros_like(self._anchor)
        self._last_position[:] = position
        if self._stale:
            self._stale = False
            self._anchor[:] = position
        state = self._state
        if state == MOVING:
            self._continue_move(time_s, position, velocity)
        elif state == RUNNING:
            self._continue_episode(time_s, position, velocity)
        if self._state == HOLDING:
            self._impedance.command(self._anchor, self._at_rest, position, velocity, self._asked)
        elif self._state == FAULT:
            self._asked[:] = self._anchor if self._displacement else 0.0
        sent = self._filter.apply(self._asked, position, velocity)
        if self._filter.faulted and self._state != FAULT:
            self.fail(f'{NON_FINITE_LIMIT} commands in a row were not finite')
        self._applied.add(sent, self._filter.intervened)
        return sent

    # ---- orders ----

    def _obey(self, time_s: float, position: np.ndarray, fresh: bool, age_s: float) -> None:
        commands, self._commands = self._commands, []
        for command in commands:
            busy = self._state in (MOVING, RUNNING)
            if command.kind == CommandKind.RUN_EPISODE:
                reason = self._refusal(command, fresh, age_s)
                if reason:
                    self._event(StepKind.ABORTED, time_s, command, 0, reason=reason)
                    continue
                if busy:
                    self._abort(time_s, position, f'replaced by command {command.number}')
                self._begin_move(command, time_s, position)
            elif self._state != FAULT:
                if busy:
                    self._abort(time_s, position, f'stopped by command {command.number}')
                elif self._state == IDLE and fresh:
                    self._hold(position)

    def _refusal(self, command: EpisodeCommand, fresh: bool, age_s: float) -> str:
        if self._state == FAULT:
            return f'in fault: {self.fault}'
        if not fresh:
            return ('no joint states have arrived' if math.isinf(age_s)
                    else f'joint states are stale: the newest is {age_s:.3f} s old')
        if self._policy.parameters is None:
            return 'no policy has arrived'
        return flaw(command, self._robot, self._task)

    def _begin_move(self, command: EpisodeCommand, time_s: float, position: np.ndarray) -> None:
        self._episode = command
        self._state = MOVING
        self._active = True
        self._phase_start_s = self._move_tick_s = time_s
        self._step = 0
        self._move = MinimumJerkMove(position, command.start_pose, command.move_duration_s,
                                     self._speed_limit, self._rate_hz)
        self._applied.restart(position)
        # An evaluation keeps its policy from the order to its end, whatever arrives meanwhile.
        if command.mode == Mode.EVALUATION and command.policy_version in (NO_VERSION,
                                                                          self.policy_version):
            self._pinned = self.policy_version

    def _hold(self, position: np.ndarray) -> None:
        self._state = HOLDING
        self._active = True
        self._pinned = NO_VERSION
        self._anchor[:] = position

    # ---- phases ----

    def _continue_move(self, time_s: float, position: np.ndarray, velocity: np.ndarray) -> None:
        move = self._move
        assert move is not None
        gap_s, self._move_tick_s = time_s - self._move_tick_s, time_s
        if gap_s > HELD_UP_S:
            self._abort(time_s, position, f'no tick for {gap_s:.3f} s of the move to the start '
                        'pose: the control loop was held up')
            return
        elapsed_s = time_s - self._phase_start_s
        tick = round(elapsed_s * self._rate_hz)
        if tick >= move.ticks:
            error = float(np.abs(position - move.target).max())
            speed = float(np.abs(velocity).max())
            if error <= ARRIVED_RAD and speed <= AT_REST_RAD_S:
                self._begin_episode(time_s, position, velocity)
                return
            if tick >= (1.0 + MOVE_PATIENCE) * move.ticks:
                self._abort(time_s, position,
                            f'did not reach the start pose: {error:.3f} rad away, '
                            f'{speed:.3f} rad/s fast after {elapsed_s:.2f} s')
                return
        if (tick - move.ticks) % self.ticks_per_step == 0:
            self._applied.restart(position)
        if elapsed_s >= move.travel_s:
            self._impedance.command(move.target, self._at_rest, position, velocity, self._asked)
        else:
            planned_position, planned_velocity = move.at(elapsed_s)
            self._impedance.command(planned_position, planned_velocity, position, velocity,
                                    self._asked)

    def _begin_episode(self, time_s: float, position: np.ndarray, velocity: np.ndarray) -> None:
        command = self._episode
        self._event(StepKind.MOVE_DONE, time_s, command, 0)
        wanted, current = command.policy_version, self.policy_version
        if command.mode == Mode.EVALUATION and wanted not in (NO_VERSION, current):
            self._abort(time_s, position, f'policy {wanted} was to be evaluated, but policy '
                        f'{current} is in use')
            return
        if command.mode == Mode.EVALUATION:
            self._pinned = current
        self._noise.restart(command.seed)
        self._state = RUNNING
        self._phase_start_s = time_s
        self._step = 0
        self._policy_step(time_s, position, velocity)

    def _continue_episode(self, time_s: float, position: np.ndarray,
                          velocity: np.ndarray) -> None:
        tick = round((time_s - self._phase_start_s) * self._rate_hz)
        late = tick - self._step * self.ticks_per_step
        if late < 0:
            return
        if 2 * late > self.ticks_per_step and late > 1:
            self._abort(time_s, position, f'policy step {self._step} was missed by '
                        f'{late / self._rate_hz:.3f} s: the control loop was held up')
            return
        self._policy_step(time_s, position, velocity)

    def _policy_step(self, time_s: float, position: np.ndarray, velocity: np.ndarray) -> None:
        command, step, parameters = self._episode, self._step, self._policy.parameters
        assert parameters is not None
        applied = self._applied.action()
        intervened = self._applied.intervened and step > 0
        observation = self._task.observe(position, velocity, applied, command.goal)
        if step == command.steps:
            self._event(StepKind.END, time_s, command, step, observation=observation,
                        previous_action_applied=applied.astype(np.float32),
                        previous_intervened=intervened)
            self._hold(position)
            return
        mean = self._policy.mean(observation)
        log_probability, std = 0.0, 0.0
        action = mean
        if command.mode == Mode.LEARNING:
            std = parameters.exploration_std
            noise, log_probability = self._noise.draw(std, parameters.exploration_correlation)
            action = np.minimum(np.maximum(mean + noise, -1.0), 1.0)
        np.multiply(action, self._scale, out=self._asked)
        if self._displacement:
            self._asked += position
        self._applied.restart(position)
        self._step = step + 1
        # An action that is not finite is no step to learn from; the filter makes it a fault.
        if np.isfinite(action).all():
            self._event(StepKind.STEP, time_s, command, step, observation=observation,
                        action_requested=action.astype(np.float32),
                        previous_action_applied=applied.astype(np.float32),
                        previous_intervened=intervened, log_probability=log_probability,
                        exploration_std=std)

    def _stop_stale(self, time_s: float, age_s: float) -> np.ndarray | None:
        if not self._stale:
            self._stale = True
            self.stale_holds += 1
            if self._state in (MOVING, RUNNING):
                self._emit_abort(time_s, 'joint states are not finite' if age_s
                                 <= self._state_timeout_s else
                                 f'joint states are stale: the newest is {age_s:.3f} s old')
                self._state = HOLDING
                self._pinned = NO_VERSION
        return self.safe_command()

    # ---- pieces ----

    def _abort(self, time_s: float, position: np.ndarray, reason: str) -> None:
        self._emit_abort(time_s, reason)
        self._hold(position)

    def _emit_abort(self, time_s: float, reason: str) -> None:
        self._event(StepKind.ABORTED, time_s, self._episode, self._step, reason=reason)

    def _event(self, kind: StepKind, time_s: float, command: EpisodeCommand, step: int,
               **fields: Any) -> None:
        self._events.append(ControlStep(
            kind=kind, time_s=time_s, command_number=command.number, episode=command.episode,
            step=step, mode=command.mode, policy_version=self.policy_version, **fields))
