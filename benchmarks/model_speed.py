"""How fast the model and the policies learn, and how close to what the core can do.

Every figure is taken in CPU seconds of one thread, so that a busy machine does not spoil it.
Fractions of peak count the multiplications that have to be done against a large matrix product in
the same run. Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from provenance import RESULTS, provenance

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core.transition import Transition
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.ensemble import Ensemble
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.tasks import make_task

SEED = 0
TRANSITIONS = 600
SIZES = ((128, 128), (200, 200, 200, 200), (512, 512, 512))


def seconds_each(action: Callable[[], object], repeats: int, windows: int = 5) -> float:
    """Give the median CPU time of a call over some windows, s."""
    action()
    found = []
    for _ in range(windows):
        begun = time.process_time()
        for _ in range(repeats):
            action()
        found.append((time.process_time() - begun) / repeats)
    return statistics.median(found)


def peak_flops() -> float:
    """Give the rate of a large single-precision matrix product, FLOP/s."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048 ** 3 / seconds_each(lambda: torch.mm(a, b), 3)


def products(sizes: tuple[int, ...]) -> int:
    """Count the FLOP of one forward pass of one row through fully connected layers."""
    return 2 * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def training(sizes: tuple[int, ...]) -> int:
    """Count the same forward and backward: no gradient is needed of the inputs."""
    return 3 * products(sizes) - 2 * sizes[0] * sizes[1]


def row(what: str, seconds: float, flop: float | None, peak: float) -> dict[str, Any]:
    """Make a row; no other program has been measured beside ours yet."""
    return {'what': what, 'ours_per_s': round(1 / seconds, 2), 'peer': None, 'peer_per_s': None,
            'ratio': None,
            'fraction_of_peak': None if flop is None else round(flop / seconds / peak, 4)}


def random_transitions(task: Any) -> list[Transition]:
    """Draw transitions: their values do not matter for speed."""
    rng = np.random.default_rng(SEED)
    transitions = []
    for number in range(TRANSITIONS):
        position, velocity, action = rng.normal(0.0, 0.3, (3, task.joints))
        goal = task.sample_goals(rng, 1)[0]
        before = task.observe(position, velocity, action, goal)
        after = task.observe(position + 0.1 * velocity, velocity + 0.1 * action, action, goal)
        transitions.append(Transition(
            number, number // 30, number % 30, before, before[task.previous_action],
            before[task.previous_action], after, 0.0, False, number % 30 == 29))
    return transitions


def ensemble_rows(peak: float) -> list[dict[str, Any]]:
    """Compare one product for all members with a product for each, forward and backward."""
    generator = torch.Generator().manual_seed(SEED)
    rows = []
    for hidden, batch in (((128, 128), 20), ((128, 128), 64), ((200,) * 4, 256),
                          ((512,) * 3, 256)):
        sizes = (28, *hidden, 7)
        ensemble = Ensemble(5, sizes, 'silu', generator)
        parameters = list(ensemble.parameters())
        inputs = torch.randn(5, batch, sizes[0], generator=generator)

        def one_by_one(x: torch.Tensor, ensemble: Ensemble = ensemble) -> torch.Tensor:
            results = []
            for member in range(5):
                h = x[member]
                for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases,
                                                           strict=True)):
                    h = torch.addmm(bias[member], h, weight[member])
                    if layer < len(ensemble.weights) - 1:
                        h = torch.nn.functional.silu(h)
                results.append(h)
            return torch.stack(results)

        for name, forward in (('all members at once', ensemble), ('one by one', one_by_one)):
            def learn(forward: Callable[[torch.Tensor], torch.Tensor] = forward,
                      inputs: torch.Tensor = inputs,
                      parameters: list[torch.nn.Parameter] = parameters) -> None:
                torch.autograd.grad(forward(inputs).square().sum(), parameters)

            seconds = seconds_each(learn, 20)
            rows.append(row(f'forward and backward of 5 x {hidden}, {batch} rows each, {name}',
                            seconds, 5 * batch * training(sizes), peak))
    return rows


def model_rows(task: Any, transitions: list[Transition], peak: float) -> list[dict[str, Any]]:
    """Measure updates of the structured ensemble and imagined steps in it."""
    rows = []
    for hidden in SIZES:
        batch = 64 if hidden == SIZES[0] else 256
        learner = ModelLearner(ModelConfig(hidden=hidden, batch=batch, updates_per_step=1), task,
                               seed=SEED)
        learner.take(transitions)
        sizes = (4 * task.joints, *hidden, task.joints)
        rows.append(row(f'model update, 5 x {hidden}, batch {batch}',
                        seconds_each(learner.step, 20), 5 * batch * training(sizes), peak))
        states, actions, _ = learner.buffer.batch(
            torch.arange(2000).remainder(TRANSITIONS).expand(5, -1))
        with torch.inference_mode():
            seconds = seconds_each(lambda learner=learner, states=states, actions=actions:
                                   learner.average.predict(states, actions), 5)
        rows.append(row(f'imagined model steps, 5 x {hidden}, 10000 states at once',
                        seconds / 10_000, products(sizes), peak))
    return rows


def policy_rows(transitions: list[Transition], task: Any, peak: float) -> list[dict[str, Any]]:
    """Measure updates of each algorithm with the settings of its file."""
    rows = []
    for algorithm in ('me_ppo', 'svg'):
        composition = compose(RunRequest(algorithm=algorithm), share_folder(), RESULTS)
        model = ModelLearner(composition.model, task, seed=SEED)
        learner = PolicyLearner(composition.improvement, composition.model, composition.network,
                                composition.exploration, task, seed=SEED)
        for worker in (model, learner):
            worker.take(transitions)
        model.step()
        learner.take_snapshot(model.snapshot())
        settings = composition.improvement
        rows.append(row(f'{algorithm} update, {settings.rollouts} x {settings.horizon} imagined '
                        'steps', seconds_each(learner.step, 5), None, peak))
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    torch.set_num_threads(1)
    composition = compose(RunRequest(), share_folder(), RESULTS)
    task = make_task(composition.task, composition.robot)
    transitions = random_transitions(task)
    peak = peak_flops()
    rows = [*ensemble_rows(peak), *model_rows(task, transitions, peak),
            *policy_rows(transitions, task, peak)]
    for line in rows:
        share = line['fraction_of_peak']
        print(f'{line["ours_per_s"]:12.1f} /s  '
              f'{"" if share is None else f"{share:6.1%} of peak":16s} {line["what"]}')
    result = {**provenance([SEED]), 'peak_gflops': round(peak / 1e9, 1), 'rows': rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / 'model_speed.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
