"""The soft actor-critic: its equations against independent computations, and what is optional."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from point_mass import PointMass, batch
from torch import distributions

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.settings import SacConfig
from async_mbrl.learning.soft_actor_critic import SoftActorCritic

TASK = PointMass()
SQUASHED = PolicyNetworkConfig((32, 32), 'silu', 'tanh', 'state_dependent')
SAC = SacConfig(discount=0.9, policy_learning_rate=1e-3, critic_learning_rate=1e-3,
                temperature_learning_rate=1e-3, critic_hidden=(64, 64), target_rate=0.02)


def core(**changes: Any) -> SoftActorCritic:
    """Give an actor-critic in double precision whose outputs are not nearly 0."""
    config = dataclasses.replace(SAC, critic_hidden=(8,), **changes)
    found = SoftActorCritic(config, dataclasses.replace(SQUASHED, hidden=(8,)), TASK,
                            torch.Generator().manual_seed(2)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator,
                                           dtype=torch.double)
    return found


def by_hand(network: Any, member: int, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Value of one critic, layer by layer."""
    x = np.concatenate([features, action], 1)
    layers = [(weight[member].detach().numpy(), bias[member].detach().numpy())
              for weight, bias in zip(network.weights, network.biases, strict=True)]
    for weight, bias in layers[:-1]:
        x = x @ weight + bias
        x = x / (1.0 + np.exp(-x))
    return (x @ layers[-1][0] + layers[-1][1])[:, 0]


def test_value_targets_are_those_of_the_paper() -> None:
    found, samples = core(initial_temperature=0.3), batch()
    noise = torch.randn(6, 1, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    targets = found.value_targets(samples, noise)
    with torch.no_grad():
        mean, log_std = found.policy.distribution(samples.next_observation)
        transform = distributions.TanhTransform(cache_size=1)
        action = transform(mean + log_std.exp() * noise)
        density = distributions.TransformedDistribution(
            distributions.Normal(mean, log_std.exp()), transform).log_prob(action)[:, 0]
    features, action = samples.next_observation.numpy(), action.numpy()
    values = np.minimum(*(by_hand(found.targets, member, features, action)
                          for member in range(2)))
    temperature = math.exp(float(found.log_temperature.detach()))
    expected = samples.reward.numpy() + 0.9 * (1 - samples.terminated.numpy()) * (
        values - temperature * density.numpy())
    np.testing.assert_allclose(targets, expected, atol=1e-10)
    ended = samples.terminated.bool()
    torch.testing.assert_close(targets[ended], samples.reward[ended])


def test_each_critic_is_drawn_to_the_targets() -> None:
    found, samples = core(), batch()
    targets = torch.arange(6.0, dtype=torch.double)
    loss = found.critic_loss(found.critics(samples.observation, samples.action), targets)
    expected = sum(0.5 * np.mean((by_hand(
        found.critics, member, samples.observation.numpy(), samples.action.numpy())
        - targets.numpy()) ** 2) for member in range(2))
    assert float(loss.detach()) == pytest.approx(expected)


def test_the_gradient_of_the_policy_is_that_of_its_loss() -> None:
    found, samples = core(), batch()
    noise = torch.randn(6, 1, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    parameters = list(found.policy.parameters())

    def loss() -> torch.Tensor:
        return found.policy_loss(samples.observation,
                                 *found.policy.sample(samples.observation, noise))

    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in range(0, parameter.numel(), max(1, parameter.numel() // 3)):
            changed = parameter.data.view(-1)
            before = float(changed[place])
            around = []
            for sign in (1.0, -1.0):
                changed[place] = before + sign * step
                around.append(float(loss().detach()))
            changed[place] = before
            assert (around[0] - around[1]) / (2 * step) == pytest.approx(
                float(gradient.reshape(-1)[place]), abs=1e-6)


def test_the_temperature_follows_the_entropy() -> None:
    found = core(target_entropy=-0.5)
    log_density = torch.tensor([0.2, 0.6, -0.1], dtype=torch.double)
    loss = found.temperature_loss(log_density)
    (gradient,) = torch.autograd.grad(loss, [found.log_temperature])
    temperature = math.exp(float(found.log_temperature.detach()))
    assert float(loss.detach()) == pytest.approx(
        float(np.mean([-temperature * (each - 0.5) for each in (0.2, 0.6, -0.1)])))
    # An entropy of -0.233 is above the one wanted, -0.5: less weight for it.
    assert float(gradient) == pytest.approx(-temperature * (0.7 / 3 - 0.5)) and gradient > 0


def test_targets_follow_the_critics_slowly() -> None:
    found = SoftActorCritic(SAC, SQUASHED, TASK, torch.Generator().manual_seed(2))
    before = [each.clone() for each in found.targets.parameters()]
    found.improve(single(), torch.Generator().manual_seed(1))
    for target, old, new in zip(found.targets.parameters(), before, found.critics.parameters(),
                                strict=True):
        torch.testing.assert_close(target, 0.98 * old + 0.02 * new.detach())


def single(rows: int = 6) -> Samples:
    """The same batch in single precision."""
    return Samples(*(part.float() for part in dataclasses.astuple(batch(rows))))


def test_policy_and_temperature_are_improved_at_their_interval_the_critics_always() -> None:
    found = SoftActorCritic(dataclasses.replace(SAC, policy_interval=3), SQUASHED, TASK,
                            torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    watched = {'policy': found.policy.network.weights[-1], 'critics': found.critics.weights[0],
               'temperature': found.log_temperature, 'targets': found.targets.weights[0]}
    changed = []
    for _ in range(7):
        before = {name: value.detach().clone() for name, value in watched.items()}
        found.improve(single(), generator)
        changed.append({name for name, value in watched.items()
                        if not torch.equal(value, before[name])})
    others = {'critics', 'targets'}
    assert changed == [set(watched), others, others] * 2 + [set(watched)]
    again = SoftActorCritic(found.config, SQUASHED, TASK, torch.Generator())
    again.load_state_dict(found.state_dict())
    assert int(again.critic_updates) == 7     # the interval goes on after a restart


def test_losses_and_their_gradients_in_bfloat16_are_nearly_those_in_float32() -> None:
    cores = [SoftActorCritic(dataclasses.replace(SAC, numbers=numbers), SQUASHED, TASK,
                             torch.Generator().manual_seed(2))
             for numbers in ('float32', 'bfloat16')]
    samples = single(256)
    noise = torch.randn(256, 1, generator=torch.Generator().manual_seed(5))
    found = []
    for each in cores:
        targets = each.value_targets(samples, noise)
        values = each.critics(samples.observation, samples.action)
        critic = each.critic_loss(values, torch.ones(256))
        policy = each.policy_loss(samples.observation,
                                  *each.policy.sample(samples.observation, noise))
        gradients = [torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
                     for loss, parameters in ((critic, list(each.critics.parameters())),
                                              (policy, list(each.policy.parameters())))]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found.append((targets, *gradients))
    for exact, rounded in zip(*found, strict=True):
        error = (rounded - exact).norm() / exact.norm()
        assert 0.0 < error < 0.02
