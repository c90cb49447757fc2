"""AWAC of d3rlpy 2.6.1 on given data, for ``awac_bodies.py``; runs in an interpreter that has it.

Its only argument is JSON: {'data': file of arrays 'observation', 'action', 'reward', 'terminated'
and 'ended', 'weights': file to write, 'seed': 0, 'steps': 10000, 'hidden': [256, 256], 'entropy':
whether its critics learn an entropy, too}. What is written are the layers of the policy, the last
one being that of the mean before it is squashed, and 'acted': what it does in the first states.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import d3rlpy
import numpy as np
import torch
from torch import nn

NO_ENTROPY = -60.0
"""Logarithm of a temperature that is as good as none."""
TOLD = 100
"""States whose actions are told."""


def main() -> None:
    """Learn and write the policy."""
    torch.set_num_threads(1)
    asked: dict[str, Any] = json.loads(sys.argv[1])
    d3rlpy.seed(asked['seed'])
    with np.load(asked['data']) as data:
        ended = data['ended'].copy()
        ended[-1] = True
        dataset = d3rlpy.dataset.MDPDataset(
            observations=data['observation'], actions=data['action'], rewards=data['reward'],
            terminals=data['terminated'].astype(np.float32),
            timeouts=(ended & ~(data['terminated'] > 0)).astype(np.float32))
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=asked['hidden'])
    awac = d3rlpy.algos.AWACConfig(
        actor_encoder_factory=encoder, critic_encoder_factory=encoder).create(device='cpu:0')
    if not asked['entropy']:
        awac.build_with_dataset(dataset)
        next(awac.impl.modules.log_temp.parameters()).data.fill_(NO_ENTROPY)
    awac.fit(dataset, n_steps=asked['steps'], n_steps_per_epoch=asked['steps'],
             show_progress=False, logger_adapter=d3rlpy.logging.NoopAdapterFactory())
    policy = awac.impl.policy
    linear = [*(layer for layer in policy._encoder.modules() if isinstance(layer, nn.Linear)),
              policy._mu]
    layers = {f'layer{index}.{name}': getattr(layer, name).detach().numpy()
              for index, layer in enumerate(linear) for name in ('weight', 'bias')}
    np.savez(asked['weights'], acted=awac.predict(dataset.episodes[0].observations[:TOLD]),
             **layers)


if __name__ == '__main__':
    main()
