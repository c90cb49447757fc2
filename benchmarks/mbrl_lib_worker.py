"""mbrl-lib 0.2.0 doing what it is told, for ``model_speed.py``; runs in an interpreter that has it.

One request a line, {'measure': 'update', 'hidden': [512, 512], 'batch': 256, 'repeats': 5} or
{'measure': 'imagine', 'hidden': [512, 512], 'states': 10000, 'repeats': 5}, answered by one line,
{'seconds': CPU time of one}. The first line that it writes names the versions.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

warnings.filterwarnings('ignore')   # of gymnasium 0.26, about itself

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel  # noqa: E402
from mbrl.types import TransitionBatch  # noqa: E402
from mbrl.util.replay_buffer import BootstrapIterator  # noqa: E402

SEED = 0
STATE, ACTION, MEMBERS = 17, 6, 5


def build(hidden: list[int]) -> OneDTransitionRewardModel:
    """Build an ensemble as mbrl-lib's settings for HalfCheetah do, of another size."""
    network = GaussianMLP(
        STATE + ACTION, STATE, 'cpu', num_layers=len(hidden), ensemble_size=MEMBERS,
        hid_size=hidden[0], propagation_method='random_model',
        activation_fn_cfg={'_target_': 'torch.nn.SiLU'})
    return OneDTransitionRewardModel(network, target_is_delta=True, normalize=True,
                                     learned_rewards=False)


def update(hidden: list[int], batch: int, repeats: int) -> Callable[[], None]:
    """Prepare updates on batches that its iterator draws, as its ``ModelTrainer`` takes them."""
    rng = np.random.default_rng(SEED)
    count = batch * repeats
    state, action, change = (rng.normal(size=(count, size)).astype(np.float32)
                             for size in (STATE, ACTION, STATE))
    data = TransitionBatch(state, action, state + 0.1 * change, np.zeros(count, np.float32),
                           np.zeros(count, bool), np.zeros(count, bool))
    model = build(hidden)
    model.update_normalizer(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    iterator = BootstrapIterator(data, batch, MEMBERS, shuffle_each_epoch=True, rng=rng)

    def updates() -> None:
        for drawn in iterator:
            model.update(drawn, optimizer)

    return updates


def imagine(hidden: list[int], states: int, repeats: int) -> Callable[[], None]:
    """Prepare steps of its ``ModelEnv``, sampled, each state in a member drawn at random."""
    model = build(hidden)
    rng = np.random.default_rng(SEED)
    data = rng.normal(size=(states, STATE)).astype(np.float32)
    action = torch.from_numpy(rng.normal(size=(states, ACTION)).astype(np.float32))
    model.update_normalizer(TransitionBatch(data, action.numpy(), data, None, None, None))
    nothing = torch.zeros(states, 1)
    environment = ModelEnv(SimpleNamespace(observation_space=None, action_space=None), model,
                           lambda actions, following: nothing.bool(),
                           lambda actions, following: nothing)
    at = environment.reset(data, return_as_np=False)

    def steps() -> None:
        for _ in range(repeats):
            environment.step(action, at, sample=True)

    return steps


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    prepared: dict[str, Callable[[], None]] = {}
    print(json.dumps({name: version(name) for name in ('mbrl', 'torch', 'numpy')}), flush=True)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if line not in prepared:
            if asked['measure'] == 'update':
                prepared[line] = update(asked['hidden'], asked['batch'], asked['repeats'])
            else:
                prepared[line] = imagine(asked['hidden'], asked['states'], asked['repeats'])
            prepared[line]()
        begun = time.process_time()
        prepared[line]()
        print(json.dumps({'seconds': (time.process_time() - begun) / asked['repeats']}), flush=True)


if __name__ == '__main__':
    main()
