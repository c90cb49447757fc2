"""AWAC on the reach task: from mediocre data offline, then online, on the emulated clock.

Two datasets are made here for each seed: the log of a half-trained policy, and demonstrations by a
script (a spring from the tool to its goal) with noise. A policy is learned from each, and then goes
on online while the robot collects; it is judged by its mean actions on fixed fresh goals before,
and after each two episodes. Beside it the same algorithm learns from nothing. Robot time is that of
motion and resets. The learners make as many updates for each transition as the settings allow at
most, which two cores do in real time.

Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulated import learn, settings
from provenance import RESULTS, provenance

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.plan import Plan
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import ControlStep, StepKind, Transition
from async_mbrl.datasets.columns import Columns, Source, columns_of
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import DatasetWriter
from async_mbrl.emulation.run import EmulatedRun
from async_mbrl.tasks import make_task

HALF_TRAINED = 220
"""Transitions after which me_ppo is about half as good as it becomes."""
JUDGED_EVERY = 60
"""Transitions between two judgements: two episodes."""


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


def online(dataset: str, seed: int, columns: Columns, random_return: float,
           arguments: argparse.Namespace) -> dict[str, Any]:
    """Learn from a dataset, then online."""
    folder = Path(tempfile.mkdtemp()) / 'dataset'
    task = make_task(settings('awac', seed).task, settings('awac', seed).robot)
    with DatasetWriter(folder, identity_of(task)) as writer:
        writer.append(columns)
    curve = learn(settings('awac', seed, folder, *arguments.set), arguments.online,
                  JUDGED_EVERY)
    shutil.rmtree(folder.parent)
    return {'dataset': dataset, 'implementation': 'async_mbrl', 'seed': seed,
            'transitions': len(columns), 'random_return': random_return,
            'data_return': mean_return(columns), 'offline_return': curve[0]['return'],
            'online_curve': curve}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--transitions', type=int, default=3000, help='of each dataset')
    parser.add_argument('--online', type=int, default=600, help='transitions online')
    parser.add_argument('--nothing', type=int, default=1800, help='transitions from nothing')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--output', type=Path, default=RESULTS / 'awac.json')
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        half, random_return = half_trained_log(seed, options.transitions)
        script = demonstrations(seed, options.transitions)
        for name, columns in (('half_trained', half), ('script', script)):
            runs.append(online(name, seed, columns, random_return, options))
            tell(runs[-1])
        curve = learn(settings('awac', seed, None, *options.set), options.nothing,
                      JUDGED_EVERY)
        runs.append({'dataset': 'none', 'implementation': 'async_mbrl', 'seed': seed,
                     'random_return': random_return, 'data_return': None, 'offline_return': None,
                     'online_curve': curve})
        tell(runs[-1])
        found = json.loads(options.output.read_text()) if options.output.exists() else {}
        options.output.write_text(json.dumps(
            {**found, **provenance(options.seeds), 'runs': runs}, indent=1) + '\n')


def tell(run: dict[str, Any]) -> None:
    """Print a run in a line."""
    curve = run['online_curve']
    returns = [point['return'] for point in curve]
    print(f'{run["dataset"]:13s} seed {run["seed"]}: random {run["random_return"]:.1f}, data '
          f'{run["data_return"] if run["data_return"] is None else round(run["data_return"], 1)}, '
          f'offline {returns[0]:.1f} ({curve[0]["success_rate"]:.0%}), worst after '
          f'{min(returns[1:]):.1f}, end {returns[-1]:.1f} ({curve[-1]["success_rate"]:.0%}, '
          f'{1e3 * curve[-1]["final_distance_m"]:.1f} mm) after {curve[-1]["robot_time_s"]:.0f} s',
          flush=True)


if __name__ == '__main__':
    main()
