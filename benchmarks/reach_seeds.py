"""The arm learns to reach, seed by seed, live through the whole graph: what every run came to.

Each run is one ``async-mbrl up sim``, nothing beside it. A run that is complete is not run again,
so an interrupted benchmark goes on where it was. Needs a sourced environment
(``. scripts/env.sh``); a run of 60 s of motion takes about four and a half minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import RESULTS, ROOT, provenance

from async_mbrl.core.config import look_up
from async_mbrl.reporting import figures

FIGURES = (
    'evaluation.offline.success_rate', 'evaluation.offline.final_distance_m.median',
    'evaluation.offline.final_distance_m.p95', 'evaluation.live.success_rate',
    'evaluation.live.episodes', 'robot_time_s', 'wall_time_s', 'data_time_ratio',
    'transitions.lost', 'waiting_share.model_learner', 'waiting_share.policy_learner',
    'updates_during_motion.model_learner', 'updates_during_motion.policy_learner',
    'latency_ms.transition_to_learner.p99', 'latency_ms.transition_to_first_use.p99',
    'latency_ms.policy_to_controller.p99', 'policy.age_s.p99', 'control.jitter_ms.p99',
    'control.jitter_ms.p999', 'safety.limit_violations_sent', 'safety.interventions',
    'safety.stale_holds', 'policy.rejected')


def main() -> int:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--algorithm', default='me_ppo')
    parser.add_argument('--motion-time', type=float, default=60.0, help='seconds of motion')
    parser.add_argument('--runs', type=Path, default=ROOT / 'runs' / 'benchmark',
                        help='where the run folders lie')
    arguments = parser.parse_args()
    label = f'{arguments.algorithm}-{arguments.motion_time:.0f}s'
    summaries = [summary_of(arguments.runs / f'{label}-seed{seed}', seed, arguments)
                 for seed in arguments.seeds]
    rows = [{'seed': seed, **{name: look_up(summary, name) for name in FIGURES},
             'faults': look_up(summary, 'safety.faults'),
             'learning_curve': summary['learning_curve']}
            for seed, summary in zip(arguments.seeds, summaries, strict=True)]
    result = {**provenance(arguments.seeds), 'algorithm': arguments.algorithm,
              'motion_time_s': arguments.motion_time, 'runs': rows}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f'reach_{label}.json'
    target.write_text(json.dumps(result, indent=2) + '\n')
    draw(rows, target.with_suffix('.png'))
    for name in FIGURES:
        values = [row[name] for row in rows]
        if None not in values:
            print(f'{name:45s} median {statistics.median(values):8.4g}   '
                  f'[{min(values):.4g}, {max(values):.4g}]')
    met = sum(row['evaluation.offline.success_rate'] >= 0.95 for row in rows)
    print(f'{met} of {len(rows)} seeds reach at least 95 % of the goals; {target}')
    return 0 if met == len(rows) else 1


def summary_of(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the summary of a run, which is run first unless it is complete."""
    path = folder / 'summary.json'
    if not (path.exists() and json.loads(path.read_text())['evaluation']['offline']):
        command = [sys.executable, '-m', 'async_mbrl.cli', 'up', 'sim', '--no-video', '--seed',
                   str(seed), '--algorithm', arguments.algorithm, '--motion-time',
                   str(arguments.motion_time), '--run-dir', str(folder)]
        status = subprocess.run(command, check=False).returncode
        if status not in (0, 3):    # 3: complete, but short of the success rate
            sys.exit(f'seed {seed}: the run ended with status {status}')
    return json.loads(path.read_text())


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw success while learning against data time, a line a seed."""
    with figures.style():
        figure, axes = figures.plt.subplots(figsize=(6.4, 3.4))
        for row in rows:
            time_s, _, success = zip(*row['learning_curve'], strict=True)
            axes.plot(time_s, [100 * value for value in success], marker='.',
                      label=f'seed {row["seed"]}: '
                            f'{100 * row["evaluation.offline.success_rate"]:.1f} % of 200 goals')
        axes.axhline(95, color=figures.GREY, linestyle=':')
        axes.set_xlabel('data time, s')
        axes.set_ylabel('last 5 learning episodes reached, %')
        axes.set_title('With exploration while learning; without it at the end')
        axes.legend(loc='lower right')
        figure.savefig(path, dpi=150)


if __name__ == '__main__':
    sys.exit(main())
