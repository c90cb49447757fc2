"""What exploration is worth: samples until a reach task with a sparse reward is solved.

The demo arm gets a reward only where the tool is within 15 cm of its goal, and the goals lie to its
side, a quarter of a turn from where each episode starts. On the emulated clock ME-PPO learns it
with each kind of exploration by itself, all else being equal: AR(1) noise on the actions, pink
noise, noise on the parameters of the policy, and a bonus for the disagreement of the ensemble
beside the noise of the first; and SAC learns it, which explores by itself, without a bonus and with
one for curiosity, which is learned from transitions. A run ends when the mean actions reach as many
of fixed fresh goals as the task wants, or after a number of samples.

Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from emulated import learn, settings
from provenance import RESULTS, provenance

TASK = ('task.sparse=true', 'task.reward_scale=1.0', 'task.success_distance_m=0.15',
        'task.success_rate=0.9', 'task.velocity_cost=0.001', 'task.effort_cost=0.005',
        'task.goal_center=[1.4,0.35,0.0,-1.1,0.0,-0.8,0.0]',
        'task.goal_half_range=[0.3,0.3,0.3,0.3,0.3,0.3,0.3]')
KINDS: dict[str, tuple[str, ...]] = {
    'noise': ('me_ppo',),
    'pink': ('me_ppo', 'exploration.color=1.0', 'exploration.correlation=0.0'),
    'parameters': ('me_ppo', 'exploration.parameter_noise=0.2'),
    'disagreement': ('me_ppo', 'improvement.disagreement_weight=0.01'),
    'sac': ('sac',),
    'sac_curiosity': ('sac', 'improvement.curiosity_weight=0.01')}
"""Algorithm and settings of each kind."""
JUDGED_EVERY = 150
"""Transitions between two judgements: five episodes."""


def run(kind: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Learn with one kind of exploration."""
    algorithm, *changes = KINDS[kind]
    if algorithm == 'me_ppo':
        changes.append(f'schedule.policy_updates_per_transition={options.updates}')
    chosen = settings(algorithm, seed, None, *TASK, *changes, *options.set)
    wanted = chosen.task.wanted_success_rate
    assert wanted is not None
    curve = learn(chosen, options.samples, JUDGED_EVERY,
                  enough=lambda point: point['success_rate'] >= wanted)
    solved = curve[-1]['success_rate'] >= wanted
    return {'kind': kind, 'seed': seed, 'samples_to_success': curve[-1]['samples'] if solved
            else None, 'success_rate': curve[-1]['success_rate'], 'curve': curve}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--samples', type=int, default=2400, help='transitions at most')
    parser.add_argument('--updates', type=float, default=0.3,
                        help='of the policy for each transition; SAC has its own')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--output', type=Path, default=RESULTS / 'exploration.json')
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.output.read_text())['runs'] if options.output.exists() else []
    for seed in options.seeds:
        for kind in options.kinds:
            if any((row['kind'], row['seed']) == (kind, seed) for row in rows):
                continue
            rows.append(run(kind, seed, options))
            print(f'{kind:13s} seed {seed}: {rows[-1]["samples_to_success"] or "not solved"} '
                  f'({rows[-1]["success_rate"]:.0%} after {rows[-1]["curve"][-1]["samples"]}, '
                  f'{rows[-1]["curve"][-1]["computing_s"]:.0f} s of computing)', flush=True)
            options.output.write_text(json.dumps(
                {**provenance(options.seeds), 'samples_at_most': options.samples, 'runs': rows},
                indent=1) + '\n')
    for kind in options.kinds:
        found = [row['samples_to_success'] or options.samples for row in rows
                 if row['kind'] == kind]
        solved = sum(row['samples_to_success'] is not None for row in rows if row['kind'] == kind)
        print(f'{kind:13s} solved {solved} of {len(found)}, samples: median '
              f'{statistics.median(found):.0f} [{min(found)}, {max(found)}]')


if __name__ == '__main__':
    main()
