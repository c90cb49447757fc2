"""Runs in which a planner acts: their graph, and one on the emulated clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import arm7
import pytest

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import NODES, describe
from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.emulation.run import EmulatedRun, EmulationSettings
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.settings import PetsConfig

STEPS = 6
WITHOUT_A_MODEL = 4


def test_a_planner_runs_where_it_acts_and_nowhere_else(package_root: Path) -> None:
    composition = compose(RunRequest(algorithm='pets'), package_root, Path('/nowhere'))
    described = describe(composition)
    assert {node.name for node in described} == set(NODES) - {'teleop'}
    planner = next(node for node in described if node.name == 'planner')
    assert planner.respawn and not planner.required
    assert {'run', 'robot', 'task', 'model', 'improvement'} == set(planner.parameters)
    using = replace(composition, run=replace(composition.run, mode='use'))
    assert 'planner' not in {node.name for node in describe(using)}
    other = compose(RunRequest(algorithm='me_ppo'), package_root, Path('/nowhere'))
    assert 'planner' not in {node.name for node in describe(other)}


def test_a_planner_does_not_wait_for_learners(package_root: Path) -> None:
    with pytest.raises(ConfigError, match='schedule.name: sync, but pets'):
        compose(RunRequest(algorithm='pets', schedule='sync'), package_root, Path('/nowhere'))


def emulated(seed: int) -> Any:
    run = EmulatedRun(EmulationSettings(
        seed=seed, robot=arm7.robot(control_rate_hz=100.0),
        plant=arm7.plant(physics_rate_hz=500.0), task=arm7.task(episode_steps=STEPS),
        collection=CollectionConfig(), model=ModelConfig(
            members=2, hidden=(16,), batch=16, minimum_transitions=WITHOUT_A_MODEL,
            updates_per_step=1, product='batched'),
        network=PolicyNetworkConfig((8,), 'tanh', 'tanh'), exploration=ExplorationConfig(),
        improvement=PetsConfig(horizon=4, candidates=8, iterations=2, elites=2, kept=1,
                               handed_out=2, minimum_transitions=2),
        schedule=ScheduleConfig(policy_updates_per_transition=0.5)), 4 * STEPS)
    progress = run.run()
    return progress.planned_steps, [point['return'] for point in progress.curve], progress.updates


def test_the_planner_acts_in_all_steps_but_the_first_once_there_is_a_model() -> None:
    planned, returns, updates = emulated(5)
    # Three episodes of which only the first step is not planned, and what is left of the first.
    assert planned == 3 * (STEPS - 1) + STEPS - WITHOUT_A_MODEL - 1
    assert updates['policy'] > 0
    assert emulated(5) == (planned, returns, updates)
    assert emulated(6)[1] != returns
