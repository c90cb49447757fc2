"""The reach task from mediocre data offline, then online, on the emulated clock.

Two datasets are made here for each seed: the log of a half-trained policy, and demonstrations by a
script (a spring from the tool to its goal) with noise. A policy is learned from each, and then goes
on online while the robot collects; it is judged by its mean actions on fixed fresh goals before,
and after each two episodes. Beside it the same algorithm learns from nothing. Robot time is that of
motion and resets. AWAC follows the better actions of the data; a model-based algorithm
(``--algorithm me_ppo``) learns a model from them, and the policy in that.

What is complete is not run again. Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulated import Fixed, learn, settings
from provenance import RESULTS, provenance

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.plan import Plan
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import ControlStep, StepKind
from async_mbrl.datasets.columns import Columns, Source, columns_of
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import DatasetWriter
from async_mbrl.emulation.run import EmulatedRun
from async_mbrl.tasks import make_task

HALF_TRAINED = 220
"""Transitions after which me_ppo is about half as good as it becomes."""
JUDGED_EVERY = 60
"""Transitions between two judgements: two episodes."""


class Script:
    """Pulls the tool points to their goals by springs, against damping in the joints."""

    STIFFNESS, DAMPING, NOISE = 60.0, 6.0, 0.15

    def __init__(self, task: Any, seed: int) -> None:
        """Pull towards the goals of a task; ``seed`` draws the noise."""
        self._task = task
        self._kinematics = ToolKinematics(task.robot.kinematics)
        self._rng = np.random.default_rng(seed)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore models: nothing is learned."""

    def plan(self, event: ControlStep) -> Plan | None:
        """Give the action of the next step."""
        if event.kind != StepKind.STEP:
            return None
        task, observation = self._task, event.observation.astype(float)
        position, velocity = observation[task.position], observation[task.velocity]
        points = self._kinematics.points(position).reshape(-1)
        away = observation[task.goal] - points
        jacobian = np.stack([
            (self._kinematics.points(position + 1e-5 * unit).reshape(-1) - points) / 1e-5
            for unit in np.eye(len(position))], 1)
        effort = jacobian.T @ (self.STIFFNESS * away) - self.DAMPING * velocity
        action = effort / np.asarray(task.robot.action_scale)
        action += self.NOISE * self._rng.normal(size=action.shape)
        return Plan(event.command_number, event.episode, event.step + 1,
                    np.clip(action, -1.0, 1.0).astype(np.float32)[None])


def half_trained_log(seed: int, transitions: int) -> tuple[Columns, float]:
    """Give the log of a half-trained policy, and the return of a random one."""
    chosen = settings('me_ppo', seed)
    run = EmulatedRun(chosen, HALF_TRAINED)
    run.run()
    half = snapshots.decode(run.policy_bytes(), expected_kind='policy')
    log = Fixed(half)
    EmulatedRun(chosen, transitions, pace=log).run()
    untrained = Fixed(EmulatedRun(chosen, 1).first_policy())
    EmulatedRun(chosen, 600, pace=untrained).run()
    return columns_of(log.transitions, Source.POLICY), mean_return(
        columns_of(untrained.transitions, Source.POLICY))


def demonstrations(seed: int, transitions: int) -> Columns:
    """Give noisy demonstrations of the script."""
    chosen = settings('me_ppo', seed)
    log = Fixed(EmulatedRun(chosen, 1).first_policy())
    EmulatedRun(chosen, transitions, pace=log,
                control=Script(make_task(chosen.task, chosen.robot), seed)).run()
    return columns_of(log.transitions, Source.SCRIPT)


def mean_return(columns: Columns) -> float:
    """Give the mean return of whole episodes."""
    sums = [float(columns.reward[columns.episode == episode].sum())
            for episode in np.unique(columns.episode)]
    return float(np.mean(sums[:-1] if len(sums) > 1 else sums))


def online(dataset: str, seed: int, columns: Columns | None,
           options: argparse.Namespace) -> dict[str, Any]:
    """Learn from a dataset, if there is one, then online."""
    if columns is None:
        curve = learn(settings(options.algorithm, seed, None, *options.set), options.nothing,
                      JUDGED_EVERY)
    else:
        chosen = settings(options.algorithm, seed)
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / 'dataset'
            with DatasetWriter(data, identity_of(make_task(chosen.task, chosen.robot))) as writer:
                writer.append(columns)
            curve = learn(settings(options.algorithm, seed, data, *options.set), options.online,
                          JUDGED_EVERY)
    return {'algorithm': options.algorithm, 'dataset': dataset, 'seed': seed,
            'transitions': 0 if columns is None else len(columns),
            'data_return': None if columns is None else mean_return(columns), 'curve': curve}


def figures_of(run: dict[str, Any], nothing: dict[str, Any]) -> dict[str, float]:
    """Give what a run from a dataset came to.

    ``kept``: of what offline learning gained over a random policy, the share that the worst
    judgement online has kept. ``robot_time_share``: robot time until it was as good as learning
    from nothing at its end, as a share of that one's.
    """
    returns = [point['return'] for point in run['curve']]
    end = nothing['curve'][-1]
    as_good = [point['robot_time_s'] for point in run['curve'] if point['return'] >= end['return']]
    return {'kept': (min(returns[1:]) - run['random_return']) / (returns[0] - run['random_return']),
            'robot_time_share': min(as_good, default=math.inf) / end['robot_time_s']}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--algorithm', default='awac')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--transitions', type=int, default=3000, help='of each dataset')
    parser.add_argument('--online', type=int, default=600, help='transitions online')
    parser.add_argument('--nothing', type=int, default=1800, help='transitions from nothing')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--output', type=Path, default=RESULTS / 'offline_to_online.json')
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    if options.output.exists():
        runs = json.loads(options.output.read_text())['runs']
    for seed in options.seeds:
        done = {run['dataset'] for run in runs
                if (run['algorithm'], run['seed']) == (options.algorithm, seed)}
        if done == {'half_trained', 'script', 'none'}:
            continue
        half, random_return = half_trained_log(seed, options.transitions)
        script = demonstrations(seed, options.transitions)
        added = [{**online(name, seed, columns, options), 'random_return': random_return}
                 for name, columns in (('none', None), ('half_trained', half), ('script', script))]
        for run in added[1:]:
            run.update(figures_of(run, added[0]))
        for run in added:
            tell(run)
        runs += added
        options.output.write_text(json.dumps(
            {**provenance(options.seeds), 'runs': runs}, indent=1) + '\n')


def tell(run: dict[str, Any]) -> None:
    """Print a run in a line."""
    first, *later = run['curve']
    end = later[-1]
    data = f'data {run["data_return"]:.1f}, ' if run['transitions'] else ''
    share = (f'; kept {run["kept"]:.0%}, as good as from nothing after '
             f'{run["robot_time_share"]:.0%} of its robot time' if run['transitions'] else '')
    print(f'{run["algorithm"]} {run["dataset"]:13s} seed {run["seed"]}: random '
          f'{run["random_return"]:.1f}, {data}offline {first["return"]:.1f} '
          f'({first["success_rate"]:.0%}), worst online '
          f'{min(point["return"] for point in later):.1f}, end {end["return"]:.1f} '
          f'({end["success_rate"]:.0%}, {1e3 * end["final_distance_m"]:.1f} mm) after '
          f'{end["robot_time_s"]:.0f} s{share}', flush=True)


if __name__ == '__main__':
    main()
