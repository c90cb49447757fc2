"""A run whose algorithm needs no model: its graph, its checkpoints, what is said of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import learning_rig
import pytest

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import NODES, describe
from async_mbrl.core.config import ConfigError
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.reporting.outcome import closing_rows

TASK = learning_rig.make_task()


@pytest.mark.parametrize(('algorithm', 'model'), [('sac', False), ('ppo', False), ('awac', False),
                                                    ('mbpo', True)])
def test_a_model_learner_runs_only_where_there_is_a_model(package_root: Path, algorithm: str,
                                                          model: bool) -> None:
    composition = compose(RunRequest(algorithm=algorithm), package_root, Path('/nowhere'))
    names = [node.name for node in describe(composition)]
    assert names == [name for name in NODES
                     if name not in ('planner', 'teleop') and (model or name != 'model_learner')]
    assert ('model_learner' in composition.collection.learners) == model
    learner = PolicyLearner(composition.improvement, composition.model, composition.network,
                            composition.exploration, TASK, seed=0)
    assert bool(learner.model_bytes) == model
    assert learner.snapshot().exploration_std == 0.0, 'it has one of its own'


def test_noise_that_ppo_cannot_learn_from_is_refused_with_its_file(package_root: Path) -> None:
    with pytest.raises(ConfigError, match='exploration.correlation: 0.7, but ppo'):
        compose(RunRequest(algorithm='ppo', set=('exploration.correlation=0.7',)), package_root,
                Path('/nowhere'))


def test_a_checkpoint_does_not_depend_on_a_model_that_is_not_there(package_root: Path,
                                                                   tmp_path: Path) -> None:
    composition = compose(RunRequest(algorithm='sac'), package_root, Path('/nowhere'))
    improvement = dataclasses.replace(composition.improvement, minimum_transitions=2)

    def make(model: ModelConfig, **changes: object) -> PolicyLearner:
        return PolicyLearner(dataclasses.replace(improvement, **changes), model,
                             composition.network, composition.exploration, TASK, seed=0)

    learner = make(composition.model)
    learner.take(learning_rig.Plant(TASK).explore(1))
    assert learner.step()
    learner.save(tmp_path)
    again = make(ModelConfig(members=9))
    assert again.restore(tmp_path) == 15
    assert again.updates == 1
    with pytest.raises(CheckpointError, match='critic_hidden is'):
        make(composition.model, critic_hidden=(8,)).restore(tmp_path)


def test_what_was_learned_is_told_without_a_model() -> None:
    summary = {'updates_during_motion': {'model_learner': None, 'policy_learner': 812}}
    assert ('learning', '812 policy updates while the arm moved') in closing_rows(summary)
    summary['updates_during_motion']['model_learner'] = 90
    assert ('learning', '90 model updates, 812 policy updates while the arm moved'
            ) in closing_rows(summary)
