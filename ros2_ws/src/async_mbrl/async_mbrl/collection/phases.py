"""The course of a run that learns: when to wait, learn, finish, evaluate, and give up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from async_mbrl.collection.collector import (
    CollectionConfig,
    Collector,
    EpisodeResult,
    success_rate,
)
from async_mbrl.collection.course import ControllerView, Course, Phase, Surroundings
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import NO_VERSION
from async_mbrl.core.transition import EpisodeCommand, Mode

POLICY_LEARNER = 'policy_learner'
"""The learner whose snapshots the controller acts with."""

_LEARNERS_TURN = 'holding the arm while the learners compute'


@dataclass(frozen=True)
class Check:
    """An evaluation that was asked for in between.

    Attributes:
        motion_time_s: motion time at which it was, s.
        results: of its episodes, each with the policy that was newest then.
    """

    motion_time_s: float
    results: tuple[EpisodeResult, ...]

    def to_mapping(self) -> dict[str, object]:
        """Give it as it stands in the summary."""
        return {
            'motion_time_s': self.motion_time_s, 'episodes': len(self.results),
            'success_rate': success_rate(self.results),
            'median_distance_m': self._median_distance_m(),
            'return_mean': self._mean_return(),
            'policy_versions': [str(self.results[0].policy_version),
                                str(self.results[-1].policy_version)]}

    def __str__(self) -> str:
        rate, distance_m = success_rate(self.results), self._median_distance_m()
        count = len(self.results)
        parts = [f'mean return {self._mean_return():.1f} of {count} episodes']
        if rate is not None:
            parts.insert(0, f'{round(rate * count)} of {count} episodes successful')
        if distance_m is not None:
            parts.append(f'median distance {1e3 * distance_m:.1f} mm')
        return ', '.join([*parts, f'policy {self.results[0].policy_version} to '
                          f'{self.results[-1].policy_version}'])

    def _mean_return(self) -> float:
        return float(np.mean([result.ret for result in self.results]))

    def _median_distance_m(self) -> float | None:
        distances = [result.distance_m for result in self.results]
        return None if None in distances else float(np.median(distances))     # type: ignore


class RunSequence(Course):
    """Decide which phase a run that learns is in and what is commanded next.

    With a sequential schedule the arm stands still after the rollouts of a turn until the policy
    learner has handed out what it made of them, and the controller has taken it. The time counts.

    Attributes:
        checks: evaluations that were asked for in between, complete ones.
    """

    def __init__(self, config: CollectionConfig, collector: Collector, progress_timeout_s: float,
                 schedule: ScheduleConfig | None = None, real_time_factor: float = 1.0) -> None:
        """Begin by waiting; see :class:`Course`.

        Args:
            config: limits of all that is waited for.
            collector: plans the episodes.
            progress_timeout_s: wall time that may pass between two events of an episode, s.
            schedule: whether the arm waits for the learners; None for one that does not.
            real_time_factor: seconds of robot time in one of wall time.
        """
        super().__init__(config, collector, progress_timeout_s, config.learners)
        self._schedule = schedule or ScheduleConfig()
        self._real_time_factor = real_time_factor
        self.checks: list[Check] = []
        self._checking: list[EpisodeResult] | None = None
        self._pinned = NO_VERSION
        self._turns = 0

    def evaluate(self) -> str:
        """Begin an evaluation with the next episode; give the reason if that cannot be."""
        if self.complete or self.phase != Phase.LEARNING:
            return f'the run is {self.phase.name.lower()}, not learning'
        if self._checking is not None:
            return 'an evaluation is going on already'
        if not self._config.live_evaluation_episodes:
            return 'collection.live_evaluation_episodes is 0'
        self._checking = []
        return ''

    def _judged(self, result: EpisodeResult) -> None:
        if result.mode != Mode.EVALUATION:
            return
        if self.phase == Phase.EVALUATING:
            self.evaluation.append(result)
        elif self._checking is not None:
            self._checking.append(result)

    def _step(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        if self.phase == Phase.WAITING:
            self._begin(seen, now_s, Phase.LEARNING)
            return None
        controller = seen.controller
        assert controller is not None
        if self._collector.open:
            self._stuck(controller, now_s)
            return None
        if self.phase == Phase.LEARNING:
            return self._learn(seen, controller, now_s, number)
        if self.phase == Phase.FINISHING:
            self._finish(seen, controller, now_s)
            return None
        return self._evaluate(controller, now_s, number)

    def _learn(self, seen: Surroundings, controller: ControllerView, now_s: float,
               number: int) -> EpisodeCommand | None:
        if self._checking is not None and not self._checked():
            # The learners go on meanwhile, so no version can be kept: each episode takes the
            # newest.
            return None if self._retrying(now_s) else self._collector.evaluation_command(
                number, NO_VERSION)
        collector, limit_s = self._collector, self._config.wall_time_s
        if limit_s and collector.wall_time_s(now_s * self._real_time_factor) >= limit_s:
            self._enter(Phase.FINISHING, now_s)
            return None
        if self._learners_turn(seen, controller):
            return None
        if collector.used_up:
            self._enter(Phase.FINISHING, now_s)
            return None
        if self._retrying(now_s):
            return None
        return collector.learning_command(number)

    def _learners_turn(self, seen: Surroundings, controller: ControllerView) -> bool:
        """Whether the arm has to wait for the learners, and say so."""
        schedule = self._schedule
        if not schedule.sequential:
            return False
        due = schedule.turns(self._collector.rollouts)
        if due <= self._turns:
            return False
        learner = seen.learners.get(POLICY_LEARNER)
        if (learner is None or learner.turns < due
                or controller.policy_version != learner.version):
            self.reason = f'{_LEARNERS_TURN}: turn {due}'
            return True
        self._turns, self.reason = due, ''
        return False

    def _checked(self) -> bool:
        """Whether the evaluation in between has come to its end; keep it then."""
        assert self._checking is not None
        done, wanted = len(self._checking), self._config.live_evaluation_episodes
        self.reason = f'evaluating in between: {done} of {wanted} episodes'
        if done < wanted:
            return False
        self.checks.append(Check(self._collector.motion_time_s, tuple(self._checking)))
        self._checking, self.reason = None, ''
        return True

    def _finish(self, seen: Surroundings, controller: ControllerView, now_s: float) -> None:
        missing = [f'{name} to save' for name in self._config.learners
                   if name not in seen.learners or not seen.learners[name].finished]
        self.trained = not missing
        if not missing and POLICY_LEARNER in seen.learners:
            last = seen.learners[POLICY_LEARNER].version
            if controller.policy_version != last:
                rejection = controller.last_rejection
                missing.append(f'the controller to take the last policy, {last}, in place of '
                               f'{controller.policy_version}'
                               + (f' (last refused: {rejection})' if rejection else ''))
        if not self._wait(missing, now_s, self._config.finish_timeout_s):
            self._pinned = controller.policy_version
            self.evaluation, self.evaluation_aborted = [], 0
            self._enter(Phase.EVALUATING, now_s)

    def _evaluate(self, controller: ControllerView, now_s: float,
                  number: int) -> EpisodeCommand | None:
        if len(self.evaluation) >= self._config.live_evaluation_episodes:
            self.complete, self.reason = True, 'writing the recording'
            return None
        if controller.policy_version != self._pinned:
            # A policy learner that was restarted hands out its policy under a version of its
            # own: evaluate that one, from the beginning.
            self._enter(Phase.FINISHING, now_s)
            return None
        if self._retrying(now_s):
            return None
        return self._collector.evaluation_command(number, self._pinned)
