"""How much the learners do after each transition, where no clock decides it."""

from __future__ import annotations

from typing import Protocol

from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import Transition
from async_mbrl.learning.learner import Learner
from async_mbrl.learning.sequential import SequentialLearner


class Pace(Protocol):
    """Learners under a schedule, transition by transition."""

    def first(self) -> Snapshot:
        """Give the policy to begin with."""
        ...

    def take(self, transition: Transition) -> Snapshot | None:
        """Learn as much as the transition allows; give the policy if there is a newer one."""
        ...


class SideBySide:
    """The asynchronous schedule: a stated number of updates of each learner for each transition.

    What a learner could not use, for want of data or because it has stopped early, is forfeited: it
    is never caught up with later.
    """

    def __init__(self, schedule: ScheduleConfig, model: Learner | None, policy: Learner) -> None:
        """Begin with learners that have learned nothing; ``model`` None where none is needed."""
        self._schedule = schedule
        self._model = model
        self._policy = policy
        self._model_credit = self._policy_credit = 0.0
        self._handed = 0

    def first(self) -> Snapshot:
        """Give the policy to begin with."""
        return self._policy.snapshot()

    def take(self, transition: Transition) -> Snapshot | None:
        """Learn as much as the transition allows; give the policy if there is a newer one."""
        schedule, model, policy = self._schedule, self._model, self._policy
        if model is not None:
            model.take([transition])
            self._model_credit = _spend(
                model, self._model_credit + schedule.model_updates_per_transition)
        policy.take([transition])
        self._policy_credit += schedule.policy_updates_per_transition
        before = policy.updates
        if self._policy_credit >= 1.0:
            if model is not None and model.ready and model.updates > self._handed:
                policy.take_snapshot(model.snapshot())
                self._handed = model.updates
            self._policy_credit = _spend(policy, self._policy_credit)
        # At the end of an episode also without an update: exploration depends on the data.
        if policy.updates > before or transition.terminated or transition.truncated:
            return policy.snapshot()
        return None


class Sequential:
    """A schedule in which the robot waits until the learners have had their turn."""

    def __init__(self, learner: SequentialLearner) -> None:
        """Begin with learners that have learned nothing."""
        self._learner = learner

    def first(self) -> Snapshot:
        """Give the policy to begin with."""
        return self._learner.snapshot()

    def take(self, transition: Transition) -> Snapshot | None:
        """Take the transition; where it ends the rollouts of a turn, do the turn."""
        before = self._learner.news
        self._learner.take([transition])
        while self._learner.step():
            pass
        return None if self._learner.news == before else self._learner.snapshot()


def _spend(learner: Learner, credit: float) -> float:
    """Take updates while there is credit for one; give what is left, a debt if it is below 0."""
    while credit >= 1.0:
        before = learner.updates
        if not learner.step():
            return credit % 1.0
        credit -= learner.updates - before
    return credit
