"""How fast the model and the policies learn, and how close to what the core can do.

Every figure is taken in CPU seconds of one thread, so that a busy machine spoils it less.
Fractions of peak count the multiplications that have to be done, against a large matrix product by
torch and against fused multiplications in registers, both in the same run. With mbrl-lib
(``--peer`` or ``--setup-peer``) the two programs, and the two products of ours, take turns window
by window. The work is alike, not equal: mbrl-lib learns a Gaussian, so its last layer is twice as
wide, and it samples each imagined step in a member drawn anew; ours predicts a mean, and an
imagined state stays in its member. Rows named bfloat16 have hidden layers multiplied in numbers of
8 bits, which is less work than that of the peer: they are told beside the others.

``--device cuda`` measures the same on a GPU, without a peer: in seconds of the clock, after it has
computed all, and against a large product there. Its result is a file of its own.

Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer import MBRL_LIB, Peer, add_arguments, interpreter
from provenance import RESULTS, provenance

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core.transition import Transition
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.device import CPU, find_device, making_on
from async_mbrl.learning.dynamics import make_imagined
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.product import choose_product, onednn_works
from async_mbrl.tasks import make_task

SEED = 0
TRANSITIONS = 600
WINDOWS = 7
STATES = 10_000
# Hidden layers, batch of a member, updates of a window; the first is that of the demo.
SHAPES = (((128, 128), 64, 100), ((200,) * 4, 256, 15), ((512,) * 3, 256, 5))
KINDS: dict[str, dict[str, Any]] = {
    'batched': {'product': 'batched'}, 'onednn': {'product': 'onednn'},
    'bfloat16': {'numbers': 'bfloat16'}}
"""How hidden layers are multiplied: settings of the model."""
CHEETAH = SimpleNamespace(name='half_cheetah_sizes', state_size=17, action_size=6, goal_size=0)
"""What a model needs to know of a task with the sizes of HalfCheetah."""


def now_s(device: torch.device) -> float:
    """Give the CPU time of this process or, where a GPU computes, the time when it has done so."""
    if device.type == 'cpu':
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_each(action: Callable[[], object], repeats: int,
                 device: torch.device = CPU) -> float:
    """Give the time of a call in one window, s."""
    begun = now_s(device)
    for _ in range(repeats):
        action()
    return (now_s(device) - begun) / repeats


def take_turns(contenders: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Give the median of what each contender measures, window by window after a first one."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for window in range(1 + WINDOWS):
        for name, measure in contenders.items():
            value = measure()
            if window:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def median_seconds(action: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Give the median time of a call, s."""
    return take_turns({'': lambda: seconds_each(action, repeats, device)})['']


def product_peak(device: torch.device = CPU) -> float:
    """Give the rate of a large single-precision matrix product by torch, FLOP/s."""
    a, b = torch.randn(2, 2048, 2048, device=device)
    return 2 * 2048 ** 3 / median_seconds(lambda: torch.mm(a, b), 2, device)


def fma_peak() -> float | None:
    """Give the rate of fused multiplications in registers, FLOP/s; None without a C compiler."""
    compiler = shutil.which('cc')
    if compiler is None:
        return None
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for width in (16, 32, 64):
            program = Path(folder) / f'fma{width}'
            subprocess.run([compiler, '-O3', '-march=native', f'-DWIDTH={width}', '-o', program,
                            Path(__file__).with_name('fma_peak.c')], check=True,
                           stderr=subprocess.DEVNULL)
            rates.append(float(subprocess.run([program], check=True, capture_output=True,
                                              text=True).stdout))
    return max(rates)


def products(sizes: tuple[int, ...]) -> int:
    """Count the FLOP of one forward pass of one row through fully connected layers."""
    return 2 * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def training(sizes: tuple[int, ...]) -> int:
    """Count the same forward and backward: no gradient is needed of the inputs."""
    return 3 * products(sizes) - 2 * sizes[0] * sizes[1]


class Rows:
    """The rows of the result."""

    def __init__(self, peak: float, fma: float | None) -> None:
        """Make an empty list; the peaks are in FLOP/s."""
        self.rows: list[dict[str, Any]] = []
        self._peak = peak
        self._fma = fma

    def add(self, what: str, seconds: float, flop: float | None = None,
            peer_seconds: float | None = None, **more: Any) -> None:
        """Add one and print it; ``flop``: what has to be done in those seconds."""
        def share(peak: float | None) -> float | None:
            return None if flop is None or peak is None else round(flop / seconds / peak, 4)

        row = {'what': what, 'ours_per_s': round(1 / seconds, 2),
               'peer': None if peer_seconds is None else 'mbrl-lib',
               'peer_per_s': None if peer_seconds is None else round(1 / peer_seconds, 2),
               'ratio': None if peer_seconds is None else round(peer_seconds / seconds, 3),
               'fraction_of_peak': share(self._peak), 'fraction_of_fma_peak': share(self._fma),
               **more}
        self.rows.append(row)
        text = f'{row["ours_per_s"]:12.1f} /s  {what}'
        if row['fraction_of_peak'] is not None:
            text += f'; {row["fraction_of_peak"]:.1%} of a large product'
        if row['fraction_of_fma_peak'] is not None:
            text += f', {row["fraction_of_fma_peak"]:.1%} of FMA'
        if row['ratio'] is not None:
            text += f'; mbrl-lib {row["peer_per_s"]:.1f} /s: {row["ratio"]:.2f} times'
        print(text, flush=True)


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


def cheetah_transitions() -> list[Transition]:
    """Draw transitions with the sizes of HalfCheetah."""
    rng = np.random.default_rng(SEED)
    states = rng.normal(size=(TRANSITIONS, 2, CHEETAH.state_size)).astype(np.float32)
    actions = rng.uniform(-1.0, 1.0, (TRANSITIONS, CHEETAH.action_size)).astype(np.float32)
    return [Transition(number, 0, number, state[0], action, action, state[0] + 0.1 * state[1], 0.0,
                       False, False)
            for number, (state, action) in enumerate(zip(states, actions, strict=True))]


def plain_rows(rows: Rows, peer: Peer | None, device: torch.device) -> None:
    """Measure updates of the unstructured ensemble and imagined steps in it."""
    transitions = cheetah_transitions()
    kinds = [kind for kind in KINDS
             if kind != 'onednn' or (device.type == 'cpu' and onednn_works())]
    for hidden, batch, repeats in SHAPES:
        sizes = (CHEETAH.state_size + CHEETAH.action_size, *hidden, CHEETAH.state_size)
        automatic = choose_product('auto', 5, sizes, 'silu', batch, device)
        updates: dict[str, Callable[[], float]] = {}
        steps: dict[str, Callable[[], float]] = {}
        for kind in kinds:
            config = ModelConfig(kind='plain', hidden=hidden, batch=batch, updates_per_step=1,
                                 **KINDS[kind])
            learner = ModelLearner(config, CHEETAH, seed=SEED, device=device)
            with making_on(device):
                imagined = make_imagined(config, CHEETAH, torch.Generator(device))
            learner.take(transitions)
            states, actions, _ = learner.buffer.batch(
                torch.arange(STATES // 5).remainder(TRANSITIONS).expand(5, -1))

            updates[kind] = partial(seconds_each, learner.step, repeats, device)
            steps[kind] = partial(seconds_each, torch.inference_mode()(partial(
                imagined.predict, states, actions)), 3, device)
        if peer is not None:
            updates['mbrl-lib'] = partial(peer.seconds, measure='update', hidden=hidden,
                                          batch=batch, repeats=repeats)
            steps['mbrl-lib'] = partial(peer.seconds, measure='imagine', hidden=hidden,
                                        states=STATES, repeats=3)
        update, step = take_turns(updates), take_turns(steps)
        for kind in kinds:
            about = {'product': kind, 'chosen_by_auto': kind == automatic}
            rows.add(f'update of a plain ensemble, 5 x {hidden}, batch {batch}, {kind}',
                     update[kind], 5 * batch * training(sizes), update.get('mbrl-lib'), **about)
            rows.add(f'imagined steps, 5 x {hidden}, {STATES} states at once, {kind}',
                     step[kind] / STATES, products(sizes),
                     step['mbrl-lib'] / STATES if peer is not None else None, **about)


def structured_rows(rows: Rows, task: Any, transitions: list[Transition],
                    device: torch.device) -> None:
    """Measure updates of the ensemble that an arm learns with."""
    for hidden, batch, repeats in SHAPES:
        learner = ModelLearner(ModelConfig(hidden=hidden, batch=batch, updates_per_step=1), task,
                               seed=SEED, device=device)
        learner.take(transitions)
        sizes = (4 * task.joints, *hidden, task.joints)
        rows.add(f'update of a structured ensemble, 5 x {hidden}, batch {batch}',
                 median_seconds(learner.step, repeats, device), 5 * batch * training(sizes),
                 product=learner.product)


def policy_rows(rows: Rows, task: Any, transitions: list[Transition],
                device: torch.device) -> None:
    """Measure updates of each algorithm with the settings of its file."""
    for algorithm in ('me_ppo', 'svg'):
        composition = compose(RunRequest(algorithm=algorithm), share_folder(), RESULTS)
        model = ModelLearner(composition.model, task, seed=SEED, device=device)
        learner = PolicyLearner(composition.improvement, composition.model, composition.network,
                                composition.exploration, task, seed=SEED, device=device)
        for worker in (model, learner):
            worker.take(transitions)
        model.step()
        learner.take_snapshot(model.snapshot())
        settings = composition.improvement

        def update(learner: PolicyLearner = learner) -> None:
            before = learner.updates
            while learner.updates == before:
                learner.step()

        rows.add(f'{algorithm} update, {settings.rollouts} x {settings.horizon} imagined steps',
                 median_seconds(update, 5, device))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, MBRL_LIB)
    parser.add_argument('--device', default='cpu', metavar='NAME',
                        help='where to learn: cpu, cuda or cuda:N (default: cpu)')
    arguments = parser.parse_args()
    composition = compose(RunRequest(device=arguments.device), share_folder(), RESULTS)
    device = find_device(composition.run.device)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    python = interpreter(arguments, MBRL_LIB)
    if python is not None and device.type != 'cpu':
        parser.error('mbrl-lib is measured on the CPU alone')
    peer = None if python is None else Peer(MBRL_LIB, python)
    task = make_task(composition.task, composition.robot)
    transitions = random_transitions(task)
    peak, fma = product_peak(device), fma_peak() if device.type == 'cpu' else None
    print(f'a large product {peak / 1e9:.1f} GFLOP/s, FMA '
          f'{"unknown" if fma is None else f"{fma / 1e9:.1f} GFLOP/s"}', flush=True)
    rows = Rows(peak, fma)
    plain_rows(rows, peer, device)
    structured_rows(rows, task, transitions, device)
    policy_rows(rows, task, transitions, device)
    if peer is not None:
        peer.close()
    result = {**provenance([SEED]), 'torch': torch.__version__,
              'device': 'cpu' if device.type == 'cpu' else torch.cuda.get_device_name(device),
              'peer_versions': None if peer is None else peer.versions,
              'peak_gflops': round(peak / 1e9, 1),
              'fma_peak_gflops': None if fma is None else round(fma / 1e9, 1), 'rows': rows.rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = 'model_speed.json' if device.type == 'cpu' else 'model_speed_gpu.json'
    (RESULTS / name).write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
