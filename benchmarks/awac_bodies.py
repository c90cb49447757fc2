"""AWAC on datasets of benchmark bodies against that of d3rlpy, on the same data.

The datasets are made here, on the emulated clock, with episodes and rewards as Gymnasium has them
(reward of the velocity after a step, not of the mean over it): SAC learns until its mean actions
come to a return; all that it has seen by then is *medium-replay*, and what its policy of then does,
with its noise, is *medium*. From each, AWAC learns offline with both programs, by the same number
of gradient steps; the mean actions of both are judged by the same simulation, from the same starts.
Networks, temperature, batch and learning rates are d3rlpy's defaults in both; it gets states that
are normalised as ours are, and its policy is loaded into our network to be judged.

d3rlpy 2.6.1 takes the values that its critics learn for AWAC from its SAC, together with the
entropy of a squashed Gaussian at a temperature of 1, which the policy of AWAC is not; in Nair et
al. 2020 there is no such term. ``d3rlpy_without_entropy`` is the same program with that
temperature at 0, ``--programs`` chooses.
What is complete on the same data is not run again; data that are made anew by other sources are
other data. Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulated import Fixed, settings
from peer import D3RLPY, add_arguments, interpreter
from provenance import RESULTS, ROOT, provenance

from async_mbrl.bench.provenance import revision
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Source, columns_of
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.statistics import read_episodes
from async_mbrl.datasets.store import DatasetWriter
from async_mbrl.emulation.pace import SideBySide
from async_mbrl.emulation.run import EmulatedRun, EmulationSettings
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.normalisation import statistics
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import OfflineData, read_offline
from async_mbrl.simulation.offline import evaluate
from async_mbrl.tasks import make_task

EPISODE_STEPS = 1000
GYMNASIUM: dict[str, tuple[str, ...]] = {
    'half_cheetah': (),
    'hopper': ('task.terminate=true', 'task.height_cost=0.0', 'task.action_cost=0.001')}
"""What makes a task of the paper that of Gymnasium."""
MEDIUM = {'half_cheetah': 3000.0, 'hopper': 1200.0}
"""Return at which a policy is medium: about a third of what SAC comes to in the end."""
KINDS = ('medium', 'medium-replay')
PROGRAMS = ('ours', 'd3rlpy', 'd3rlpy_without_entropy')
JUDGED_EVERY = 2500
"""Transitions of SAC between two judgements."""
NETWORK = PolicyNetworkConfig((256, 256), 'relu', 'tanh_mean', 'state_independent')
LIKE_D3RLPY = ('network.hidden=[256,256]', 'improvement.temperature=1.0')
"""What awac.benchmark.yaml has otherwise: a policy of four layers, a temperature of 2."""


class Medium(Exception):
    """The policy is good enough."""


class Logged:
    """Learners whose transitions are kept, until the policy comes to a return."""

    def __init__(self, pace: SideBySide, chosen: EmulationSettings, wanted: float) -> None:
        """Keep what the learners of ``pace`` take."""
        self._pace = pace
        self._chosen = chosen
        self._wanted = wanted
        self.policy = pace.first()
        self.transitions: list[Transition] = []

    def first(self) -> Snapshot:
        """Give the policy to begin with."""
        return self.policy

    def take(self, transition: Transition) -> Snapshot | None:
        """Learn from a transition."""
        self.transitions.append(transition)
        newer = self._pace.take(transition)
        if newer is None:
            return None
        self.policy = newer
        if len(self.transitions) % JUDGED_EVERY == 0:
            found = judge(self._chosen, newer, self._chosen.network, 3, 1)
            print(f'{self._chosen.task.name}: SAC after {len(self.transitions)} transitions: '
                  f'{np.mean(found):.0f}', flush=True)
            if np.mean(found) >= self._wanted:
                raise Medium
        return newer


def chosen_for(body: str, algorithm: str, seed: int, *changes: str) -> EmulationSettings:
    """Give the settings of an algorithm on a body as Gymnasium has it."""
    return settings(algorithm, seed, None, f'task.episode_steps={EPISODE_STEPS}', *GYMNASIUM[body],
                    *changes, body=body)


def judge(chosen: EmulationSettings, policy: Snapshot, network: PolicyNetworkConfig,
          episodes: int, seed: int) -> list[float]:
    """Give the returns of the mean actions of a policy."""
    # An episode that ends by itself has the return until then.
    return [float(each) for each in evaluate(policy, chosen.robot, chosen.plant, chosen.task,
                                             network, episodes, seed).returns]


def make_datasets(body: str, folder: Path, options: argparse.Namespace) -> None:
    """Make both datasets of a body, where they are not there yet."""
    if all((folder / f'{body}-{kind}' / 'dataset.json').exists() for kind in KINDS):
        return
    chosen = chosen_for(body, 'sac', options.data_seed, 'improvement.numbers=auto',
                        'improvement.capacity=1000000', 'improvement.max_updates_per_transition=0')
    chosen = replace(chosen, schedule=replace(
        chosen.schedule, policy_updates_per_transition=options.sac_updates))
    task = make_task(chosen.task, chosen.robot)
    learner = PolicyLearner(chosen.improvement, chosen.model, chosen.network, chosen.exploration,
                            task, seed=options.data_seed)
    log = Logged(SideBySide(chosen.schedule, None, learner), chosen, MEDIUM[body])
    try:
        EmulatedRun(chosen, options.sac_transitions, pace=log).run()
    except Medium:
        pass
    else:
        raise SystemExit(f'{body}: SAC did not come to {MEDIUM[body]} within '
                         f'{options.sac_transitions} transitions')
    acting = Fixed(snapshots.decode(snapshots.encode(log.policy), expected_kind='policy'))
    EmulatedRun(replace(chosen, seed=options.data_seed + 1), options.transitions,
                pace=acting).run()
    for kind, transitions in (('medium', acting.transitions), ('medium-replay', log.transitions)):
        if (folder / f'{body}-{kind}' / 'dataset.json').exists():
            continue    # it was interrupted between the two
        with DatasetWriter(folder / f'{body}-{kind}', identity_of(task)) as writer:
            writer.append(columns_of(transitions, Source.POLICY))


def learn_here(chosen: EmulationSettings, buffer: TransitionBuffer, seed: int,
               steps: int) -> Snapshot:
    """Learn offline with our AWAC."""
    learner = PolicyLearner(chosen.improvement, chosen.model, chosen.network, chosen.exploration,
                            make_task(chosen.task, chosen.robot), seed=seed)
    learner.use_offline(buffer)
    for _ in range(steps):
        learner.learn_offline()
    return learner.snapshot()


def learn_there(python: Path, chosen: EmulationSettings, buffer: TransitionBuffer, seed: int,
                steps: int, entropy: bool) -> Snapshot:
    """Learn offline with that of d3rlpy; ``entropy``: as it is."""
    described = statistics(buffer, margin=0.0)
    task = make_task(chosen.task, chosen.robot)
    policy = Policy(NETWORK, task, torch.Generator())
    policy.normalise(described.state_mean, described.state_std)
    rows = torch.arange(len(buffer))
    samples = buffer.samples(rows)
    with tempfile.TemporaryDirectory() as folder:
        data, weights = Path(folder) / 'data.npz', Path(folder) / 'weights.npz'
        np.savez(data, observation=policy.features(samples.observation).numpy(),
                 action=samples.action.numpy(), reward=samples.reward.numpy(),
                 terminated=samples.terminated.numpy(), ended=buffer.ended(rows).numpy())
        subprocess.run([str(python), str(Path(__file__).with_name('d3rlpy_awac.py')), json.dumps({
            'data': str(data), 'weights': str(weights), 'seed': seed, 'steps': steps,
            'hidden': list(NETWORK.hidden), 'entropy': entropy})], check=True)
        with np.load(weights) as found:
            policy.load_tensors({**policy.tensors(), **found})
            acted = torch.from_numpy(found['acted'])
    with torch.no_grad():
        torch.testing.assert_close(     # it is that policy which is judged
            policy.mean(policy.features(samples.observation[:len(acted)])), acted, atol=1e-4,
            rtol=1e-3)
    return Snapshot(kind='policy', version=snapshots.Version(1, 1),
                    architecture=policy.architecture, tensors=policy.tensors())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, D3RLPY)
    parser.add_argument('--bodies', nargs='+', choices=GYMNASIUM, default=list(GYMNASIUM))
    parser.add_argument('--programs', nargs='+', choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=10_000, help='gradient steps')
    parser.add_argument('--episodes', type=int, default=10, help='that a policy is judged by')
    parser.add_argument('--transitions', type=int, default=100_000, help='of a medium dataset')
    parser.add_argument('--sac-transitions', type=int, default=300_000, help='at most')
    parser.add_argument('--sac-updates', type=float, default=1.0, help='for each transition')
    parser.add_argument('--data-seed', type=int, default=0, help='of SAC')
    parser.add_argument('--data', type=Path, default=ROOT / 'runs' / 'awac_bodies',
                        help='folder of the datasets; what is there is used')
    parser.add_argument('--output', type=Path, default=RESULTS / 'awac_bodies.json')
    options = parser.parse_args(arguments)
    python = interpreter(options, D3RLPY)
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(options.output.read_text())['runs'] if options.output.exists() else []
    compared: list[dict[str, Any]] = []
    for body in options.bodies:
        make_datasets(body, options.data, options)
        for kind in KINDS:
            data = read(body, kind, options)
            for seed in options.seeds:
                for program in options.programs:
                    wanted = {'body': body, 'kind': kind, 'data': data.digest, 'seed': seed,
                              'program': program, 'steps': options.steps,
                              'episodes': options.episodes}
                    found = [row for row in rows if wanted.items() <= row.items()]
                    if not found and (program == 'ours' or python is not None):
                        found = [{**wanted, 'git': revision(),
                                  **learned(wanted, data.buffer, python, options)}]
                        rows += found
                        tell(found[0])
                        options.output.write_text(json.dumps(
                            {**provenance(options.seeds), 'runs': rows}, indent=1) + '\n')
                    compared += found
    compare(compared)


def read(body: str, kind: str, options: argparse.Namespace) -> OfflineData:
    """Read a dataset."""
    chosen = chosen_for(body, 'awac', 0, *LIKE_D3RLPY)
    return read_offline(make_task(chosen.task, chosen.robot), options.data / f'{body}-{kind}')


def learned(wanted: dict[str, Any], buffer: TransitionBuffer, python: Path | None,
            options: argparse.Namespace) -> dict[str, Any]:
    """Learn from a dataset with one of the programs, and judge what came of it."""
    body, seed, program = wanted['body'], wanted['seed'], wanted['program']
    chosen = chosen_for(body, 'awac', seed, *LIKE_D3RLPY)
    begun_s = time.monotonic()
    if program == 'ours':
        policy = learn_here(chosen, buffer, seed, options.steps)
    else:
        assert python is not None
        policy = learn_there(python, chosen, buffer, seed, options.steps, program == 'd3rlpy')
    seconds = time.monotonic() - begun_s
    returns = judge(chosen, policy, NETWORK, options.episodes, 1000 + seed)
    folder = options.data / f'{body}-{wanted["kind"]}'
    return {'seconds': seconds, 'transitions': len(buffer), 'return': float(np.mean(returns)),
            'returns': returns, 'data_return': float(read_episodes(folder).returns.mean())}


def tell(row: dict[str, Any]) -> None:
    """Print a row in a line."""
    print(f'{row["body"]}-{row["kind"]} seed {row["seed"]} {row["program"]:7s}: '
          f'{row["return"]:.0f} from data of {row["data_return"]:.0f}, {row["seconds"]:.0f} s',
          flush=True)


def compare(rows: Sequence[dict[str, Any]]) -> None:
    """Print the programs beside each other: means over seeds, with their standard errors."""
    returns: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        returns.setdefault((row['body'], row['kind'], row['program']), {})[row['seed']] = (
            row['return'])
    for body, kind in sorted({key[:2] for key in returns}):
        print(f'{body}-{kind}: ' + ', '.join(
            f'{program} {mean(found):.0f} +- {error(found):.0f} ({len(found)} seeds)'
            for program in PROGRAMS if (found := returns.get((body, kind, program)))))
    for other in PROGRAMS[1:]:
        both = [key[:2] for key in returns
                if key[2] == other and (*key[:2], 'ours') in returns]
        if not both:
            continue
        # A body counts as much as another: in returns of its medium policy.
        ours, theirs = (float(np.mean([mean(returns[body, kind, program]) / MEDIUM[body]
                                       for body, kind in both])) for program in ('ours', other))
        pooled = math.sqrt(sum((error(returns[body, kind, program]) / MEDIUM[body]) ** 2
                               for body, kind in both for program in ('ours', other))) / len(both)
        print(f'mean over {len(both)} datasets, in returns of a medium policy: ours {ours:.3f}, '
              f'{other} {theirs:.3f}, ratio {ours / theirs:.2f}; pooled standard error '
              f'{pooled:.3f}')


def mean(returns: dict[int, float]) -> float:
    """Give the mean over seeds."""
    return float(np.mean(list(returns.values())))


def error(returns: dict[int, float]) -> float:
    """Give the standard error of that; 0 of one seed."""
    values = np.array(list(returns.values()))
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


if __name__ == '__main__':
    main()
