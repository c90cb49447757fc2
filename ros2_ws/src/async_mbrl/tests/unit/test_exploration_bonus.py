"""Bonuses of exploration: what they are, and that they draw to what is not known."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_rig import ROBOT, TASK, Plant, make_task
from point_mass import PointMass, Robot

from async_mbrl.core.config import ConfigError, load
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.learning.algorithms import make_algorithm
from async_mbrl.learning.buffer import Samples, TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.curiosity import Curiosity
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.dynamics import make_dynamics
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.rollouts import imagine
from async_mbrl.learning.settings import (
    AwacConfig,
    MbpoConfig,
    MePpoConfig,
    MeTrpoConfig,
    SacConfig,
    SvgConfig,
)
from async_mbrl.learning.workload import Workload
from async_mbrl.tasks import ReachTask, TaskConfig

REACH = make_task()
MODEL = ModelConfig(members=3, hidden=(32,), batch=64, product='batched')
CLIPPED = PolicyNetworkConfig((16,), 'tanh', 'clip')
SQUASHED = PolicyNetworkConfig((16,), 'silu', 'tanh', 'state_dependent')
BOUNDED = PolicyNetworkConfig((16,), 'silu', 'tanh_mean', 'state_independent')


def explored(episodes: int = 10) -> TransitionBuffer:
    buffer = TransitionBuffer(5000, REACH.state_size, REACH.action_size, REACH.goal_size)
    buffer.append(Plant(REACH).explore(episodes))
    return buffer


def imagination_of(buffer: TransitionBuffer) -> Imagination:
    generators = Generators.on(CPU, 1)
    dynamics = make_dynamics(MODEL, REACH, generators.noise).requires_grad_(False)
    with torch.no_grad():
        for weight in dynamics.network.weights:
            weight.mul_(3.0)
    return Imagination(dynamics, REACH, Pool(buffer), generators, np.random.default_rng(2))


@pytest.mark.parametrize('kind', ['structured', 'plain'])
def test_disagreement_is_the_spread_of_what_the_members_predict(kind: str) -> None:
    config = dataclasses.replace(MODEL, kind=kind)
    dynamics = make_dynamics(config, REACH, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    state = torch.randn(4, 5, REACH.state_size, generator=generator)
    action = torch.randn(4, 5, REACH.action_size, generator=generator)
    found = dynamics.disagreement(state, action).detach().numpy()
    # With nothing normalised yet, a change is a change: what each member adds to the state.
    part = REACH.velocity if kind == 'structured' else slice(REACH.previous_action.start)
    predicted = np.stack([
        dynamics.predict(state.flatten(0, 1).expand(3, -1, -1),
                         action.flatten(0, 1).expand(3, -1, -1), clamp=False)[member].detach()
        for member in range(3)])[..., part]
    expected = np.sqrt(np.var(predicted, 0).mean(-1)).reshape(4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.min() > 0.0


def test_members_disagree_where_there_were_no_data() -> None:
    learner = ModelLearner(MODEL, REACH, seed=3)
    learner.take(Plant(REACH).explore(20))
    for _ in range(60):
        learner.step()
    states = learner.buffer.states
    actions = torch.zeros(len(states), REACH.action_size)
    known = learner.average.disagreement(states, actions).mean()
    elsewhere = states.clone()
    elsewhere[:, REACH.position] += 2.0
    elsewhere[:, REACH.velocity] *= 4.0
    assert learner.average.disagreement(elsewhere, actions).mean() > 3.0 * known


@pytest.mark.parametrize(('config', 'horizon'), [
    (MePpoConfig(rollouts=6, horizon=4), 4), (MeTrpoConfig(rollouts=6, horizon=4), 4)])
def test_the_bonus_of_imagined_rollouts_is_that_of_their_steps(config: Any, horizon: int) -> None:
    config = dataclasses.replace(config, disagreement_weight=0.5)
    imagination = imagination_of(explored())
    algorithm = make_algorithm(config, CLIPPED, REACH, torch.Generator().manual_seed(4))
    policy: Any = algorithm.policy
    seen: list[torch.Tensor] = []
    advance = imagination.advance
    imagination.advance = lambda *given, **more: seen.append(given[0]) or advance(  # type: ignore
        *given, **more)
    stages = imagine(imagination, REACH, config, 6, policy, policy.unsquashed, policy.log_std,
                     Workload())
    with pytest.raises(StopIteration) as ended:
        next(stages)
    rollouts = ended.value.value
    for step in range(horizon):
        expected = 0.5 * imagination.disagreement(seen[step],
                                                  rollouts.actions[step].clamp(-1.0, 1.0))
        torch.testing.assert_close(rollouts.bonus[step], expected)
    torch.testing.assert_close(rollouts.incentives, rollouts.rewards + rollouts.bonus)
    assert rollouts.imagined_return == pytest.approx(float(rollouts.rewards.sum(0).mean()))
    assert rollouts.mean_bonus > 0.0


@pytest.mark.parametrize(('config', 'network'), [
    (MePpoConfig(rollouts=6, horizon=4), CLIPPED), (SvgConfig(rollouts=6, horizon=4),
                                                    PolicyNetworkConfig((16,), 'silu', 'tanh')),
    (MbpoConfig(rollouts=6, batch=16, critic_hidden=(8,)), SQUASHED)])
def test_every_algorithm_that_imagines_tells_its_bonus(
        config: Any, network: PolicyNetworkConfig) -> None:
    found = []
    for weight in (0.0, 1.0):
        chosen = dataclasses.replace(config, disagreement_weight=weight)
        algorithm = make_algorithm(chosen, network, REACH, torch.Generator().manual_seed(4))
        for _ in algorithm.update(imagination_of(explored())) or ():
            pass
        found.append((algorithm.metrics()['exploration_bonus'],
                      torch.cat([parameter.detach().flatten()
                                 for parameter in algorithm.parameters()])))
    assert found[0][0] == 0.0 and found[1][0] > 0.0
    assert not torch.equal(found[0][1], found[1][1])


def test_a_single_member_cannot_disagree() -> None:
    config = MbpoConfig(disagreement_weight=0.1)
    with pytest.raises(ConfigError, match=r'disagreement_weight: 0.1, but model.members is 1'):
        config.check_model(ModelConfig(members=1))
    config.check_model(MODEL)


def transitions_of(seed: int, rows: int, offset: float = 0.0) -> Samples:
    task, rng = PointMass(), np.random.default_rng(seed)
    observation = np.stack([task.start(rng) + offset for _ in range(rows)]).astype(np.float32)
    action = rng.uniform(-1.0, 1.0, (rows, 1)).astype(np.float32)
    following = task.advance(np, observation, action).astype(np.float32)
    return Samples(*(torch.from_numpy(part) for part in (observation, action, following)),
                   torch.zeros(rows), torch.zeros(rows))


def curious(weight: float = 2.0) -> tuple[Curiosity, Policy]:
    generator = torch.Generator().manual_seed(5)
    task = PointMass()
    return Curiosity(weight, task, generator), Policy(SQUASHED, task, generator)


def test_what_was_learned_surprises_no_more() -> None:
    curiosity, policy = curious()
    first = curiosity.reward(transitions_of(0, 128), policy).reward.mean()
    for seed in range(400):
        curiosity.reward(transitions_of(seed, 128), policy)
    known = curiosity.reward(transitions_of(1000, 128), policy).reward.mean()
    new = curiosity.reward(transitions_of(1000, 128, offset=3.0), policy).reward.mean()
    assert known < 0.2 * first
    assert new > 5.0 * known
    assert curiosity.scalars['exploration_bonus'] == pytest.approx(float(new), rel=1e-5)


def test_the_bonus_is_the_error_of_the_prediction() -> None:
    curiosity, policy = curious()
    before, samples = copy.deepcopy(curiosity), transitions_of(0, 16)
    found = curiosity.reward(samples, policy)
    with torch.no_grad():
        features, following = (torch.tanh(before.encoder(part)) for part in (
            samples.observation, samples.next_observation))
        predicted = before.prediction(torch.cat([features, samples.action], 1))
    torch.testing.assert_close(found.reward, 2.0 * (predicted - following).square().mean(1))
    assert torch.equal(found.action, samples.action)


def test_features_are_not_changed_to_be_predicted_more_easily() -> None:
    curiosity, policy = curious()
    other = copy.deepcopy(curiosity)
    with torch.no_grad():       # what it predicts is quite another thing
        for parameter in other.prediction.parameters():
            parameter.add_(1.0)
    for each in (curiosity, other):
        optimizer = each.optimizer
        optimizer.parameters = list(each.parameters())
        each.reward(transitions_of(0, 16), policy)
    for one, another in zip(curiosity.encoder.parameters(), other.encoder.parameters(),
                            strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize(('config', 'network'), [
    (SacConfig(batch=32, critic_hidden=(8,), minimum_transitions=10), SQUASHED),
    (AwacConfig(batch=32, critic_hidden=(8,), minimum_transitions=10), BOUNDED)])
def test_curiosity_is_resumed_and_belongs_to_a_checkpoint(
        config: Any, network: PolicyNetworkConfig, tmp_path: Path) -> None:
    task = PointMass()

    def make(weight: float) -> PolicyLearner:
        return PolicyLearner(dataclasses.replace(config, curiosity_weight=weight), ModelConfig(),
                             network, ExplorationConfig(), task, seed=1)

    learner = make(0.5)
    robot = Robot(task, network)
    robot.act_by(learner.snapshot())
    learner.take(robot.episode())
    for _ in range(3):
        assert learner.step()
    assert learner.metrics()['exploration_bonus'] > 0.0
    learner.save(tmp_path)
    resumed = make(0.5)
    resumed.restore(tmp_path)
    for name, value in learner.algorithm.state_dict().items():
        assert torch.equal(value, resumed.algorithm.state_dict()[name])
    learner.step()
    resumed.step()
    for name, value in learner.algorithm.state_dict().items():
        assert torch.equal(value, resumed.algorithm.state_dict()[name])
    with pytest.raises(CheckpointError, match='curious is True, expected False'):
        make(0.0).restore(tmp_path)


def test_a_sparse_reward_is_there_at_the_goal_alone() -> None:
    task = ReachTask(load(TaskConfig, {**TASK, 'sparse': True}), load(RobotConfig, ROBOT))
    observations = np.stack([transition.observation for transition in Plant(task).explore(4)])
    points = observations[:, task.tool].reshape(len(observations), -1, 3)
    shifts = np.linspace(0.0, 2.0 * task.config.success_distance_m, len(observations))
    goals = points + shifts[:, None, None] * np.array([0.0, 1.0, 0.0])
    observations[:, task.goal] = goals.reshape(len(goals), -1)
    actions = np.zeros((len(observations), task.action_size), np.float32)
    speeds = np.square(observations[:, task.velocity]).sum(1)
    expected = task.config.reward_scale * (
        (shifts < task.config.success_distance_m) - task.config.velocity_cost * speeds)
    clear = np.abs(shifts - task.config.success_distance_m) > 1e-4
    found = task.reward(np, observations.astype(float), actions)
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-7)
    in_torch = task.reward(torch, torch.from_numpy(observations), torch.from_numpy(actions))
    np.testing.assert_allclose(in_torch.numpy()[clear], expected[clear], atol=1e-6)
    assert 0 < (shifts[clear] < task.config.success_distance_m).sum() < clear.sum()
