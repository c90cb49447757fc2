"""AWAC of d3rlpy 2.6.1, for ``awac_speed.py``; runs in an interpreter that has it.

Its only argument is JSON: {'observation': 17, 'action': 6, 'transitions': 100000, 'episode': 1000,
'hidden': [256, 256], 'batch': 1024, 'steps': 40}. Each line asked is answered by one line,
{'seconds': CPU time of one gradient step of ``fit()``, with its sampling}, over that many steps.
The first line that it writes names the versions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

# What d3rlpy logs goes to the standard error: the standard output carries answers.
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

SEED = 0


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    d3rlpy.seed(SEED)
    shape: dict[str, Any] = json.loads(sys.argv[1])
    rng = np.random.default_rng(SEED)
    count = shape['transitions']
    ends = np.arange(1, count + 1) % shape['episode'] == 0
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(count, shape['observation'])).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, (count, shape['action'])).astype(np.float32),
        rewards=rng.normal(size=count).astype(np.float32),
        terminals=np.zeros(count, np.float32), timeouts=ends.astype(np.float32))
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=shape['hidden'])
    awac = d3rlpy.algos.AWACConfig(
        batch_size=shape['batch'], actor_encoder_factory=encoder,
        critic_encoder_factory=encoder).create(device='cpu:0')
    windows = awac.fitter(
        dataset, n_steps=10**9, n_steps_per_epoch=shape['steps'], show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory())
    next(windows)
    print(json.dumps({name: version(name) for name in ('d3rlpy', 'torch', 'numpy')}),
          file=answers, flush=True)
    for _ in sys.stdin:
        begun = time.process_time()
        next(windows)
        print(json.dumps({'seconds': (time.process_time() - begun) / shape['steps']}),
              file=answers, flush=True)


if __name__ == '__main__':
    main()
