"""The benchmark bodies as their files describe them."""

from __future__ import annotations

import dataclasses
from typing import Any

import arm7
import numpy as np

from async_mbrl.core.config import load, read_yaml
from async_mbrl.core.robot import BenchmarkConfig, RobotConfig
from async_mbrl.simulation.body import BenchmarkPhysics, make_physics
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.tasks import TaskConfig, make_task

NAMES = ('half_cheetah', 'hopper', 'walker2d', 'ant', 'swimmer', 'reacher', 'pusher',
         'inverted_pendulum')
ENVIRONMENTS = {
    'half_cheetah': 'HalfCheetah-v5', 'hopper': 'Hopper-v5', 'walker2d': 'Walker2d-v5',
    'ant': 'Ant-v5', 'swimmer': 'Swimmer-v5', 'reacher': 'Reacher-v5', 'pusher': 'Pusher-v5',
    'inverted_pendulum': 'InvertedPendulum-v5'}
"""Environment of Gymnasium with the same body."""


def robot(name: str) -> BenchmarkConfig:
    """The body of the files."""
    found = load(RobotConfig, read_yaml(arm7.CONFIG / f'robots/{name}.yaml'))
    assert isinstance(found, BenchmarkConfig)
    return found


def plant(name: str) -> PlantConfig:
    """The plant of the files."""
    return load(PlantConfig, read_yaml(arm7.CONFIG / f'robots/{name}.sim.yaml'))


def task(name: str, **changes: Any) -> Any:
    """The task of the files, changed, built."""
    config = load(TaskConfig, read_yaml(arm7.CONFIG / f'tasks/{name}.yaml'))
    return make_task(dataclasses.replace(config, **changes), robot(name))


def physics(name: str) -> BenchmarkPhysics:
    """The plant of the files, built."""
    found = make_physics(plant(name), robot(name), np.random.default_rng(0))
    assert isinstance(found, BenchmarkPhysics)
    return found
