"""The course of a run, as a state machine: when to wait, learn, finish, evaluate, and give up."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from async_mbrl.collection.collector import CollectionConfig, Collector, EpisodeResult, Taken
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import EpisodeCommand, Mode

POLICY_LEARNER = 'policy_learner'
"""The learner whose snapshots the controller acts with."""


SETTLE_S = 1.0
"""Wall time that the last events of an episode get to arrive after the controller has stopped."""


class Phase(enum.IntEnum):
    """Values as in RunStatus."""

    WAITING = 0
    LEARNING = 1
    FINISHING = 2
    EVALUATING = 3
    DONE = 4
    FAILED = 5


@dataclass(frozen=True)
class ControllerView:
    """What was last heard of the controller."""

    state: str
    fault: str
    policy_version: Version
    last_rejection: str
    heard_s: float


@dataclass(frozen=True)
class LearnerView:
    """What was last heard of a learner."""

    finished: bool
    version: Version


@dataclass(frozen=True)
class Surroundings:
    """What was last heard of everyone; times are steady wall time, s."""

    joint_states_missing: str = ''
    control_steps_missing: bool = False
    controller: ControllerView | None = None
    learners: Mapping[str, LearnerView] = field(default_factory=dict)


class RunSequence:
    """Decide from what is heard which phase the run is in and what is commanded next.

    Attributes:
        phase: where the run is.
        reason: what is waited for, or why the run failed.
        complete: nothing more will be commanded; what is left is to write the files.
        interrupted: asked to stop before the end.
        trained: the learners have ended.
        evaluation: results of the live evaluation of the last policy.
        evaluation_aborted: episodes of it that were aborted, and tried again.
    """

    def __init__(self, config: CollectionConfig, collector: Collector,
                 progress_timeout_s: float) -> None:
        """Begin by waiting.

        Args:
            config: limits of all that is waited for.
            collector: plans the episodes.
            progress_timeout_s: wall time that may pass between two events of an episode, s.
        """
        self._config = config
        self._collector = collector
        self._progress_timeout_s = progress_timeout_s
        self.phase = Phase.WAITING
        self.reason = ''
        self.complete = False
        self.interrupted = False
        self.trained = False
        self.evaluation: list[EpisodeResult] = []
        self.evaluation_aborted = 0
        self._since: float | None = None
        self._settled_since = 0.0
        self._retry_at = 0.0
        self._progress = 0.0
        self._aborts = 0
        self._pinned = NO_VERSION

    def advance(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        """Move on as far as possible; give the command to be published, if one is due.

        Args:
            seen: what is known of the others.
            now_s: steady wall time, s.
            number: number that the command shall have.
        """
        if self._since is None:
            self._since = self._settled_since = now_s
        while not self.complete:
            before = self.phase
            command = self._step(seen, now_s, number)
            if command is not None:
                self._progress = now_s
                return command
            if self.phase == before:
                break
        return None

    def took(self, taken: Taken, now_s: float) -> None:
        """Take note of what an event of the control loop has come to."""
        self._progress = now_s
        if taken.aborted is not None:
            self._aborts += 1
            self.evaluation_aborted += self.phase == Phase.EVALUATING
            self._retry_at = now_s + self._config.retry_s
            if self._aborts >= self._config.maximum_aborts:
                self.fail(f'{self._aborts} episodes in a row were aborted: {taken.aborted}')
        elif taken.result is not None:
            self._aborts = 0
            if taken.result.mode == Mode.EVALUATION and self.phase == Phase.EVALUATING:
                self.evaluation.append(taken.result)

    def controller_restarted(self, now_s: float) -> None:
        """Begin to wait anew: whatever the controller was doing is gone."""
        self._collector.abandon()
        if not self.complete:
            self._enter(Phase.WAITING, now_s)

    def fail(self, reason: str) -> None:
        """Give the run up."""
        if not self.complete:
            self.phase, self.reason, self.complete = Phase.FAILED, reason, True

    def interrupt(self) -> None:
        """Stop here; the run can be resumed."""
        if not self.complete:
            self.reason, self.complete, self.interrupted = 'interrupted', True, True

    def written(self) -> None:
        """Take note that all files are written."""
        if self.complete and not self.interrupted and self.phase != Phase.FAILED:
            self.phase, self.reason = Phase.DONE, ''

    def _step(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        controller = seen.controller
        if controller is not None and controller.state == 'fault':
            self.fail(f'controller: {controller.fault or "fault"}')
            return None
        if self.phase == Phase.WAITING:
            if not self._wait(self._missing(seen, now_s), now_s, self._config.start_timeout_s):
                # An episode that is still open now was never begun: its command got lost with an
                # earlier process.
                self._collector.abandon()
                self._enter(Phase.LEARNING, now_s)
            return None
        assert controller is not None
        silent = now_s - controller.heard_s
        if silent > self._config.silence_timeout_s:
            self.fail(f'the controller has been silent for {silent:.0f} s')
            return None
        if self._collector.open:
            stuck = now_s - self._progress
            if stuck > self._progress_timeout_s:
                self.fail(f'the controller is alive ({controller.state}), but no control step has '
                          f'come for {stuck:.0f} s')
            return None
        if self.phase == Phase.LEARNING:
            return self._learn(now_s, number)
        if self.phase == Phase.FINISHING:
            self._finish(seen, controller, now_s)
            return None
        return self._evaluate(controller, now_s, number)

    def _learn(self, now_s: float, number: int) -> EpisodeCommand | None:
        if self._collector.used_up:
            self._enter(Phase.FINISHING, now_s)
            return None
        if now_s < self._retry_at:
            return None
        return self._collector.learning_command(number)

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
        if now_s < self._retry_at:
            return None
        return self._collector.evaluation_command(number, self._pinned)

    def _missing(self, seen: Surroundings, now_s: float) -> list[str]:
        standing = seen.controller is not None and seen.controller.state in ('idle', 'holding')
        if not standing or seen.control_steps_missing:
            self._settled_since = now_s
        missing = [seen.joint_states_missing] if seen.joint_states_missing else []
        if seen.controller is None:
            missing.append('controller (no controller_status)')
        elif seen.controller.policy_version == NO_VERSION:
            rejection = seen.controller.last_rejection
            missing.append('a policy in the controller'
                           + (f' (last refused: {rejection})' if rejection else ''))
        elif seen.controller.state == 'waiting':
            missing.append('joint states in the controller')
        elif not standing or (self._collector.open
                              and now_s - self._settled_since < SETTLE_S):
            missing.append('the controller to end the episode that it is in')
        if seen.control_steps_missing:
            missing.append('control steps of before')
        return missing + [f'{name} (no learner_status)' for name in self._config.learners
                          if name not in seen.learners]

    def _wait(self, missing: list[str], now_s: float, timeout_s: float) -> bool:
        if not missing:
            return False
        assert self._since is not None
        self.reason = 'waiting for ' + ', '.join(missing)
        if now_s - self._since > timeout_s:
            self.fail(f'{", ".join(missing)}: not there after {timeout_s:.0f} s')
        return True

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self.reason = phase, ''
        self._since = self._settled_since = now_s
