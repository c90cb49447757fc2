"""Learning from the dataset of a run, before its graph starts: the arm does not move meanwhile."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import closing
from pathlib import Path

import torch

from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.folder import OpenRun
from async_mbrl.bringup.supervisor import STATUS_INTERRUPTED
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.device import find_device
from async_mbrl.learning.learner import LearningDiverged
from async_mbrl.learning.learners import make_learners
from async_mbrl.learning.pretraining import Pretraining, Progress, read_offline
from async_mbrl.learning.recorded import recorded_count
from async_mbrl.tasks import make_task

LINE_S = 5.0
"""Time between two lines."""


def pretrain(run: OpenRun) -> int:
    """Make the offline updates that a run is to begin with, as far as they are missing.

    What was interrupted goes on from its checkpoint. A learner that has gone online is left alone.
    A policy that comes of it, and has not, becomes the newest of the run: it can be evaluated, and
    used, before the run goes on online.

    Args:
        run: one that has a dataset.

    Returns:
        0, 1 if parameters became infinite, or 130 if it was interrupted; it is said which.

    Raises:
        ConfigError: the dataset, or a checkpoint that is there, cannot be used.
        OSError: a checkpoint, or the policy, cannot be written.
    """
    composition = run.composition
    wanted = offline_updates(composition)
    folders = {name: run.folder.learner(name) for name in wanted}
    made = {name: recorded_count(folder, 'offline_updates') for name, folder in folders.items()}
    online = {name: recorded_count(folder, 'next_transition') for name, folder in folders.items()}
    kept = (run.folder.policy.exists() or online['policy_learner']
            or not wanted['policy_learner'])
    if kept and all(online[name] or made[name] >= wanted[name] for name in wanted):
        return 0
    before = ', '.join(f'{made[name]} of {wanted[name]} updates of the {_what(name)}'
                       for name in wanted if wanted[name])
    print(f'{run.folder.root}: learning from {composition.run.dataset}; {before} were made before',
          flush=True)
    try:
        _learn(run, wanted)
    except LearningDiverged as error:
        print(f'error: {error}; the checkpoint before stands; begin anew with lower learning '
              f'rates ({_learning_rates(composition)})', file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(f'interrupted; go on with: async-mbrl pretrain --run-dir {run.folder.root}',
              file=sys.stderr, flush=True)
        return STATUS_INTERRUPTED
    return 0


def offline_updates(composition: Composition) -> dict[str, int]:
    """Say how many updates each learner of a run makes from its dataset alone."""
    model = ({'model_learner': composition.model.offline_updates}
             if composition.improvement.NEEDS_MODEL else {})
    return {**model, 'policy_learner': composition.improvement.offline_updates}


def _learn(run: OpenRun, wanted: dict[str, int]) -> None:
    composition = run.composition
    torch.set_num_threads(1)
    task = make_task(composition.task, composition.robot)
    device = find_device(composition.run.device)
    model, policy = make_learners(composition, task, composition.run.seed, device)
    try:
        training = Pretraining(read_offline(task, Path(composition.run.dataset), device),
                               policy, model, run.folder.learner)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    lines = _Lines({'policy_learner': policy.offline_updates,
                    'model_learner': 0 if model is None else model.offline_updates})
    with closing(training):
        for progress in training.run(wanted['policy_learner'], wanted.get('model_learner', 0)):
            lines.tell(progress)
        # One that learns nothing offline is that of any run that begins.
        if wanted['policy_learner'] and not policy.next_transition:
            snapshots.write(run.folder.policy, policy.snapshot())


class _Lines:
    """Tells how it goes, now and then and at the end of each learner."""

    def __init__(self, before: dict[str, int]) -> None:
        """Begin with learners that have made some updates before."""
        self._before = before
        self._begun_s = self._told_s = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Tell it, if it is time."""
        now_s, over = time.monotonic(), progress.updates >= progress.wanted
        if now_s - self._told_s < LINE_S and not over:
            return
        made = progress.updates - self._before[progress.learner]
        rate = made / max(1e-9, now_s - self._begun_s)
        figures = ', '.join(f'{name} {value:.3g}' for name, value in progress.metrics.items()
                            if not name.startswith('offline_'))
        print(f'{_what(progress.learner)}: {progress.updates} of {progress.wanted} updates, '
              f'{rate:.3g} a second; {figures}', flush=True)
        self._told_s = now_s
        if over:
            self._begun_s = now_s


def _what(learner: str) -> str:
    return learner.removesuffix('_learner')


def _learning_rates(composition: Composition) -> str:
    """Name the settings of learning rates that the learners of a run have."""
    sections = {'model': composition.model} if composition.improvement.NEEDS_MODEL else {}
    return ', '.join(
        f'{section}.{field.name}'
        for section, part in {**sections, 'improvement': composition.improvement}.items()
        for field in dataclasses.fields(part) if field.name.endswith('learning_rate'))
