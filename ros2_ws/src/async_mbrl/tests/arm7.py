"""The demo arm as its files describe it, for tests that need a whole robot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.core.config import load, read_yaml, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.model import find_model, kinematics_from_model, load_model
from async_mbrl.tasks import TaskConfig

CONFIG = Path(__file__).resolve().parents[1] / 'config'
NETWORK = PolicyNetworkConfig(hidden=(8,), activation='tanh', squash='clip')


def plant(**changes: Any) -> PlantConfig:
    """The plant of the files, changed."""
    return dataclasses.replace(load(PlantConfig, read_yaml(CONFIG / 'robots/arm7.sim.yaml')),
                               **changes)


def ideal_plant(**changes: Any) -> PlantConfig:
    """A plant without friction, noise and latency, changed."""
    return plant(**{'friction_ratio': 0.0, 'position_noise_rad': 0.0, 'velocity_noise_rad_s': 0.0,
                    'command_latency_s': 0.0, **changes})


def robot(**changes: Any) -> RobotConfig:
    """The robot of the files, changed."""
    mapping = read_yaml(CONFIG / 'robots/arm7.yaml')
    model = load_model(find_model(mapping['model']))
    mapping['kinematics'] = to_mapping(
        kinematics_from_model(model, mapping['joint_names'], mapping['tool_sites']))
    return dataclasses.replace(load(RobotConfig, mapping), **changes)


def task(**changes: Any) -> TaskConfig:
    """The reach task of the files, changed."""
    return dataclasses.replace(load(TaskConfig, read_yaml(CONFIG / 'tasks/reach.yaml')), **changes)


def constant_policy(built_task: Any, action: np.ndarray) -> Snapshot:
    """A policy whose mean is always the same action."""
    architecture = policy_architecture(NETWORK, built_task)
    sizes = architecture['sizes']
    tensors = {'state_mean': np.zeros(built_task.state_size, np.float32),
               'state_std': np.ones(built_task.state_size, np.float32)}
    for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        tensors[f'layer{layer}.weight'] = np.zeros((outputs, inputs), np.float32)
        tensors[f'layer{layer}.bias'] = np.zeros(outputs, np.float32)
    tensors[f'layer{len(sizes) - 2}.bias'] = np.asarray(action, np.float32)
    return Snapshot('policy', Version(1, 0), architecture, tensors)
