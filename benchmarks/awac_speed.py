"""How many gradient steps AWAC makes in a CPU second of one thread, with the sampling of the batch.

With d3rlpy (``--peer`` or ``--setup-peer``) the two programs take turns window by window: its
``fit()`` against pre-training as ``async-mbrl`` does it, in float32 and with hidden layers in
bfloat16. Both have critics and a policy of 256 x 2, batches of 1024 from 100,000 transitions of the
sizes of HalfCheetah, and the same losses. Ours takes the values of the data for loss and advantage
from one forward pass of the critics, as AWAC's authors do; d3rlpy computes them again after the
step of the critics.

Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from model_speed import product_peak, seconds_each, take_turns
from peer import D3RLPY, Peer, add_arguments, interpreter
from provenance import RESULTS, provenance

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import offline_buffer
from async_mbrl.learning.settings import AwacConfig

SEED = 0
HIDDEN = (256, 256)
BATCH = 1024
TRANSITIONS = 100_000
EPISODE = 1000
STEPS = 40
"""Gradient steps of a window."""
NUMBERS = {'ours': 'float32', 'ours_bfloat16': 'bfloat16'}


class Cheetah:
    """What AWAC needs to know of a task with the sizes of HalfCheetah."""

    name = 'half_cheetah_sizes'
    state_size = observation_size = feature_size = 17
    action_size, goal_size = 6, 0
    feature_description = 'normalised state'

    def features(self, xp: Any, observation: Any, state_mean: Any, state_std: Any) -> Any:
        """Normalise states (..., 17)."""
        del xp
        return (observation - state_mean) / state_std


def random_data() -> TransitionBuffer:
    """Draw transitions: their values do not matter for speed."""
    rng = np.random.default_rng(SEED)
    state, following = rng.normal(size=(2, TRANSITIONS, Cheetah.state_size)).astype(np.float32)
    action = rng.uniform(-1.0, 1.0, (TRANSITIONS, Cheetah.action_size)).astype(np.float32)
    number = np.arange(TRANSITIONS)
    nothing = np.zeros(TRANSITIONS, np.bool_)
    return offline_buffer(Cheetah, [Columns(
        observation=state, action_requested=action, action_applied=action,
        next_observation=following, reward=rng.normal(size=TRANSITIONS), terminated=nothing,
        truncated=number % EPISODE == EPISODE - 1, intervened=nothing,
        episode=number // EPISODE, step=number % EPISODE,
        policy_version=np.zeros((TRANSITIONS, 2), np.int64),
        log_probability=np.full(TRANSITIONS, np.nan, np.float32),
        source=np.full(TRANSITIONS, Source.SCRIPT, np.uint8))])


def make_learner(numbers: str, data: TransitionBuffer) -> PolicyLearner:
    """Give a learner with the settings that the peer has."""
    learner = PolicyLearner(
        AwacConfig(batch=BATCH, critic_hidden=HIDDEN, critic_activation='relu', discount=0.99,
                   numbers=numbers),
        ModelConfig(), PolicyNetworkConfig(HIDDEN, 'relu', 'tanh_mean', 'state_independent'),
        ExplorationConfig(), Cheetah(), seed=SEED)
    learner.use_offline(data)
    return learner


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, D3RLPY)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    python = interpreter(arguments, D3RLPY)
    data = random_data()
    contenders: dict[str, Callable[[], float]] = {
        name: partial(seconds_each, make_learner(numbers, data).learn_offline, STEPS)
        for name, numbers in NUMBERS.items()}
    peer = None
    if python is not None:
        peer = Peer(D3RLPY, python, [json.dumps({
            'observation': Cheetah.state_size, 'action': Cheetah.action_size,
            'transitions': TRANSITIONS, 'episode': EPISODE, 'hidden': HIDDEN, 'batch': BATCH,
            'steps': STEPS})])
        contenders['peer'] = peer.seconds
    peak = product_peak()
    steps_per_s = {name: round(1.0 / seconds, 2)
                   for name, seconds in take_turns(contenders).items()}
    for name, found in steps_per_s.items():
        times = f', {found / steps_per_s["peer"]:.2f} times' if peer is not None else ''
        print(f'{found:8.1f} /s  {name}{times}', flush=True)
    path = RESULTS / 'awac.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    # What else stands there is of other commands: it stays.
    result = {**provenance([SEED]), **before, 'steps_per_s': steps_per_s, 'speed': {
        **provenance([SEED]), 'torch': torch.__version__, 'peak_gflops': round(peak / 1e9, 1),
        'peer': None, 'batch': BATCH, 'hidden': list(HIDDEN), 'transitions': TRANSITIONS}}
    if peer is not None:
        result['speed']['peer'] = peer.versions
        peer.close()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
