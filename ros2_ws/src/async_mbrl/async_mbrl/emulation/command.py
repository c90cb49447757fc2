"""``async-mbrl emulate``: a run on an emulated clock, told line by line, its figures in a file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import to_mapping
from async_mbrl.core.files import write_atomically
from async_mbrl.emulation.run import EmulatedRun, EmulationSettings, Progress

LINE_S = 5.0
"""Time between two lines."""


def settings_of(composition: Composition) -> EmulationSettings:
    """Take the settings of an emulated run out of a configuration in simulation."""
    assert composition.plant is not None
    return EmulationSettings(
        seed=composition.run.seed, robot=composition.robot, plant=composition.plant,
        task=composition.task, collection=composition.collection, model=composition.model,
        network=composition.network, exploration=composition.exploration,
        improvement=composition.improvement, schedule=composition.schedule,
        dataset=composition.run.dataset, device=composition.run.device)


def emulate(composition: Composition, samples: int, output: Path | None,
            say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run on an emulated clock; give the figures.

    On the CPU the figures are the same each time on one machine, ``elapsed_s`` and each
    ``wall_time_s`` apart: that is the time which computing took.

    Args:
        composition: configuration, in simulation.
        samples: transitions to collect.
        output: JSON file for the figures; None for none.
        say: tells a line.

    Raises:
        ConfigError: parts do not fit each other.
        EmulationError: the robot cannot be made to collect.
        OSError: the file cannot be written.
    """
    torch.set_num_threads(1)    # sums of several threads are not always the same
    if composition.run.dataset:
        say(f'learning from {composition.run.dataset}')
    run = EmulatedRun(settings_of(composition), samples)
    if composition.run.dataset:
        say('learned from it alone: {model} updates of the model, {policy} of the policy'.format(
            **run.offline_updates))
    next_s = time.monotonic() + LINE_S

    def watch(progress: Progress) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s and progress.samples < samples:
            next_s = time.monotonic() + LINE_S
            say(line(progress, samples))

    progress = run.run(watch)
    say(line(progress, samples))
    figures = {
        'environment': composition.robot.name, 'task': composition.task.name,
        'algorithm': composition.run.algorithm, 'schedule': composition.schedule.name,
        'seed': composition.run.seed, 'samples': progress.samples,
        'robot_time_s': progress.robot_time_s, 'elapsed_s': progress.elapsed_s,
        'updates': progress.updates, 'updates_per_transition': progress.updates_per_transition,
        'model_epochs': progress.model_epochs, 'aborted': progress.aborted,
        'planned_steps': progress.planned_steps, 'dataset': composition.run.dataset,
        'offline_updates': run.offline_updates,
        'curve': progress.curve,
        'device': composition.run.device,
        'policy_sha256': hashlib.sha256(run.policy_bytes()).hexdigest(),
        'settings': to_mapping(composition.schedule)}
    if output is not None:
        write_atomically(output, json.dumps(figures, indent=2) + '\n')
    return figures


def line(progress: Progress, samples: int) -> str:
    """Tell how far a run is, and how long it will take on."""
    left_s = progress.elapsed_s / max(1, progress.samples) * (samples - progress.samples)
    rates = progress.updates_per_transition
    ret = f'{progress.curve[-1]["return"]:.3g}' if progress.curve else 'none yet'
    return (f'{100 * progress.samples // samples:3d} %  {progress.samples} of {samples} samples, '
            f'{progress.robot_time_s:.0f} s of robot time; return {ret}; updates a sample: model '
            f'{rates["model"]:.3g}, policy {rates["policy"]:.3g}; {left_s:.0f} s left')
