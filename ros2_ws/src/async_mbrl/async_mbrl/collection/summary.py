"""The summary of a run: one JSON file whose keys scripts rely on. Null is what is not known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from async_mbrl.collection.account import POLICY_LEARNER, Account
from async_mbrl.collection.collector import Collector, EpisodeResult
from async_mbrl.collection.metrics import finite, share
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder
from async_mbrl.core.schedule import ScheduleConfig

MODEL_LEARNER = 'model_learner'


@dataclass(frozen=True)
class RunFacts:
    """What a summary says of a run besides what was counted.

    Attributes:
        numbers_missing: numbers left out by the transitions in the journal.
        evaluation_aborted: episodes of the live evaluation that were aborted.
        mode: learn or use.
        dry_run: nothing was sent to the arm.
        goals: what came of goals from outside, in mode use.
        checks: evaluations that were asked for in between.
        plans_refused: start poses and goals drawn anew because of a collision.
        collision_holds: times that the arm was held because it was about to collide.
        schedule: how collecting and learning took turns.
    """

    task: str
    robot: str
    algorithm: str
    seed: int
    ros_distro: str | None
    rmw: str | None
    phase: str
    reason: str
    wall_time_s: float
    judged_by: str | None
    numbers_missing: int = 0
    evaluation_aborted: int = 0
    mode: str = 'learn'
    dry_run: bool = False
    goals: dict[str, Any] | None = None
    checks: tuple[dict[str, Any], ...] = ()
    plans_refused: int = 0
    collision_holds: int = 0
    schedule: ScheduleConfig = ScheduleConfig()


def build_summary(facts: RunFacts, collector: Collector, account: Account,
                  evaluation: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Build the summary.

    Counters and times of a learner are summed over its starts; percentiles of latencies, as those
    of jitter, are of the last start of the node. ``ticks``, ``late_ticks``, ``jitter_ms``,
    ``tick_us`` and ``command_gap_ms`` are as last heard while the run was learning: from the start
    of the node on, moves between episodes included, but not what came after learning.
    ``takeover.rate`` is the share of the steps of learning episodes in which a person acted, its
    ``curve`` that of each such episode. Episodes with such steps are not in ``learning_curve``, nor
    such steps in ``policy.lag_versions``: both tell of the policy.
    ``transitions.lost`` is what the numbering in the journal leaves out and, once a run is over,
    what a learner had not received.

    Args:
        facts: what the run is, and its wall time from the first learning step to the end of
            training, s.
        collector: of the run.
        account: of the run.
        evaluation: the live evaluation of the last policy.
    """
    controller, bridge = account.controller, account.bridge
    model, policy = (account.learners.get(name) for name in (MODEL_LEARNER, POLICY_LEARNER))
    totals = {name: total.value for name, total in account.totals.items()}
    loaded = account.controller_under_load
    learners = {MODEL_LEARNER: model, POLICY_LEARNER: policy}
    received = [item.next_transition for item in learners.values() if item is not None]
    missing = max(0, collector.transitions - min(received)) if received else None
    if model is None and facts.schedule.sequential:     # one learner is both
        learned = {name: _metric(policy, f'model.{name}')
                   for name in ('updates', 'epochs', 'validation_loss')}
    else:
        learned = {**_fields(model, updates='updates', epochs='epochs'),
                   'validation_loss': _metric(model, 'validation_loss')}
    # What a learner has not confirmed while a run still goes on is not lost: the journal has it.
    over = facts.phase in ('done', 'failed')
    lost: int | None = facts.numbers_missing
    if over:
        lost = None if missing is None else facts.numbers_missing + missing
    return {
        'task': facts.task,
        'robot': facts.robot,
        'algorithm': facts.algorithm,
        'schedule': facts.schedule.name,
        'schedule_settings': asdict(facts.schedule),
        'seed': facts.seed,
        'ros_distro': facts.ros_distro,
        'rmw': facts.rmw,
        'mode': facts.mode,
        'dry_run': facts.dry_run,
        'phase': facts.phase,
        'reason': facts.reason,
        'motion_time_s': collector.motion_time_s,
        'robot_time_s': collector.robot_time_s,
        'wall_time_s': facts.wall_time_s,
        'collection_time_s': collector.collection_time_s,
        'data_time_ratio': share(facts.wall_time_s, collector.robot_time_s),
        'episodes': collector.episodes,
        'resets': collector.resets,
        'transitions': {
            'collected': collector.transitions,
            **{name: None if item is None else item.next_transition
               for name, item in learners.items()},
            'recovered': {name: account.learner_total(name, 'transitions_recovered')
                          for name in learners},
            'lost': lost,
            'outstanding': None if over else missing,
        },
        'waiting_share': {name: share(account.learner_total(name, 'waiting_s'),
                                      account.learner_total(name, 'running_s'))
                          for name in learners},
        'updates_during_motion': {name: account.learner_total(name, 'updates_in_motion')
                                  for name in learners},
        'policy': {
            'versions_published': account.versions_published,
            'versions_applied': None if controller is None else totals['policies_applied'],
            'rejected': None if controller is None else totals['policies_rejected'],
            'age_s': _fields(controller, p50='policy_age_p50_s', p99='policy_age_p99_s'),
            'lag_versions': {'p50': account.lag.percentile(0.5),
                             'p99': account.lag.percentile(0.99)},
            'updates': None if policy is None else policy.updates,
        },
        'model': learned,
        'updates_per_transition': {
            name: share(updates, collector.transitions) for name, updates in (
                ('model', learned['updates']),
                ('policy', None if policy is None else policy.updates))},
        'control': {
            'rate_hz': getattr(controller, 'rate_hz', None),
            **{name: None if loaded is None else total.value
               for name, total in account.totals_under_load.items()},
            'jitter_ms': _fields(loaded, p50='jitter_p50_ms', p99='jitter_p99_ms',
                                 p999='jitter_p999_ms', max='jitter_max_ms'),
            'tick_us': _fields(loaded, p50='tick_p50_us', p99='tick_p99_us'),
            'command_gap_ms': _fields(
                account.bridge_under_load, p50='command_gap_p50_ms', p99='command_gap_p99_ms',
                p999='command_gap_p999_ms', max='command_gap_max_ms'),
            'scheduler': getattr(controller, 'scheduler', None),
        },
        'safety': {
            'limit_violations_sent': None if bridge is None else totals['limit_violations'],
            'interventions': None if controller is None else totals['interventions'],
            'stale_holds': None if controller is None else totals['stale_holds'],
            'collision_holds': facts.collision_holds,
            'plans_refused': facts.plans_refused,
            'faults': list(account.faults),
        },
        'takeover': {
            'steps': collector.taken_over,
            'rate': share(collector.taken_over, collector.transitions),
            'curve': collector.takeover_curve,
        },
        'latency_ms': {
            'transition_to_learner': _worst(learners, 'transition_latency'),
            'transition_to_first_use': _worst(learners, 'first_use_latency'),
            'policy_to_controller': _fields(controller, p50='policy_latency_p50_ms',
                                            p99='policy_latency_p99_ms'),
        },
        'evaluation': {
            'offline': None,
            'live': _evaluation(evaluation, facts) if evaluation or facts.evaluation_aborted
            else None,
            'in_between': list(facts.checks),
        },
        'goals': facts.goals,
        'learning_curve': collector.learning_curve,
        'respawns': {},
    }


def write_summary(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write ``summary.json``; the restarts that an earlier part of the run counted are kept."""
    try:
        earlier = json.loads(folder.summary.read_text())
    except (OSError, ValueError):
        earlier = {}
    if isinstance(earlier, dict) and isinstance(earlier.get('respawns'), dict):
        summary = {**summary, 'respawns': earlier['respawns']}
    write_atomically(folder.summary, json.dumps(finite(summary), indent=2) + '\n')


def _evaluation(results: Sequence[EpisodeResult], facts: RunFacts) -> dict[str, Any]:
    """Give the figures of the live evaluation; an aborted episode is no success."""
    distances = [result.distance_m for result in results if result.distance_m is not None]
    returns = [result.ret for result in results]
    verdicts = [result.success for result in results]
    return {
        'episodes': len(results),
        'aborted': facts.evaluation_aborted,
        'success_rate': None if None in verdicts else share(
            sum(map(bool, verdicts)), len(results) + facts.evaluation_aborted),
        'final_distance_m': {'median': float(np.median(distances)) if distances else None,
                             'p95': float(np.percentile(distances, 95)) if distances else None},
        'return': {'mean': float(np.mean(returns)) if results else None,
                   'std': float(np.std(returns)) if results else None},
        'policy_version': str(results[-1].policy_version) if results else None,
        'judged_by': facts.judged_by,
    }


def _fields(message: Any, **names: str) -> dict[str, Any]:
    return {key: None if message is None else getattr(message, name)
            for key, name in names.items()}


def _metric(message: Any, name: str) -> float | None:
    if message is None or name not in list(message.metric_names):
        return None
    return float(message.metric_values[list(message.metric_names).index(name)])


def _worst(learners: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the figures of the learner that is worse off, and those of each."""
    each = {learner: _fields(message, p50=f'{name}_p50_ms', p99=f'{name}_p99_ms')
            for learner, message in learners.items() if message is not None}
    worst: dict[str, Any] = {
        key: max((figures[key] for figures in each.values()), default=None)
        for key in ('p50', 'p99')}
    return {**worst, **each}
