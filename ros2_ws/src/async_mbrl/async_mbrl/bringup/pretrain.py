"""Learning from the dataset of a run, before its graph starts: the arm does not move meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from async_mbrl.bringup.folder import OpenRun
from async_mbrl.bringup.supervisor import STATUS_INTERRUPTED
from async_mbrl.core.config import ConfigError
from async_mbrl.learning.checkpoint import CheckpointError, recorded_count
from async_mbrl.learning.learner import LearningDiverged, learner_seed
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import Pretraining, read_offline
from async_mbrl.learning.settings import ActorCriticConfig
from async_mbrl.tasks import make_task

INTERVAL = 200
"""Updates between two checkpoints."""
LINE_S = 5.0
"""Time between two lines."""


def pretrain(run: OpenRun) -> int:
    """Make the offline updates that a run is to begin with, as far as they are missing.

    What was interrupted goes on from its checkpoint. A run that has gone online is left alone.

    Args:
        run: one that has a dataset.

    Returns:
        0, 1 if parameters became infinite, or 130 if it was interrupted; it is said which.

    Raises:
        ConfigError: the dataset, or a checkpoint that is there, cannot be used.
        OSError: a checkpoint cannot be written.
    """
    folder = run.folder.learner('policy_learner')
    improvement = run.composition.improvement
    assert isinstance(improvement, ActorCriticConfig)       # as was checked
    made = recorded_count(folder, 'offline_updates')
    if recorded_count(folder, 'next_transition') or made >= improvement.offline_updates:
        return 0
    print(f'{run.folder.root}: learning from {run.composition.run.dataset}; {made} of '
          f'{improvement.offline_updates} updates were made before', flush=True)
    try:
        _learn(run, improvement, folder)
    except LearningDiverged as error:
        print(f'error: {error}; the checkpoint before stands; begin anew with lower learning '
              'rates (improvement.policy_learning_rate, improvement.critic_learning_rate)',
              file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(f'interrupted; go on with: async-mbrl pretrain --run-dir {run.folder.root}',
              file=sys.stderr, flush=True)
        return STATUS_INTERRUPTED
    return 0


def _learn(run: OpenRun, improvement: ActorCriticConfig, folder: Path) -> None:
    composition = run.composition
    torch.set_num_threads(1)
    task = make_task(composition.task, composition.robot)
    learner = PolicyLearner(improvement, composition.model, composition.network,
                            composition.exploration, task,
                            seed=learner_seed(composition.run.seed, 'policy_learner'))
    try:
        training = Pretraining(learner, read_offline(task, Path(composition.run.dataset)), folder)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    begun_s = told_s = time.monotonic()
    begun, updates = learner.offline_updates, improvement.offline_updates
    for progress in training.run(updates, INTERVAL):
        now_s = time.monotonic()
        if now_s - told_s >= LINE_S or progress.updates >= updates:
            told_s = now_s
            rate = (progress.updates - begun) / max(1e-9, now_s - begun_s)
            figures = ', '.join(f'{name} {value:.3g}' for name, value in progress.metrics.items()
                                if not name.startswith('offline_'))
            print(f'{progress.updates} of {updates} updates, {rate:.0f} a second; {figures}',
                  flush=True)
