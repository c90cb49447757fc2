"""Learning from the dataset of a run, before its graph starts: the arm does not move meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import Pretraining, read_offline
from async_mbrl.tasks import make_task

LINE_S = 5.0
"""Time between two lines."""


def pretrain(composition: Composition, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Make the offline updates that a run is to begin with, as far as they are missing.

    What was interrupted goes on from its checkpoint. A run that has gone online is left alone.

    Args:
        composition: configuration of the run; nothing is done without a dataset.
        folder: of the run.
        say: tells a line.

    Raises:
        ConfigError: the dataset, or a checkpoint that is there, cannot be used.
        LearningDiverged: a parameter is no longer finite.
    """
    run = composition.run
    if not run.dataset:
        return
    torch.set_num_threads(1)
    task = make_task(composition.task, composition.robot)
    offline = read_offline(task, Path(run.dataset))
    learner = PolicyLearner(composition.improvement, composition.model, composition.network,
                            composition.exploration, task,
                            seed=learner_seed(run.seed, 'policy_learner'))
    try:
        training = Pretraining(learner, offline, folder.learner('policy_learner'))
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    updates = composition.improvement.offline_updates
    if training.online:
        return
    say(f'learning from {len(offline)} transitions of {run.dataset}: {learner.offline_updates} of '
        f'{updates} updates were made before')
    begun_s = told_s = time.monotonic()
    begun = learner.offline_updates
    for progress in training.run(updates, interval=200):
        now_s = time.monotonic()
        if now_s - told_s >= LINE_S or progress.updates >= updates:
            told_s = now_s
            rate = (progress.updates - begun) / max(1e-9, now_s - begun_s)
            figures = ', '.join(f'{name} {value:.3g}' for name, value in progress.metrics.items()
                                if not name.startswith('offline_'))
            say(f'{progress.updates} of {updates} updates, {rate:.0f} a second; {figures}')
