"""AWAC: its equations against independent computations, and that it learns offline, then online."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import point_mass
import pytest
import torch
from point_mass import PointMass, Robot, batch
from torch import distributions

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.algorithms.awac import Awac, effective_share, log_likelihood
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.settings import AwacConfig

TASK = PointMass()
GAUSSIAN = PolicyNetworkConfig((32, 32), 'silu', 'tanh_mean', 'state_independent')
AWAC = AwacConfig(batch=128, discount=0.9, temperature=0.1, critic_hidden=(32, 32),
                  policy_learning_rate=2e-3, critic_learning_rate=2e-3, target_rate=0.02,
                  minimum_transitions=60)
SMALL = dataclasses.replace(GAUSSIAN, hidden=(8,))


def core(network: PolicyNetworkConfig = SMALL, **changes: Any) -> Awac:
    """Give an AWAC in double precision whose outputs are not nearly 0."""
    config = dataclasses.replace(AWAC, critic_hidden=(8,), critic_activation='silu', **changes)
    found = Awac(config, network, TASK, torch.Generator().manual_seed(2)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator,
                                           dtype=torch.double)
    return found


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def least_value(network: Any, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The smaller one of the values of both critics, (rows,)."""
    return np.min([value(network, member, features, action) for member in range(2)], 0)


def value(network: Any, member: int, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    first, last = ((weight[member].detach().numpy(), bias[member].detach().numpy())
                   for weight, bias in zip(network.weights, network.biases, strict=True))
    hidden = silu(np.concatenate([features, action], 1) @ first[0] + first[1])
    return (hidden @ last[0] + last[1])[:, 0]


def mean_action(policy: Any, features: np.ndarray) -> np.ndarray:
    first, last = ((weight.detach().numpy().T, bias.detach().numpy())
                   for weight, bias in zip(policy.network.weights, policy.network.biases,
                                           strict=True))
    return np.tanh(silu(features @ first[0] + first[1]) @ last[0] + last[1])


def std_of(policy: Any) -> np.ndarray:
    return np.exp(np.clip(policy.log_std.detach().numpy(), *LOG_STD_RANGE))


def standard_normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.double)


# ---- equations ----

def test_value_targets_have_no_entropy_and_end_where_the_task_ends() -> None:
    found, samples, noise = core(), batch(), standard_normal(6, 1)
    features = samples.next_observation.numpy()
    action = np.clip(mean_action(found.policy, features)
                     + std_of(found.policy) * noise.numpy(), -1.0, 1.0)
    assert (np.abs(action) == 1.0).any(), 'something is clipped'
    expected = samples.reward.numpy() + 0.9 * (1.0 - samples.terminated.numpy()) * least_value(
        found.targets, features, action)
    np.testing.assert_allclose(found.value_targets(samples, noise), expected, atol=1e-12)


@pytest.mark.parametrize('network', [SMALL, dataclasses.replace(SMALL, squash='clip')])
@pytest.mark.parametrize(('state_value', 'count'), [('sample', 1), ('sample', 5), ('mean', 1)])
def test_values_of_states_are_those_of_drawn_actions_or_of_the_mean(
        network: PolicyNetworkConfig, state_value: str, count: int) -> None:
    found = core(network, state_value=state_value, value_samples=count)
    samples, noise = batch(), standard_normal(count, 6, 1)
    features = samples.observation
    with torch.no_grad():
        mean, log_std = found.policy.distribution(features)
    if network is SMALL:
        np.testing.assert_allclose(mean, mean_action(found.policy, features.numpy()), atol=1e-12)
    drawn = [mean.numpy()] if state_value == 'mean' else [
        mean.numpy() + std_of(found.policy) * one for one in noise.numpy()]
    expected = np.mean([least_value(found.critics, features.numpy(), np.clip(action, -1.0, 1.0))
                        for action in drawn], 0)
    np.testing.assert_allclose(found.state_values(features, mean, log_std, noise), expected,
                               atol=1e-12)


def test_weights_by_softmax_sum_to_one() -> None:
    advantage = np.array([0.3, -1.2, 0.0, 2.0])
    weights, clipped = core(temperature=0.5).weights(torch.from_numpy(advantage))
    np.testing.assert_allclose(weights, np.exp(advantage / 0.5) / np.exp(advantage / 0.5).sum())
    assert clipped == 0.0
    weights, _ = core(temperature=1e-3).weights(torch.from_numpy(advantage))
    np.testing.assert_allclose(weights, [0.0, 0.0, 0.0, 1.0], atol=1e-12)


def test_exponential_weights_are_clipped_and_cannot_overflow() -> None:
    found = core(temperature=0.5, weighting='exponential', greatest_weight=20.0)
    advantage = np.array([0.3, -1.2, 1.4, 1.6, 1e6])
    weights, clipped = found.weights(torch.from_numpy(advantage))
    np.testing.assert_allclose(5 * weights, np.minimum(np.exp(
        np.minimum(advantage, 100.0) / 0.5), 20.0))
    assert clipped == pytest.approx(0.4)


def test_effective_share_of_weights() -> None:
    assert effective_share(torch.full((8,), 0.2)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([0.0, 3.0, 0.0, 0.0])) == pytest.approx(0.25)
    weights = torch.tensor([1.0, 2.0, 3.0])
    assert effective_share(weights) == pytest.approx(36.0 / 14.0 / 3.0)
    assert effective_share(7.0 * weights) == pytest.approx(effective_share(weights))


def test_log_likelihood_is_that_of_the_gaussian() -> None:
    found, samples = core(), batch()
    with torch.no_grad():
        mean, log_std = found.policy.distribution(samples.observation)
    expected = distributions.Normal(mean, log_std.exp().expand_as(mean)).log_prob(
        samples.action).sum(-1)
    torch.testing.assert_close(log_likelihood(samples.action, mean, log_std), expected)


@pytest.mark.parametrize('weighting', ['softmax', 'exponential'])
def test_gradients_are_those_of_the_losses(weighting: str) -> None:
    found, samples = core(weighting=weighting, temperature=0.7, greatest_weight=2.0), batch()
    noise = torch.randn(2, 6, 1, generator=torch.Generator().manual_seed(1))
    targets = found.value_targets(samples, noise[0]).numpy()
    features, action = samples.observation.numpy(), samples.action.numpy()

    def critic_loss() -> float:
        return sum(np.mean((value(found.critics, member, features, action) - targets) ** 2)
                   for member in range(2))

    drawn = np.clip(mean_action(found.policy, features)
                    + std_of(found.policy) * noise[1].numpy(), -1.0, 1.0)
    advantage = (least_value(found.critics, features, action)
                 - least_value(found.critics, features, drawn))
    weights = np.exp(advantage / 0.7)
    weights = (weights / weights.sum() if weighting == 'softmax'
               else np.minimum(weights, 2.0) / len(weights))

    def policy_loss() -> float:
        std = std_of(found.policy)
        deviation = (action - mean_action(found.policy, features)) / std
        density = (-0.5 * deviation ** 2 - np.log(std) - 0.5 * math.log(2.0 * math.pi)).sum(1)
        return float(-(weights * density).sum())

    wanted = {'critics': differences(critic_loss, found.critics.parameters()),
              'policy': differences(policy_loss, found.policy.parameters())}
    expected = {'critic_loss': critic_loss(), 'advantage_mean': advantage.mean(),
                'advantage_std': advantage.std(), 'value': targets.mean(),
                'effective_share': weights.sum() ** 2 / (weights ** 2).sum() / 6}
    taken: dict[str, Any] = {}
    for name, optimizer in found.optimizers().items():
        optimizer.step = lambda gradients, name=name: taken.update(  # type: ignore[method-assign]
            {name: gradients})
    found.improve(samples, torch.Generator().manual_seed(1))
    for name, gradients in wanted.items():
        for gradient, other in zip(taken[name], gradients, strict=True):
            np.testing.assert_allclose(gradient, other, atol=1e-7, err_msg=name)
    for name, number in expected.items():
        assert found.metrics()[name] == pytest.approx(number), name


def differences(loss: Callable[[], float], parameters: Any) -> list[np.ndarray]:
    """Gradient by central differences."""
    found = []
    for parameter in parameters:
        flat, gradient = parameter.data.view(-1), np.zeros(parameter.numel())
        for place in range(len(flat)):
            before = float(flat[place])
            around = []
            for step in (1e-6, -1e-6):
                flat[place] = before + step
                around.append(loss())
            flat[place] = before
            gradient[place] = (around[0] - around[1]) / 2e-6
        found.append(gradient.reshape(parameter.shape))
    return found


def test_targets_follow_slowly_and_the_spread_stays_within_its_bounds() -> None:
    config = dataclasses.replace(AWAC, policy_learning_rate=0.5, initial_log_std=-0.6,
                                 least_log_std=-0.7, greatest_log_std=-0.5)
    found = Awac(config, GAUSSIAN, TASK, torch.Generator().manual_seed(2))
    before = [each.clone() for each in found.targets.parameters()]
    samples = Samples(*(part.float() for part in dataclasses.astuple(batch())))
    found.improve(samples, torch.Generator().manual_seed(1))
    for target, old, new in zip(found.targets.parameters(), before, found.critics.parameters(),
                                strict=True):
        torch.testing.assert_close(target, 0.98 * old + 0.02 * new.detach())
    assert float(found.policy.log_std.detach()) in (pytest.approx(-0.7), pytest.approx(-0.5))


def test_hidden_layers_in_bfloat16_change_rounding_alone() -> None:
    policies = []
    for numbers in ('float32', 'bfloat16'):
        found = Awac(dataclasses.replace(AWAC, numbers=numbers), GAUSSIAN, TASK,
                     torch.Generator().manual_seed(2))
        samples = Samples(*(part.float() for part in dataclasses.astuple(batch(64))))
        for _ in range(5):
            found.improve(samples, torch.Generator().manual_seed(1))
        assert {each.dtype for each in found.parameters()} == {torch.float32}
        policies.append(found)
    with torch.no_grad():
        means = [found.policy.mean(samples.observation) for found in policies]
        values = [found.critics(samples.observation, samples.action) for found in policies]
    assert 0.0 < float((values[0] - values[1]).abs().max()) < 0.02
    assert float((means[0] - means[1]).abs().max()) < 0.02


# ---- what it is made for ----

def make(improvement: Any = AWAC, network: PolicyNetworkConfig = GAUSSIAN) -> PolicyLearner:
    return PolicyLearner(improvement, ModelConfig(), network, ExplorationConfig(correlation=0.0),
                         TASK, seed=0)


def test_without_offline_data_it_learns_from_the_robot_alone() -> None:
    learner, robot = make(dataclasses.replace(AWAC, initial_log_std=0.0)), Robot(TASK, GAUSSIAN)
    for _ in range(12):
        robot.act_by(learner.snapshot())
        learner.take(robot.episode())
        for _ in range(30):
            learner.step()
    assert point_mass.mean_return(TASK, GAUSSIAN, learner.snapshot()) > 0.85
    metrics = learner.metrics()
    assert all(np.isfinite(each) for each in metrics.values()) and 'offline_updates' not in metrics
    assert 1.0 / AWAC.batch <= metrics['effective_share'] < 1.0


def test_it_draws_from_the_robot_alone_as_the_others_do() -> None:
    learner, robot = make(), Robot(TASK, GAUSSIAN)
    robot.act_by(learner.snapshot())
    learner.take(robot.episode())
    experience = Experience(learner.buffer, Generators.on(CPU, 7))
    rows = torch.randint(30, (50,), generator=torch.Generator().manual_seed(7))
    for one, other in zip(dataclasses.astuple(experience.draw(50, 0.5)),
                          dataclasses.astuple(learner.buffer.samples(rows)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(('distribution', 'squash'), [
    ('state_dependent', 'tanh'), ('state_independent', 'tanh'), ('given', 'tanh_mean'),
    ('state_dependent', 'tanh_mean')])
def test_networks_that_it_cannot_improve_are_refused(distribution: str, squash: str) -> None:
    with pytest.raises(ConfigError, match=f'awac improves .* got {distribution!r} and {squash!r}'):
        make(network=dataclasses.replace(GAUSSIAN, distribution=distribution, squash=squash))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match='initial_log_std: 0.0 is not between least_log_std'):
        dataclasses.replace(AWAC, initial_log_std=0.0, greatest_log_std=-1.0)
    with pytest.raises(ConfigError, match='value_samples: 3, but state_value is'):
        dataclasses.replace(AWAC, state_value='mean', value_samples=3)


@pytest.mark.parametrize('robot', ['arm7', 'half_cheetah'])
def test_its_files_are_complete(package_root: Path, robot: str) -> None:
    composition = compose(RunRequest(algorithm='awac', robot=robot), package_root,
                          Path('/nowhere'))
    assert isinstance(composition.improvement, AwacConfig)
    assert (composition.improvement.batch == 1024) == (robot == 'half_cheetah')
