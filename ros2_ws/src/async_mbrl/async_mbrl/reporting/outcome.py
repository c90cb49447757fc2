"""The outcome of a run: its summary, and the evaluation that completes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.bringup.composition import Composition
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError, look_up
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import Snapshot, SnapshotError

EVALUATION_EPISODES = 200
EVALUATION_SEED = 1_000_003
"""Goals of the offline evaluation; far from the seeds of runs, so that no goal was seen before."""


def stopped(summary: Mapping[str, Any]) -> bool:
    """Say whether a run was ended in order before it was complete, by a signal or ``~/stop``."""
    return summary.get('phase') not in ('done', 'failed') and summary.get('reason') == 'interrupted'


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Give the summary of a run; empty if it has none.

    Raises:
        ConfigError: it is not JSON.
    """
    if not folder.summary.exists():
        return {}
    try:
        summary = json.loads(folder.summary.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f'{folder.summary}: not valid JSON: {error}') from None
    if not isinstance(summary, dict):
        raise ConfigError(f'{folder.summary}: expected a mapping')
    return summary


def extend_summary(folder: RunFolder, more: Mapping[str, Any]) -> dict[str, Any]:
    """Put fields into the summary of a run, mappings into mappings, and give all of it."""
    summary = read_summary(folder)
    _merge(summary, more)
    write_atomically(folder.summary, json.dumps(summary, indent=2) + '\n')
    return summary


def read_snapshot(path: Path) -> Snapshot:
    """Read a policy snapshot from disk and verify it.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        return snapshots.read(path, expected_kind='policy')
    except FileNotFoundError:
        raise ConfigError(f'{path}: no such file; the run has not saved it yet') from None
    except SnapshotError as error:
        raise ConfigError(f'{path}: {error}') from None


def evaluate_offline(folder: RunFolder, composition: Composition, episodes: int = 0,
                     seed: int = EVALUATION_SEED) -> dict[str, Any]:
    """Judge the last policy of a run by fresh goals, with the same control code, without waiting.

    Args:
        folder: the run; its summary gets the result as ``evaluation.offline``.
        composition: its configuration.
        episodes: how many goals; 0 for :data:`EVALUATION_EPISODES`.
        seed: of goals, start poses and sensor noise.

    Returns:
        The whole summary.

    Raises:
        ConfigError: the run has no policy, or it does not fit the configuration.
    """
    from async_mbrl.simulation.offline import evaluate

    if composition.plant is None:
        robot = composition.robot.name
        raise ConfigError(f'{folder.config}: robot {robot} cannot be simulated, so it is judged by '
                          f'its live evaluation alone; write {robot}.sim.yaml to change that')
    snapshot = read_snapshot(folder.policy)
    try:
        result = evaluate(snapshot, composition.robot, composition.plant, composition.task,
                          composition.network, episodes or EVALUATION_EPISODES, seed)
    except SnapshotError as error:
        raise ConfigError(f'{folder.policy}: {error}') from None
    offline = {**figures(result.distances, result.returns, result.success_rate),
               'aborted': len(result.aborts), 'seed': seed,
               'policy_version': str(snapshot.version)}
    return extend_summary(folder, {'evaluation': {'offline': offline}})


def figures(distances: np.ndarray | None, returns: np.ndarray,
            success_rate: float | None) -> dict[str, Any]:
    """Sum up final distances (episodes,), m, and returns (episodes,) of an evaluation.

    None stands for what the task does not define.
    """
    return {
        'episodes': len(returns),
        'success_rate': success_rate,
        'final_distance_m': {
            'median': None if distances is None else float(np.median(distances)),
            'p95': None if distances is None else float(np.percentile(distances, 95))},
        'return': {'mean': float(np.mean(returns)), 'std': float(np.std(returns))},
    }


def deciding(summary: Mapping[str, Any]) -> str:
    """Name the evaluation that decides: offline where there is one, otherwise live."""
    return 'offline' if look_up(summary, 'evaluation.offline') else 'live'


def succeeded(summary: Mapping[str, Any], composition: Composition) -> bool:
    """Whether the evaluation that decides met the success criterion of the task, if it has one."""
    wanted = composition.task.wanted_success_rate
    rate = look_up(summary, f'evaluation.{deciding(summary)}.success_rate') or 0.0
    return wanted is None or float(rate) >= wanted


def closing_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give what is worth a line at the end of a run: names and values as text."""
    rows: list[tuple[str, str]] = []

    def add(name: str, template: Callable[..., str], *paths: str) -> None:
        values = [look_up(summary, path) for path in paths]
        if all(isinstance(value, (int, float)) for value in values):
            rows.append((name, template(*values)))

    for kind, title in (('offline', 'goals reached, offline'), ('live', 'goals reached, live')):
        path = f'evaluation.{kind}'
        add(title, lambda share, count, median, p95:
            f'{share:.1%} of {count}; ended {median * 1000:.1f} mm off (median), '
            f'{p95 * 1000:.1f} mm (p95)',
            f'{path}.success_rate', f'{path}.episodes', f'{path}.final_distance_m.median',
            f'{path}.final_distance_m.p95')
        if look_up(summary, f'{path}.final_distance_m.median') is None:
            add(f'return, {kind}', lambda mean, std, count: f'{mean:.1f} ± {std:.1f} (mean and '
                f'standard deviation of {count} episodes)', f'{path}.return.mean',
                f'{path}.return.std', f'{path}.episodes')
            add(f'successes, {kind}', lambda share: f'{share:.1%}', f'{path}.success_rate')
    add('data time', lambda data, motion: f'{data:.0f} s, {motion:.0f} s of it in motion',
        'robot_time_s', 'motion_time_s')
    add('run time / data time', lambda ratio, wall: f'{ratio:.3f} ({wall:.0f} s)',
        'data_time_ratio', 'wall_time_s')
    add('transitions', lambda count, lost: f'{count} collected, {lost} lost',
        'transitions.collected', 'transitions.lost')
    add('learning', lambda model, policy: f'{model:.0f} model updates, {policy:.0f} policy updates '
        'while the arm moved', 'updates_during_motion.model_learner',
        'updates_during_motion.policy_learner')
    if look_up(summary, 'updates_during_motion.model_learner') is None:
        add('learning', lambda policy: f'{policy:.0f} policy updates while the arm moved',
            'updates_during_motion.policy_learner')
    add('policies', lambda published, applied: f'{published} published, {applied} taken over',
        'policy.versions_published', 'policy.versions_applied')
    add('policy age', lambda p50, p99: f'{p50:.2f} s (median), {p99:.2f} s (p99)',
        'policy.age_s.p50', 'policy.age_s.p99')
    add('control jitter', lambda p50, p99, worst: f'{p50:.3f} ms (median), {p99:.3f} ms (p99), '
        f'{worst:.2f} ms at most', 'control.jitter_ms.p50', 'control.jitter_ms.p99',
        'control.jitter_ms.max')
    add('commands beyond limits', lambda count: f'{count}', 'safety.limit_violations_sent')
    return rows


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
