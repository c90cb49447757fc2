"""Episodes on the robot: what is commanded, and the transitions that come of it. No ROS here.

A collector changes only by :meth:`Collector.begin_session`, :meth:`Collector.commanded`,
:meth:`Collector.take`, :meth:`Collector.abandon` and :meth:`Collector.end_training`, in the order
things happened. Doing the same again with what a journal holds rebuilds it exactly, which is how a
run is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from async_mbrl.core.config import param
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import (
    CommandKind,
    ControlStep,
    EpisodeCommand,
    Mode,
    StepKind,
    Transition,
)
from async_mbrl.tasks.task import Plan

RECENT = 5
"""Episodes that the learning curve averages over."""

PLANS = 100
"""Start poses and goals that are drawn before none is said to be possible."""


@dataclass(frozen=True)
class CollectionConfig:
    """How much is collected, and how long what others owe is waited for."""

    motion_time_s: float = param('motion time (learning steps x policy period) at which learning '
                                 'ends, s', 60.0, minimum=0.1)
    wall_time_s: float = param(
        'run time, waiting for learners included, at which learning ends with the episode that is '
        'going on, even if motion time is left, s of robot time; 0: no limit', 0.0, minimum=0.0)
    live_evaluation_episodes: int = param(
        'episodes of the last policy through the live graph, after learning', 10, minimum=0)
    learners: tuple[str, ...] = param('names of the learners that take part',
                                      ('model_learner', 'policy_learner'))
    start_timeout_s: float = param(
        'wall time after which a run that cannot start has failed, s', 60.0, minimum=1.0)
    finish_timeout_s: float = param(
        'wall time that learners get to save and hand over the last policy, s', 60.0, minimum=1.0)
    silence_timeout_s: float = param(
        'wall time without a sign of the controller after which the run has failed, s', 10.0,
        minimum=1.0)
    retry_s: float = param('wall time between an aborted episode and the next, s', 1.0, minimum=0.0)
    maximum_aborts: int = param('aborted episodes in a row at which the run has failed', 5,
                                minimum=1)
    fault_patience_s: float = param(
        'wall time that a fault of the controller may take to be cleared before the run has '
        'failed, s; an emergency stop is always waited for', 0.0, minimum=0.0)
    collision_margin_m: float = param(
        'distance of a link to another, or to the floor, that counts as a collision already, m',
        0.02, minimum=0.0, maximum=0.5)
    floor_height_m: float = param(
        'height of the floor in the base frame, where the model of the robot has none, m', 0.0)


class NoPlanError(RuntimeError):
    """No episode can be planned; the message says why."""


class Clearance(Protocol):
    """Tells collisions; see :class:`async_mbrl.simulation.collision.CollisionChecker`."""

    def flaw(self, position: np.ndarray) -> str:
        """Say what is too close in a pose (n,), rad; empty if nothing is."""
        ...

    def path_flaw(self, start: np.ndarray, end: np.ndarray) -> str:
        """Say what a straight way in joint space would hit; empty if nothing."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended that ran to its end; None for what its task does not define."""

    episode: int
    mode: Mode
    steps: int
    ret: float
    distance_m: float | None
    success: bool | None
    policy_version: Version


@dataclass(frozen=True)
class Taken:
    """What came of one event of the control loop."""

    transitions: tuple[Transition, ...] = ()
    result: EpisodeResult | None = None
    aborted: str | None = None


@dataclass
class _Open:
    """The episode that is commanded and not yet over."""

    command: EpisodeCommand
    pending: ControlStep | None = None
    steps: int = 0
    taken_over: int = 0
    ret: float = 0.0

    def owns(self, step: ControlStep) -> bool:
        """Whether an event belongs to this episode."""
        return (step.command_number, step.episode, step.mode) == (
            self.command.number, self.command.episode, self.command.mode)


class Collector:
    """Draw episodes, turn control steps into transitions, count.

    Attributes:
        transitions: transitions so far, which is the number of the next one.
        episodes: learning episodes that ran to their end.
        rollouts: learning episodes whose last transition ended them, also those cut short by an
            abort; what learners, who only see transitions, count.
        attempts: learning episodes commanded, which is the number of the next one.
        evaluation_attempts: the same of evaluation episodes.
        taken_over: transitions in which a person acted instead of the policy.
        takeover_curve: [robot_time_s, share of the steps taken over] after each learning episode
            of at least a step, aborted or not.
        resets: completed moves to a start pose between the first and the last transition.
        results: of all evaluation episodes, and of the whole learning episodes in which the policy
            alone acted.
        learning_curve: [robot_time_s, return_mean, success_rate] after each such learning episode,
            over the last ``RECENT`` of them; the last is None where success is not defined.
        collection_time_s: robot time from the first learning step to the last transition, s; time
            in which nobody collected is left out.
    """

    def __init__(self, task: Any, config: CollectionConfig, seed: int,
                 clearance: Clearance | None = None) -> None:
        """Begin with nothing collected.

        Args:
            task: see :mod:`async_mbrl.tasks`.
            config: how much is collected.
            seed: of the run; goals, start poses and exploration follow from it and the number of
                the episode.
            clearance: tells collisions, so that goals, start poses and moves without one are
                drawn; None to take them as they are drawn.
        """
        self._task = task
        self._seed = seed
        self._clearance = clearance
        self.position: np.ndarray | None = None
        """Where the arm is, (n,), rad, as far as known: where the next move begins."""
        self.refused_plans = 0
        """Start poses and goals that were drawn anew because of a collision."""
        self._period_s = 1.0 / task.config.policy_rate_hz
        self._limit = max(1, round(config.motion_time_s / self._period_s))
        self.transitions = 0
        self.episodes = 0
        self.rollouts = 0
        self.taken_over = 0
        self.takeover_curve: list[list[float]] = []
        self.attempts = 0
        self.evaluation_attempts = 0
        self.resets = 0
        self.results: list[EpisodeResult] = []
        self.learning_curve: list[list[float | None]] = []
        self.collection_time_s = 0.0
        self._unconfirmed_resets = 0
        self._open: _Open | None = None
        self._begun = False
        self._wall_s = 0.0
        self._since: float | None = None
        self._last_event = 0.0

    @property
    def open(self) -> bool:
        """Whether a commanded episode is not over yet."""
        return self._open is not None

    @property
    def in_motion(self) -> bool:
        """Whether a learning episode is being executed, moves apart."""
        return (self._open is not None and self._open.pending is not None
                and self._open.command.mode == Mode.LEARNING)

    @property
    def motion_time_s(self) -> float:
        """Learning steps executed x policy period, s."""
        return self.transitions * self._period_s

    @property
    def motion_time_limit_s(self) -> float:
        """Motion time at which learning ends, s; a whole number of steps."""
        return self._limit * self._period_s

    @property
    def used_up(self) -> bool:
        """Whether all motion time is used."""
        return self.transitions >= self._limit

    @property
    def robot_time_s(self) -> float:
        """Data time: motion time and the configured duration of each reset in between, s."""
        return self.motion_time_s + self.resets * self._task.config.reset_s

    def wall_time_s(self, now_s: float) -> float:
        """Robot time from the first learning step to the end of training, s.

        Time in which nobody collected is left out: a process that goes on with the run counts from
        its first learning command on.
        """
        return self._elapsed(now_s)

    def recent(self, mode: Mode = Mode.LEARNING) -> list[EpisodeResult]:
        """Give the last ``RECENT`` whole episodes of a mode in which the policy alone acted."""
        return [result for result in self.results if result.mode == mode][-RECENT:]

    def learning_command(self, number: int) -> EpisodeCommand:
        """Plan the next learning episode; the last one is as short as the motion time left.

        Raises:
            NoPlanError: every start pose or goal drawn means a collision.
        """
        steps = min(self._task.config.episode_steps, self._limit - self.transitions)
        return self._plan(number, self.attempts, Mode.LEARNING, steps, NO_VERSION)

    def evaluation_command(self, number: int, version: Version) -> EpisodeCommand:
        """Plan the next evaluation episode, with goals that learning never draws.

        Raises:
            NoPlanError: every start pose or goal drawn means a collision.
        """
        return self._plan(number, self.evaluation_attempts, Mode.EVALUATION,
                          self._task.config.episode_steps, version)

    def goal_command(self, number: int, goal: np.ndarray) -> EpisodeCommand:
        """Plan an evaluation episode from where the arm is towards a goal given."""
        return EpisodeCommand(
            kind=CommandKind.RUN_EPISODE, number=number, episode=self.evaluation_attempts,
            mode=Mode.EVALUATION, move_duration_s=self._task.config.reset_s, goal=goal,
            steps=self._task.config.episode_steps)

    def begin_session(self) -> None:
        """Begin to collect in a new process; robot time may have a new zero from here on."""
        self.end_training(self._elapsed(self._last_event))

    def end_training(self, wall_time_s: float) -> None:
        """Let the wall time stand, s, until learning is gone on with."""
        self._wall_s, self._since = wall_time_s, None

    def commanded(self, command: EpisodeCommand, now_s: float) -> None:
        """Take note of a command that is about to be published."""
        self._open = None
        if command.kind != CommandKind.RUN_EPISODE:
            return
        self._open = _Open(command)
        if command.mode == Mode.LEARNING:
            self._last_event = now_s
            if self._begun and self._since is None:
                self._since = now_s
            self.attempts = command.episode + 1
        else:
            # An evaluation in between is no training.
            self.end_training(self._elapsed(now_s))
            self.evaluation_attempts = command.episode + 1

    def abandon(self) -> None:
        """Give up the open episode, of which nothing more will be heard."""
        self._open = None

    def take(self, step: ControlStep, now_s: float, tool: np.ndarray | None = None) -> Taken:
        """Take an event of the control loop.

        Args:
            step: the event; one that does not belong to the open episode changes nothing.
            now_s: robot time, s.
            tool: true tool points (3p,), m, where they are known, to judge an evaluation by.

        Returns:
            The transitions that it completed (one at most), and how the episode ended if it did.
        """
        episode = self._open
        if episode is None or not episode.owns(step):
            return Taken()
        learning = episode.command.mode == Mode.LEARNING
        if learning:
            self._last_event = now_s
        if step.kind == StepKind.MOVE_DONE:
            # A move that was broken off is no reset: its time counts as run time alone.
            if learning and self.transitions:
                self._unconfirmed_resets += 1
            return Taken()
        transitions: tuple[Transition, ...] = ()
        if episode.pending is not None and self._follows(episode.pending, step):
            transition = self._complete(episode.pending, step)
            episode.steps += 1
            episode.taken_over += transition.takeover
            episode.ret += transition.reward
            if learning:
                transitions = (transition,)
                self.rollouts += transition.terminated or transition.truncated
                self.taken_over += transition.takeover
                self._count(now_s)
        if step.kind == StepKind.STEP:
            if learning and self._since is None:
                self._begun, self._since = True, now_s
            episode.pending = step
            return Taken(transitions)
        self._open = None
        if learning and episode.steps:
            self.takeover_curve.append([self.robot_time_s, episode.taken_over / episode.steps])
        if step.kind == StepKind.ABORTED:
            return Taken(transitions, aborted=step.reason or 'no reason given')
        return Taken(transitions, self._judge(episode, step, tool))

    def _follows(self, pending: ControlStep, step: ControlStep) -> bool:
        """Whether an event carries what came of the pending step; an abort may not."""
        size = self._task.observation_size
        return (step.observation.shape == (size,)
                and step.previous_action_applied.shape == pending.action_requested.shape
                and bool(np.all(np.isfinite(step.observation)))
                and (step.kind != StepKind.STEP or step.step == pending.step + 1))

    def _complete(self, pending: ControlStep, step: ControlStep) -> Transition:
        action = step.previous_action_applied
        last = step.kind != StepKind.STEP
        terminated = bool(step.kind == StepKind.END and self._task.terminated(step.observation))
        return Transition(
            number=self.transitions, episode=pending.episode, step=pending.step,
            observation=pending.observation, action_requested=pending.action_requested,
            action_applied=action, next_observation=step.observation,
            reward=float(self._task.reward(np, step.observation.astype(np.float64),
                                           action.astype(np.float64))),
            terminated=terminated, truncated=last and not terminated,
            policy_version=pending.policy_version, log_probability=pending.log_probability,
            intervened=step.previous_intervened, takeover=pending.takeover)

    def _count(self, now_s: float) -> None:
        self.transitions += 1
        self.resets += self._unconfirmed_resets
        self._unconfirmed_resets = 0
        self.collection_time_s = self._elapsed(now_s)

    def _judge(self, ended: _Open, step: ControlStep, tool: np.ndarray | None) -> EpisodeResult:
        command = ended.command
        verdict = self._task.judge(step.observation, command.goal, ended.ret, tool)
        version = ended.pending.policy_version if ended.pending else NO_VERSION
        result = EpisodeResult(
            episode=command.episode, mode=command.mode, steps=ended.steps, ret=ended.ret,
            distance_m=verdict.distance_m, success=verdict.success, policy_version=version)
        if command.mode == Mode.EVALUATION:
            self.results.append(result)
            return result
        self.episodes += 1
        # A shortened episode has a return of its own kind; what a person did says nothing of the
        # policy, and is in the takeover curve.
        whole = (ended.steps == self._task.config.episode_steps
                 or self._task.terminated(step.observation))
        if whole and not ended.taken_over:
            self.results.append(result)
            recent = self.recent()
            self.learning_curve.append([
                self.robot_time_s, float(np.mean([item.ret for item in recent])),
                success_rate(recent)])
        return result

    def _plan(self, number: int, episode: int, mode: Mode, steps: int,
              version: Version) -> EpisodeCommand:
        # The mode is part of the seed, so the two streams of goals never meet.
        rng = np.random.default_rng([self._seed, episode, int(mode) + 1])
        flaw = ''
        for _ in range(PLANS):
            plan = self._task.plan(rng)
            flaw = self._flaw(plan)
            if not flaw:
                return EpisodeCommand(
                    kind=CommandKind.RUN_EPISODE, number=number, episode=episode, mode=mode,
                    start_pose=plan.start, move_duration_s=self._task.config.reset_s,
                    goal=plan.goal, steps=steps, policy_version=version,
                    seed=int(rng.integers(2**63)))
            self.refused_plans += 1
        raise NoPlanError(f'no start pose and goal of {PLANS} is free of collisions: {flaw}')

    def _flaw(self, plan: Plan) -> str:
        """Say what a move to a start pose, or a pose at the goal, would hit; empty if nothing."""
        if self._clearance is None:
            return ''
        way = ('' if self.position is None
               else self._clearance.path_flaw(self.position, plan.start))
        return (way or self._clearance.flaw(plan.start)
                or (self._clearance.flaw(plan.reached) if plan.reached.size else ''))

    def _elapsed(self, now_s: float) -> float:
        return self._wall_s + (0.0 if self._since is None else now_s - self._since)


def hold(number: int, kind: CommandKind = CommandKind.HOLD) -> EpisodeCommand:
    """Give the command to hold the arm, or with ``FINISH`` to hold it for good."""
    return EpisodeCommand(kind, number=number)


def success_rate(results: Sequence[EpisodeResult]) -> float | None:
    """Give the share of episodes that succeeded; None of none, or where that is not defined."""
    if not results or any(result.success is None for result in results):
        return None
    return float(np.mean([bool(result.success) for result in results]))
