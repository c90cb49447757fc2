"""Figures of a run in progress: one JSON object a line, about once a second."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import Collector
from async_mbrl.collection.course import Course


class MetricsFile:
    """Append lines to ``metrics.jsonl``; a resumed run goes on in the same file."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = path.open('a', buffering=1, encoding='utf-8')

    def write(self, record: dict[str, Any]) -> None:
        """Append a record as one line."""
        self._file.write(json.dumps(finite(record), separators=(',', ':')) + '\n')

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def metrics_record(collector: Collector, sequence: Course, account: Account, *,
                   unix_s: float, now_s: float) -> dict[str, Any]:
    """Give the figures of this moment; what is not known yet is left out.

    Args:
        collector: of the run.
        sequence: of the run.
        account: of the run.
        unix_s: system time, s since 1970.
        now_s: robot time, s.
    """
    record: dict[str, Any] = {
        'time': unix_s, 'phase': sequence.phase.name.lower(),
        'transitions': collector.transitions, 'episodes': collector.episodes,
        'motion_time_s': collector.motion_time_s, 'robot_time_s': collector.robot_time_s,
        'wall_time_s': collector.wall_time_s(now_s),
        'evaluation_episodes': len(sequence.evaluation),
    }
    if collector.learning_curve:
        _, record['return_mean'], record['success_rate'] = collector.learning_curve[-1]
        record['distance_m'] = collector.recent()[-1].distance_m
    if collector.takeover_curve:
        record['takeover'] = {
            'steps': collector.taken_over, 'last_episode_rate': collector.takeover_curve[-1][1],
            'rate': share(collector.taken_over, collector.transitions)}
    controller = account.controller
    if controller is not None:
        record['policy'] = {
            'incarnation': controller.policy_version.incarnation,
            'version': controller.policy_version.counter, 'age_s': controller.policy_age_s,
            'applied': controller.policies_applied, 'rejected': controller.policies_rejected,
        }
        if account.lag.last is not None:
            record['policy']['lag_versions'] = account.lag.last
        record['control'] = {
            'ticks': controller.ticks, 'late_ticks': controller.late_ticks,
            'interventions': controller.interventions, 'stale_holds': controller.stale_holds,
            **{name: getattr(controller, name) for name in (
                'jitter_p50_ms', 'jitter_p99_ms', 'jitter_p999_ms', 'jitter_max_ms', 'tick_p50_us',
                'tick_p99_us')},
        }
        record['latency_ms'] = {'policy_to_controller_p50': controller.policy_latency_p50_ms,
                                'policy_to_controller_p99': controller.policy_latency_p99_ms}
    if account.bridge is not None:
        record['bridge'] = {
            'real_time_factor': account.bridge.real_time_factor,
            'limit_violations': account.bridge.limit_violations,
            'command_gap_p99_ms': account.bridge.command_gap_p99_ms,
            'command_gap_max_ms': account.bridge.command_gap_max_ms,
        }
    for name, learner in account.learners.items():
        record[name] = {
            'updates': learner.updates, 'epochs': learner.epochs,
            'version': learner.version.counter, 'transitions': learner.next_transition,
            'transitions_recovered': account.learner_total(name, 'transitions_recovered'),
            'updates_in_motion': account.learner_total(name, 'updates_in_motion'),
            'waiting_share': share(account.learner_total(name, 'waiting_s'),
                                   account.learner_total(name, 'running_s')),
            'transition_latency_p50_ms': learner.transition_latency_p50_ms,
            'transition_latency_p99_ms': learner.transition_latency_p99_ms,
            'first_use_latency_p50_ms': learner.first_use_latency_p50_ms,
            'first_use_latency_p99_ms': learner.first_use_latency_p99_ms,
            **dict(zip(learner.metric_names, learner.metric_values, strict=False)),
        }
    return record


def share(part: float | None, whole: float | None) -> float | None:
    """Give a share; None of nothing."""
    return part / whole if part is not None and whole else None


def finite(value: Any) -> Any:
    """Give nested mappings and lists with null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
