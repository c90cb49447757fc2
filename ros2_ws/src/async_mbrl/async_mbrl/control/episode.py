"""An episode as it is executed, tick by tick: the way to its start, then policy steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.control.applied import AppliedAction
from async_mbrl.control.blend import BlendedPolicy
from async_mbrl.control.exploration import CorrelatedNoise, noise_process
from async_mbrl.control.filter import NON_FINITE_LIMIT
from async_mbrl.control.kinds import Start
from async_mbrl.control.move import Progress
from async_mbrl.control.plan_record import OLDEST_S
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.control.takeover import LOST, Takeover, TakeoverState
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.plan import Plan
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import (
    CommandKind,
    ControlStep,
    EpisodeCommand,
    Mode,
    StepKind,
)
from async_mbrl.tasks.config import TaskConfig

_MOST_LOG_PROBABILITY = 1e30
"""Magnitude beyond which a policy has diverged; events hold numbers of 32 bits."""


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


@dataclass(frozen=True)
class End:
    """How an episode ended: in order, or for a reason, which may be a fault."""

    reason: str = ''
    fault: bool = False


class EpisodeRunner:
    """Executes episodes, and says what happens in them; whether it may is not its business.

    The policy that acts is swapped between policy steps, and never under an evaluation.
    """

    def __init__(self, robot: RobotConfig, task: Any, network: PolicyNetworkConfig, start: Start,
                 dry_run: bool, takeover: TakeoverState) -> None:
        """Prepare for a robot, a task and a policy network.

        Args:
            robot: its actions and the rate of the loop.
            task: builds observations; tells the policy rate.
            network: shape of the policy.
            start: the way to where an episode starts.
            dry_run: nothing that is sent arrives, and the applied action is 0.
            takeover: whether a person is in charge; nobody is yet.

        Raises:
            ConfigError: the control rate is not a multiple of the policy rate.
        """
        self.ticks_per_step = ticks_per_step(robot, task.config)
        """Control ticks in a policy step."""
        self.policies_applied = 0
        """Policies swapped in so far."""
        self.planned_steps = 0
        """Policy steps so far that were acted as planned."""
        self.takeover_steps = 0
        """Policy steps so far in which a person acted."""
        self.takeovers_ignored = 0
        """Policy steps of evaluations so far in which a person wanted to act."""
        self.starting = False
        """Whether the episode is on the way to its start."""
        self.bad_actions = 0
        """Actions in a row, up to the last one, that were not finite."""
        self.applied = AppliedAction(robot, dry_run)
        """What the commands sent amount to; to be told of each."""
        self._task = task
        self._rate_hz = robot.control_rate_hz
        self._start = start
        self._policy = BlendedPolicy(task, network, robot.policy_blend_s)
        self._noise = CorrelatedNoise(robot.joints)
        self._pending: PolicyParameters | None = None
        self._pinned = NO_VERSION
        self._plan: Plan | None = None
        self._takeover = takeover
        self._oldest_steps = max(1, round(OLDEST_S * task.config.policy_rate_hz))
        self._command = EpisodeCommand(CommandKind.HOLD)
        self._events: list[ControlStep] = []
        self._start_s = 0.0
        self._step = 0
        self._displacement = robot.command_interface == 'position'
        self._scale = np.array(robot.action_scale)

    @property
    def policy(self) -> PolicyParameters | None:
        """The policy in use; None before the first."""
        return self._policy.parameters

    @property
    def policy_version(self) -> Version:
        """Version of the policy in use; (0, 0) before the first."""
        parameters = self._policy.parameters
        return NO_VERSION if parameters is None else parameters.version

    @property
    def silent(self) -> bool:
        """Whether nothing is to be sent just now."""
        return self.starting and self._start.silent

    def set_policy(self, parameters: PolicyParameters) -> None:
        """Hand over a policy; it is swapped in at the next tick that allows it."""
        self._pending = parameters
        # A new process has to be computed: rather now than in the first step that draws from it.
        noise_process(parameters.exploration_correlation, parameters.exploration_color)

    def set_plan(self, plan: Plan) -> None:
        """Hand over a plan, which replaces the one before.

        It acts in the steps of its episode that it has actions for, the first of which must not be
        older than ``OLDEST_S``; in all others the policy acts, drawn or its mean.
        """
        self._plan = plan

    def set_takeover(self, takeover: Takeover) -> None:
        """Hand over what a person asked for last.

        While they are in charge they act in the steps of learning episodes. One who falls silent
        ends the episode, unless it is an evaluation, and no other one of any kind begins before
        the takeover was ended.
        """
        self._takeover.take(takeover)

    def takeover_lost(self, time_s: float) -> bool:
        """Whether a takeover is lost at a robot time, s, and was not ended since."""
        return self._takeover.lost(time_s)

    def refusal(self, time_s: float) -> str:
        """Say why no episode must begin at a robot time, s; empty if nothing is against it."""
        return LOST if self.takeover_lost(time_s) else ''

    def swap_policy(self, time_s: float, running: bool) -> None:
        """Swap in the policy handed over last, if there is one and nothing is against it."""
        if self._pending is None:
            return
        acting = running and not self.starting
        if self._pinned != NO_VERSION or (acting and self._policy.blending(time_s)):
            return
        self._policy.use(self._pending, time_s, at_once=not acting)
        self._pending = None
        self.policies_applied += 1

    def drain(self) -> list[ControlStep]:
        """Give the events since the last call, oldest first."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

    def wanted_state(self) -> np.ndarray | None:
        """Give the state that the simulator is to be asked for, once; None if none is."""
        return self._start.wanted_state()

    def begin(self, command: EpisodeCommand, time_s: float, position: np.ndarray) -> None:
        """Begin an episode at measured positions (states,)."""
        self._command = command
        self._plan = None
        self.starting = True
        self._start_s = time_s
        self._step = 0
        if command.start_pose.size:
            self._start.begin(position, command.start_pose, command.move_duration_s, time_s)
        self.applied.restart(position)
        self._policy.begin(command.seed if command.mode == Mode.LEARNING else None)
        # An evaluation keeps its policy from the order to its end, whatever arrives meanwhile.
        if command.mode == Mode.EVALUATION and command.policy_version in (NO_VERSION,
                                                                          self.policy_version):
            self._pinned = self.policy_version

    def abort(self, time_s: float, reason: str) -> None:
        """Say that the episode was aborted."""
        self.event(StepKind.ABORTED, time_s, self._command, self._step, reason=reason)

    def over(self) -> None:
        """Take note that nothing runs any more."""
        self._pinned = NO_VERSION

    def advance(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                out: np.ndarray) -> End | None:
        """Do what is due at a tick; write the command (n,), before any limit, to ``out``.

        Returns:
            How the episode ended; None if it goes on.
        """
        # One who falls silent during an evaluation was not in charge of it.
        if self._command.mode == Mode.LEARNING and self.takeover_lost(time_s):
            return End(LOST)
        if not self.starting:
            return self._continue(time_s, position, velocity, out)
        if self._command.start_pose.size:
            progress = self._start.advance(time_s, position, velocity, out)
            if progress is Progress.GIVEN_UP:
                return End(self._start.reason)
            if progress is Progress.UNDER_WAY:
                self._policy.prepare()
                # Whole policy steps before the first one, so that it knows the action before it.
                if self._start.remaining_ticks % self.ticks_per_step == 0:
                    self.applied.restart(position)
                return None
        return self._begin_steps(time_s, position, velocity, out)

    def _begin_steps(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                     out: np.ndarray) -> End | None:
        command = self._command
        self.event(StepKind.MOVE_DONE, time_s, command, 0)
        wanted, current = command.policy_version, self.policy_version
        if command.mode == Mode.EVALUATION and wanted not in (NO_VERSION, current):
            return End(f'policy {wanted} was to be evaluated, but policy {current} is in use')
        if command.mode == Mode.EVALUATION:
            self._pinned = current
        self._policy.settle()
        self._noise.restart(command.seed)
        self.starting = False
        self._start_s = time_s
        self._step = 0
        return self._policy_step(time_s, position, velocity, out)

    def _continue(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                  out: np.ndarray) -> End | None:
        tick = round((time_s - self._start_s) * self._rate_hz)
        late = tick - self._step * self.ticks_per_step
        if late < 0:
            return None
        if 2 * late > self.ticks_per_step and late > 1:
            return End(f'policy step {self._step} was missed by {late / self._rate_hz:.3f} s: the '
                       'control loop was held up')
        return self._policy_step(time_s, position, velocity, out)

    def _policy_step(self, time_s: float, position: np.ndarray, velocity: np.ndarray,
                     out: np.ndarray) -> End | None:
        command, step = self._command, self._step
        applied = self.applied.action()
        intervened = self.applied.intervened and step > 0
        observation = self._task.observe(position, velocity, applied, command.goal)
        if step == command.steps or (step > 0 and self._task.terminated(observation)):
            self.event(StepKind.END, time_s, command, step, observation=observation,
                       previous_action_applied=applied.astype(np.float32),
                       previous_intervened=intervened)
            return End()
        log_probability, std = 0.0, 0.0
        asked, planned = self._takeover_action(), self._planned_action()
        if asked is not None:
            action = asked
            self.takeover_steps += 1
        elif planned is not None:
            action = planned
            self.planned_steps += 1
        elif command.mode == Mode.LEARNING:
            action, log_probability, std = self._policy.explore(observation, time_s, self._noise)
        else:
            action = self._policy.mean(observation, time_s)
        if not np.isfinite(action).all() or not abs(log_probability) < _MOST_LOG_PROBABILITY:
            return self._refuse_action()
        self.bad_actions = 0
        np.multiply(action, self._scale, out=out)
        if self._displacement:
            out += position
        self.applied.restart(position)
        self._step = step + 1
        self.event(StepKind.STEP, time_s, command, step, observation=observation,
                   action_requested=action.astype(np.float32),
                   previous_action_applied=applied.astype(np.float32),
                   previous_intervened=intervened, log_probability=log_probability,
                   exploration_std=std, takeover=asked is not None)
        return None

    def _takeover_action(self) -> np.ndarray | None:
        asked = self._takeover.action
        if asked is not None and self._command.mode == Mode.EVALUATION:
            self.takeovers_ignored += 1
            return None
        return asked

    def _planned_action(self) -> np.ndarray | None:
        plan, command = self._plan, self._command
        if plan is None or self._step - plan.step > self._oldest_steps:
            return None
        return plan.action(command.number, command.episode, self._step)

    def _refuse_action(self) -> End:
        self.bad_actions += 1
        reason = (f'policy {self.policy_version} gave an action that is not finite, or of no '
                  'probability')
        if self.bad_actions >= NON_FINITE_LIMIT:
            return End(f'{reason}, {self.bad_actions} times in a row', fault=True)
        return End(reason)

    def event(self, kind: StepKind, time_s: float, command: EpisodeCommand, step: int,
              **fields: Any) -> None:
        """Note that something has happened in a commanded episode."""
        self._events.append(ControlStep(
            kind=kind, time_s=time_s, command_number=command.number, episode=command.episode,
            step=step, mode=command.mode, policy_version=self.policy_version, **fields))
