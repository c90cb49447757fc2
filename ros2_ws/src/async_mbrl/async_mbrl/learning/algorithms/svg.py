"""SVG(H): the return of imagined rollouts, differentiated through model, reward and policy.

Heess et al. 2015 with a terminal value; the value is learned from lambda returns of the same
rollouts against a slowly moving target.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam, clip_norm
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.settings import SvgConfig
from async_mbrl.learning.value import ValueNetwork, lambda_returns


class Svg(nn.Module):
    """Policy, value and how one update changes them."""

    def __init__(self, config: SvgConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimisers."""
        super().__init__()
        self.config = config
        self._task = task
        self.policy = Policy(network, task, generator)
        self.average = Policy(network, task, generator).requires_grad_(False)
        self.average.load_state_dict(self.policy.state_dict())
        self.value = ValueNetwork((task.feature_size, *config.value_hidden, 1),
                                  config.value_activation, generator)
        self.target = copy.deepcopy(self.value).requires_grad_(False)
        self._policy_optimizer = Adam(self.policy.parameters(), config.policy_learning_rate)
        self._value_optimizer = Adam(self.value.parameters(), config.value_learning_rate)
        self._discounts = config.discount ** torch.arange(config.horizon)[:, None, None]
        self._return = self._bonus = 0.0
        self._value_loss = 0.0
        self._gradient_norm = 0.0

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published: a running average."""
        return self.average

    @property
    def samples_of_update(self) -> int:
        """Start states of the imagined rollouts."""
        return self.config.rollouts

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return {'value_hidden': list(self.config.value_hidden)}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return {'policy': self._policy_optimizer, 'value': self._value_optimizer}

    def update(self, imagination: Imagination) -> None:
        """Improve the policy and the value once."""
        config = self.config
        features, rewards, bonus = self._imagine(imagination)
        incentives = rewards + bonus
        terminal = config.discount ** config.horizon * self.target(features[-1])
        objective = (self._discounts * incentives).sum(0) + terminal
        gradients = torch.autograd.grad(-objective.mean() / config.horizon,
                                        self._policy_optimizer.parameters)
        norm = clip_norm(gradients, config.gradient_norm)
        self._policy_optimizer.step(gradients)

        features, incentives = features.detach(), incentives.detach()
        targets = lambda_returns(incentives, self.target(features), config.discount, config.trace)
        value_loss = nn.functional.mse_loss(self.value(features[:-1]), targets)
        gradients = torch.autograd.grad(value_loss, self._value_optimizer.parameters)
        clip_norm(gradients, config.value_gradient_norm)
        self._value_optimizer.step(gradients)

        with torch.no_grad():
            for slow, fast, rate in ((self.target, self.value, config.target_rate),
                                     (self.average, self.policy, config.average)):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
        self._return = float(rewards.detach().sum(0).mean())
        self._bonus = float(bonus.detach().mean())
        self._value_loss = float(value_loss.detach())
        self._gradient_norm = float(norm)

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imagined_return': self._return, 'exploration_bonus': self._bonus,
                'value_loss': self._value_loss,
                'gradient_norm': self._gradient_norm}

    def _imagine(self, imagination: Imagination) -> tuple[torch.Tensor, torch.Tensor,
                                                          torch.Tensor]:
        """Give features (horizon + 1, ...), rewards and bonus (horizon, ...), with gradients."""
        config, policy = self.config, self.policy
        observation = start = imagination.start(config.rollouts, config.initial_share)
        shape = (config.horizon, *observation.shape[:-1], self._task.action_size)
        generator = imagination.generators.noise
        noise = config.action_std * torch.randn(shape, generator=generator,
                                                device=generator.device)
        features, actions, observations = [policy.features(observation)], [], []
        for step in range(config.horizon):
            action = (policy.mean(features[-1]) + noise[step]).clamp(-1.0, 1.0)
            observation = imagination.advance(observation, action)
            actions.append(action)
            observations.append(observation)
            features.append(policy.features(observation))
        rewards = self._task.reward(torch, torch.stack(observations), torch.stack(actions))
        bonus = torch.zeros_like(rewards)
        if config.disagreement_weight:
            bonus = config.disagreement_weight * imagination.disagreement(
                torch.stack([start, *observations[:-1]]), torch.stack(actions))
        return torch.stack(features), rewards, bonus
