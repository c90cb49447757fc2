"""What every run has in common: waiting for the others, pausing, retrying, giving up."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from async_mbrl.collection.collector import (
    CollectionConfig,
    Collector,
    EpisodeResult,
    NoPlanError,
    Taken,
    hold,
)
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import NOT_NOW, EpisodeCommand

SETTLE_S = 1.0
"""Wall time that the last events of an episode get to arrive after the controller has stopped."""

CLEAR = 'ros2 service call controller/clear_fault std_srvs/srv/Trigger'
"""What an operator does about a fault or an emergency stop, once its cause is gone."""

STANDING = ('idle', 'ready', 'holding')
"""States of a controller that executes nothing."""


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
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LearnerView:
    """What was last heard of a learner; ``turns`` are those behind its newest snapshot, if any."""

    finished: bool
    version: Version
    heard_s: float = 0.0
    turns: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What was last heard of everyone; times are steady wall time, s."""

    joint_states_missing: str = ''
    control_steps_missing: bool = False
    controller: ControllerView | None = None
    learners: Mapping[str, LearnerView] = field(default_factory=dict)


@dataclass
class _Abort:
    """An aborted episode of which it is not known yet whether it counts."""

    reason: str
    time_s: float


class Course:
    """Decide from what is heard what is commanded next; a subclass knows what for.

    While someone has asked to pause, or the arm must not move, nothing is commanded and no time
    limit runs; an episode that is going on is ended by a command to hold. An episode that is
    aborted counts against the run only if the controller is not found in such a state then.

    Attributes:
        phase: where the run is.
        reason: what is waited for, why it is paused, or why the run failed.
        paused: asked to pause, or the arm must not move.
        complete: nothing more will be commanded; what is left is to write the files.
        interrupted: asked to stop before the end.
        trained: the learners have ended.
        evaluation: results of the live evaluation of the last policy.
        evaluation_aborted: episodes of it that were aborted, and tried again.
    """

    def __init__(self, config: CollectionConfig, collector: Collector,
                 progress_timeout_s: float, learners: tuple[str, ...]) -> None:
        """Begin by waiting.

        Args:
            config: limits of all that is waited for.
            collector: plans the episodes.
            progress_timeout_s: wall time that may pass between two events of an episode, s.
            learners: who must be there to begin.
        """
        self._config = config
        self._collector = collector
        self._progress_timeout_s = progress_timeout_s
        self._learners = learners
        self.phase = Phase.WAITING
        self.reason = ''
        self.paused = False
        self.complete = False
        self.interrupted = False
        self.trained = False
        self.evaluation: list[EpisodeResult] = []
        self.evaluation_aborted = 0
        self._asked: dict[str, str] = {}
        self._refused = ''
        self._fault_since: float | None = None
        self._since: float | None = None
        self._settled_since = 0.0
        self._retry_at = 0.0
        self._progress = 0.0
        self._aborts = 0
        self._abort: _Abort | None = None

    def advance(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        """Move on as far as possible; give the command to be published, if one is due.

        Args:
            seen: what is known of the others.
            now_s: steady wall time, s.
            number: number that the command shall have.
        """
        if self._since is None:
            self._since = self._settled_since = now_s
        self._check_silence(seen, now_s)
        blocked = self._blocked(seen, now_s)
        self._count_abort(bool(blocked), seen, now_s)
        if self.complete:
            return None
        why = next(iter(self._asked.values()), blocked)
        if why:
            return self._stand(why, number)
        if self._refused:
            # Asked again now and then; whether orders are taken shows by what follows.
            self.paused, self.reason = True, f'the controller takes no orders: {self._refused}'
            if not self._collector.open and now_s < self._retry_at:
                return None
        elif self.paused:
            self.paused, self.reason = False, ''
            self._since = self._settled_since = self._progress = now_s
        while not self.complete:
            before = self.phase
            try:
                command = self._step(seen, now_s, number)
            except NoPlanError as error:
                self._note_abort(str(error), now_s)
                return None
            if command is not None:
                self._progress = now_s
                return command
            if self.phase == before:
                break
        return None

    def took(self, taken: Taken, now_s: float) -> None:
        """Take note of what an event of the control loop has come to."""
        self._progress = now_s
        if taken.aborted is not None and taken.aborted.startswith(NOT_NOW):
            self._refused = taken.aborted.removeprefix(NOT_NOW)
            self._retry_at = now_s + self._config.retry_s
        elif taken.aborted is not None:
            self.evaluation_aborted += self.phase == Phase.EVALUATING
            self._note_abort(taken.aborted, now_s)
        elif taken.result is not None:
            self._aborts, self._refused = 0, ''
            self._judged(taken.result)

    def acted(self) -> None:
        """Take note that the controller does what was ordered."""
        self._refused = ''

    def broke_off(self, reason: str, now_s: float, number: int) -> EpisodeCommand | None:
        """End the open episode for a reason of our own; give the command that does it."""
        if self.complete or not self._collector.open:
            return None
        self._note_abort(reason, now_s)
        return hold(number)

    def ask_pause(self, who: str, reason: str) -> None:
        """Pause from the next :meth:`advance` on, until the same one releases."""
        self._asked[who] = reason

    def release(self, who: str) -> bool:
        """Take back the wish of one to pause; False if there was none."""
        return self._asked.pop(who, None) is not None

    def evaluate(self) -> str:
        """Begin an evaluation in between; give the reason if that cannot be."""
        return 'only a run that learns can be evaluated in between'

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

    # ---- what a subclass says ----

    def _step(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        """Do what is due; give the command if there is one."""
        raise NotImplementedError

    def _judged(self, result: EpisodeResult) -> None:
        """Take the result of an episode that ran to its end."""

    # ---- why nothing may be commanded ----

    def _check_silence(self, seen: Surroundings, now_s: float) -> None:
        """Fail if the controller has been silent for too long, once the run has begun."""
        if self.phase == Phase.WAITING or seen.controller is None:
            return
        silent = now_s - seen.controller.heard_s
        if silent > self._config.silence_timeout_s:
            self.fail(f'the controller has been silent for {silent:.0f} s')

    def _blocked(self, seen: Surroundings, now_s: float) -> str:
        """Say why the arm must not move and what to do about it; empty if it may."""
        controller = seen.controller
        if controller is None:
            return ''
        if controller.state != 'fault':
            self._fault_since = None
        what = controller.fault or controller.state
        if controller.causes:
            what += f' (still there: {", ".join(controller.causes)})'
        if controller.state == 'estop':
            return (f'emergency stop: {what}; once it is safe to move, release it, then clear it: '
                    f'{CLEAR}')
        if controller.state == 'fault':
            if self._fault_since is None:
                self._fault_since = now_s
            if now_s - self._fault_since >= self._config.fault_patience_s:
                self.fail(f'controller: {what}')
            return f'the controller is in fault: {what}; once its cause is gone, clear it: {CLEAR}'
        return ''

    def _stand(self, why: str, number: int) -> EpisodeCommand | None:
        """Command nothing but, where something may be going on, to hold, once."""
        self.reason = why
        if self.paused:
            return None
        self.paused = True
        return hold(number) if self._collector.open or self.phase != Phase.WAITING else None

    # ---- aborted episodes ----

    def _note_abort(self, reason: str, now_s: float) -> None:
        self._abort = _Abort(reason, now_s)
        self._retry_at = now_s + self._config.retry_s

    def _count_abort(self, blocked: bool, seen: Surroundings, now_s: float) -> None:
        """Count an aborted episode, unless the controller says that it could not go on."""
        if self._abort is None:
            return
        if blocked:
            self.evaluation_aborted -= self.phase == Phase.EVALUATING
            self._abort = None
            return
        heard = seen.controller is None or seen.controller.heard_s >= self._abort.time_s
        if now_s < self._retry_at or not heard:
            return
        self._aborts += 1
        if self._aborts >= self._config.maximum_aborts:
            self.fail(f'{self._aborts} episodes in a row were aborted: {self._abort.reason}')
        self._abort = None

    def _retrying(self, now_s: float) -> bool:
        """Whether the time between an aborted episode and the next is not over."""
        return self._abort is not None or now_s < self._retry_at

    # ---- waiting ----

    def _begin(self, seen: Surroundings, now_s: float, phase: Phase) -> None:
        """Enter a phase once everyone is there who is needed."""
        if not self._wait(self._missing(seen, now_s), now_s, self._config.start_timeout_s):
            # An episode that is still open now was never begun: its command got lost with an
            # earlier process.
            self._collector.abandon()
            self._enter(phase, now_s)

    def _stuck(self, controller: ControllerView, now_s: float) -> None:
        """Fail if the open episode makes no progress."""
        stuck = now_s - self._progress
        if stuck > self._progress_timeout_s:
            self.fail(f'the controller is alive ({controller.state}), but no control step has '
                      f'come for {stuck:.0f} s')

    def _missing(self, seen: Surroundings, now_s: float) -> list[str]:
        standing = seen.controller is not None and seen.controller.state in STANDING
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
        return missing + [f'{name} (no learner_status)' for name in self._learners
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
