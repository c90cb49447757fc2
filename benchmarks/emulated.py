"""Learning on the emulated clock, judged now and then by the mean actions on fixed goals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from provenance import RESULTS

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import Transition
from async_mbrl.emulation.command import settings_of
from async_mbrl.emulation.run import EmulatedRun, EmulationSettings, Progress
from async_mbrl.simulation.offline import evaluate

GOALS = 50
GOALS_SEED = 77


class Fixed:
    """Acts by one policy and keeps what comes of it."""

    def __init__(self, policy: Snapshot) -> None:
        """Act by a policy."""
        self._policy = policy
        self.transitions: list[Transition] = []

    def first(self) -> Snapshot:
        """Give the policy."""
        return self._policy

    def take(self, transition: Transition) -> None:
        """Keep a transition; the policy stays."""
        self.transitions.append(transition)


def settings(algorithm: str, seed: int, dataset: Path | None = None, *changes: str,
             body: str | None = None) -> EmulationSettings:
    """Give the settings of an algorithm on the demo arm, or on a benchmark body.

    Where they limit the updates of the policy for each transition, it gets as many.
    """
    composition = compose(RunRequest(
        algorithm=algorithm, seed=seed, dataset=None if dataset is None else str(dataset),
        robot=body, task=body, set=changes), share_folder(), RESULTS)
    found = settings_of(composition)
    most = composition.improvement.max_updates_per_transition
    rate = {'policy_updates_per_transition': most} if most else {}
    return replace(found, schedule=replace(found.schedule, **rate))


def judge(chosen: EmulationSettings, policy: Snapshot) -> dict[str, float]:
    """Judge the mean actions of a policy on fixed goals."""
    found = evaluate(policy, chosen.robot, chosen.plant, chosen.task, chosen.network, GOALS,
                     GOALS_SEED)
    assert found.success_rate is not None and found.distances is not None
    return {'return': float(found.returns.mean()), 'success_rate': found.success_rate,
            'final_distance_m': float(np.median(found.distances))}


class Enough(Exception):
    """Nothing more is to be learned."""


def learn(chosen: EmulationSettings, samples: int, judged_every: int, *,
          enough: Callable[[dict[str, float]], bool] = lambda _: False) -> list[dict[str, float]]:
    """Learn; give how good the policy was at the start and after each so many transitions.

    Args:
        chosen: settings.
        samples: transitions at most.
        judged_every: transitions between two judgements.
        enough: whether a judgement is the last one.
    """
    run = EmulatedRun(chosen, samples)
    points = [{'robot_time_s': 0.0, 'samples': 0, **judge(chosen, run.first_policy())}]

    def watch(progress: Progress) -> None:
        if progress.samples - points[-1]['samples'] < judged_every:
            return
        policy = snapshots.decode(run.policy_bytes(), expected_kind='policy')
        points.append({'robot_time_s': progress.robot_time_s, 'samples': progress.samples,
                       'computing_s': progress.elapsed_s, **judge(chosen, policy)})
        if enough(points[-1]):
            raise Enough

    with contextlib.suppress(Enough):
        run.run(watch)
    return points
