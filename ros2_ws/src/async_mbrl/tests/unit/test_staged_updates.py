"""Updates of a policy that are split in stages, and policies that change with the episode."""

from __future__ import annotations

from typing import Any

import learning_rig
import numpy as np
import pytest

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.settings import MbMpoConfig, MePpoConfig, MeTrpoConfig

TASK = learning_rig.make_task()
MODEL = ModelConfig(members=2, hidden=(16,), batch=16)
NETWORK = PolicyNetworkConfig((8,), 'tanh', 'clip')
CONFIGS = [
    pytest.param(MePpoConfig(rollouts=4, horizon=5, value_hidden=(8,)), id='me_ppo'),
    pytest.param(MeTrpoConfig(rollouts=4, horizon=5, value_hidden=(8,)), id='me_trpo'),
    pytest.param(MbMpoConfig(rollouts=4, horizon=5, tasks=2), id='mb_mpo'),
]


def make(config: Any) -> tuple[PolicyLearner, learning_rig.Plant, Snapshot]:
    """A learner with data and a model, where its data come from, and the model."""
    plant = learning_rig.Plant(TASK)
    data = plant.explore(3)
    teacher = ModelLearner(MODEL, TASK, seed=0)
    teacher.take(data)
    learner = PolicyLearner(config, MODEL, NETWORK, ExplorationConfig(), TASK, seed=0)
    learner.take(data)
    model = teacher.snapshot()
    learner.take_snapshot(model)
    return learner, plant, model


@pytest.mark.parametrize('config', CONFIGS)
def test_an_update_keeps_model_and_normalisation_to_its_end(
        config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('async_mbrl.learning.workload.STAGE', 1.0)
    learner, plant, model = make(config)
    assert learner.step() and learner.updates == 0
    newer, newest = (Snapshot('model', Version(1, counter), model.architecture,
                              {name: value + counter for name, value in model.tensors.items()})
                     for counter in (7, 8))
    dynamics, mean = learner._dynamics, learner.algorithm.policy.state_mean
    assert dynamics is not None
    before, mean_before = dynamics.tensors(), mean.clone()
    for snapshot in (newest, newer):        # the second one is older by then
        learner.take_snapshot(snapshot)
    learner.take(plant.explore(2))
    assert learner.model_version == model.version
    stages = 1
    while learner.updates == 0:
        assert mean.equal(mean_before)
        for name, value in dynamics.tensors().items():
            np.testing.assert_array_equal(value, before[name])
        assert learner.step()
        stages += 1
    assert stages > 5
    assert learner.model_version == newest.version and not mean.equal(mean_before)
    for name, value in dynamics.tensors().items():
        np.testing.assert_array_equal(value, newest.tensors[name])


def test_published_policies_change_their_task_between_episodes_only() -> None:
    learner, plant, _ = make(MbMpoConfig(rollouts=4, horizon=5, tasks=2, inner_learning_rate=1.0))
    assert learner.step()
    found = []
    for transition in plant.explore(3):
        learner.take([transition])
        snapshot = snapshots.decode(snapshots.encode(learner.snapshot()))
        # At the end of an episode the policy of the next one is handed out already.
        episode = transition.episode + transition.truncated
        assert snapshot.extra == {'act_with': 'adapted', 'adapted_to_task': episode % 2}
        found.append((episode % 2, snapshot.tensors['layer1.bias']))
    for task, bias in found:
        for other_task, other in found:
            assert np.array_equal(bias, other) == (task == other_task)
