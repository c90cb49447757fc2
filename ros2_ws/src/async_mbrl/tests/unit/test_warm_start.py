"""A run that begins with what another one has learned: of the same algorithm, or of another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
from point_mass import PointMass, Robot

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.checks import check_beginning
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.sequential import SequentialLearner
from async_mbrl.learning.settings import (
    MbMpoConfig,
    MbpoConfig,
    MePpoConfig,
    MeTrpoConfig,
    SacConfig,
    SvgConfig,
)
from async_mbrl.learning.warm_start import checkpoint_of

TASK = PointMass()
SQUASHED = PolicyNetworkConfig((16,), 'silu', 'tanh', 'state_dependent')
GIVEN = PolicyNetworkConfig((8,), 'tanh', 'clip')
MODEL = ModelConfig(kind='plain', members=2, hidden=(8,))
SAC = SacConfig(batch=32, critic_hidden=(16,), minimum_transitions=60, discount=0.9)
MBPO = MbpoConfig(batch=32, critic_hidden=(16,), minimum_transitions=60, imagined_capacity=100)
ARM = learning_rig.make_task()
ARM_MODEL = ModelConfig(hidden=(16, 16), members=2)


def policy_learner(improvement: Any, network: PolicyNetworkConfig = SQUASHED, task: Any = TASK,
                   model: ModelConfig = MODEL, **changes: Any) -> PolicyLearner:
    return PolicyLearner(improvement, model, network, ExplorationConfig(correlation=0.0), task,
                         **{'seed': 0, **changes})


def learned(folder: Path) -> PolicyLearner:
    """SAC after some updates on the point mass, saved."""
    learner, robot = policy_learner(SAC), Robot(TASK, SQUASHED)
    robot.act_by(learner.snapshot())
    for _ in range(4):
        learner.take(robot.episode())
    while learner.updates < 30:
        learner.step()
    learner.save(folder)
    return learner


def assert_same_policy(one: PolicyLearner, other: PolicyLearner) -> None:
    tensors = other.snapshot().tensors
    for name, value in one.snapshot().tensors.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)


def test_the_same_algorithm_takes_all_but_the_transitions(tmp_path: Path) -> None:
    before = learned(tmp_path)
    after = policy_learner(SAC, seed=7)
    after.begin_from(tmp_path)
    assert (after.next_transition, after.updates) == (0, 0)
    assert_same_policy(before, after)
    for name, value in before.algorithm.state_dict().items():
        np.testing.assert_array_equal(value, after.algorithm.state_dict()[name], err_msg=name)
    moments = after.algorithm.optimizers()['critics'].moments
    assert float(moments[1][0].abs().sum()) > 0.0
    # What comes now is normalised as it was, also after a restart.
    mean = after.algorithm.policy.state_mean.clone()
    robot = Robot(TASK, SQUASHED, seed=3)
    robot.act_by(after.snapshot())
    after.take(robot.episode())
    np.testing.assert_array_equal(mean, after.algorithm.policy.state_mean)
    after.save(tmp_path / 'own')
    again = policy_learner(SAC)
    again.restore(tmp_path / 'own')
    again.take(robot.episode())
    np.testing.assert_array_equal(mean, again.algorithm.policy.state_mean)


def test_another_algorithm_takes_the_policy_alone(tmp_path: Path) -> None:
    before, after = learned(tmp_path), policy_learner(MBPO, seed=7)
    critic = after.algorithm.state_dict()['actor_critic.critics.weights.0'].clone()
    after.begin_from(tmp_path)
    assert_same_policy(before, after)
    np.testing.assert_array_equal(
        critic, after.algorithm.state_dict()['actor_critic.critics.weights.0'])


def test_noise_that_is_given_is_that_of_a_policy_that_has_learned(tmp_path: Path) -> None:
    policy_learner(MePpoConfig(rollouts=4, horizon=5), GIVEN).save(tmp_path)
    after = policy_learner(SvgConfig(), GIVEN)
    assert after.snapshot().exploration_std == 1.0
    after.begin_from(tmp_path)
    assert after.snapshot().exploration_std == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(('improvement', 'network', 'words'), [
    (SAC, dataclasses.replace(SQUASHED, hidden=(17,)), 'policy is .*; begin from a run of'),
    (MePpoConfig(), GIVEN, 'policy is .*expected')])
def test_a_policy_of_another_shape_is_refused(improvement: Any, network: PolicyNetworkConfig,
                                              words: str, tmp_path: Path) -> None:
    learned(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        policy_learner(improvement, network).begin_from(tmp_path)


def test_policies_that_adapt_begin_from_such(tmp_path: Path) -> None:
    policy_learner(MeTrpoConfig(), GIVEN).save(tmp_path)
    with pytest.raises(CheckpointError, match='is of MeTrpoConfig; what acts here are policies'):
        policy_learner(MbMpoConfig(tasks=2), GIVEN).begin_from(tmp_path)


def taught_model(folder: Path) -> ModelLearner:
    learner = ModelLearner(ARM_MODEL, ARM, seed=0)
    learner.take(learning_rig.Plant(ARM).explore(10))
    while learner.updates < 80:
        learner.step()
    learner.save(folder)
    return learner


def test_a_model_goes_on_and_its_range_grows_with_the_data(tmp_path: Path) -> None:
    before = taught_model(tmp_path)
    after = ModelLearner(ARM_MODEL, ARM, seed=5)
    assert not after.ready
    after.begin_from(tmp_path)
    assert after.ready and after.next_transition == after.updates == 0
    for name, value in before.average.state_dict().items():
        np.testing.assert_array_equal(value, after.average.state_dict()[name], err_msg=name)
    mean, upper = after.dynamics.input_mean.clone(), after.dynamics.state_upper.clone()
    far = [dataclasses.replace(item, next_observation=item.next_observation + np.float32(9.0))
           for item in learning_rig.Plant(ARM, seed=2).explore(3)]
    after.take(far)
    np.testing.assert_array_equal(mean, after.dynamics.input_mean)
    assert bool((after.dynamics.state_upper >= upper).all())
    assert float(after.dynamics.state_upper.max()) > 9.0
    with pytest.raises(CheckpointError, match='hidden is .*; begin from a run of the same task'):
        ModelLearner(dataclasses.replace(ARM_MODEL, hidden=(8,)), ARM, seed=0).begin_from(tmp_path)


def test_checkpoints_are_found_in_runs_of_every_schedule(tmp_path: Path) -> None:
    model = taught_model(tmp_path / 'async' / 'model_learner')
    policy = policy_learner(MePpoConfig(rollouts=4, horizon=5), GIVEN, ARM, ARM_MODEL)
    policy.save(tmp_path / 'async' / 'policy_learner')
    SequentialLearner(ScheduleConfig('sync'), model, policy).save(
        tmp_path / 'sync' / 'policy_learner')
    for learner, read in (('model_learner', ModelLearner(ARM_MODEL, ARM, seed=1)),
                          ('policy_learner', policy_learner(
                              MePpoConfig(rollouts=4, horizon=5), GIVEN, ARM, ARM_MODEL))):
        for run in ('async', 'sync'):
            folder = checkpoint_of(tmp_path / run, learner)
            assert folder is not None
            read.begin_from(folder)
        assert checkpoint_of(tmp_path / 'async' / learner, learner) == tmp_path / 'async' / learner
    assert checkpoint_of(tmp_path / 'async' / 'policy_learner', 'model_learner') is None
    with pytest.raises(CheckpointError, match='nothing has been learned there'):
        checkpoint_of(tmp_path, 'policy_learner')


def test_where_a_run_begins_is_checked_before_it_starts(tmp_path: Path) -> None:
    def begin(**given: str) -> None:
        check_beginning(compose(RunRequest(**given), share_folder(), tmp_path))

    with pytest.raises(ConfigError, match='init_from: .*nothing has been learned there'):
        begin(init_from=str(tmp_path))
    with pytest.raises(ConfigError, match='give one of the two'):
        begin(algorithm='awac', init_from=str(tmp_path), dataset=str(tmp_path))
    taught_model(tmp_path / 'there' / 'model_learner')
    begin(init_from=str(tmp_path / 'there'))
    # Resumed, a run goes on with what is its own, wherever it began.
    taught_model(tmp_path / 'model_learner')
    begin(init_from=str(tmp_path / 'gone'))
