"""ME-PPO: proximal policy optimisation on rollouts imagined by a model ensemble.

Zhang et al. 2019 with the clipped objective of Schulman et al. 2017. One update: imagine a batch of
rollouts with the current policy, form generalised advantages, make a few passes over the steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam, clip_norm
from async_mbrl.learning.config import MePpoConfig
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.value import ValueNetwork, lambda_returns


class MePpo(nn.Module):
    """Policy, value and how one update changes them."""

    def __init__(self, config: MePpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimiser."""
        super().__init__()
        self.config = config
        self._task = task
        self.policy = Policy(network, task, generator)
        self.value = ValueNetwork((task.feature_size, *config.value_hidden, 1),
                                  config.value_activation, generator)
        self.log_std = nn.Parameter(torch.full((task.action_size,), config.initial_log_std))
        self._policy_optimizer = Adam([*self.policy.parameters(), self.log_std],
                                      config.policy_learning_rate)
        self._value_optimizer = Adam(self.value.parameters(), config.value_learning_rate)
        self._return = 0.0
        self._value_loss = 0.0

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published."""
        return self.policy

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return {'policy': self._policy_optimizer, 'value': self._value_optimizer}

    def update(self, imagination: Imagination) -> None:
        """Improve the policy once."""
        config = self.config
        features, actions, log_probability, rewards = self._imagine(imagination)
        with torch.inference_mode():
            values = self.value(features)
            returns = lambda_returns(rewards, values, config.discount, config.trace)
            advantages = returns - values[:-1]
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
            self._return = float(rewards.sum(0).mean())
        steps = torch.cat([
            features[:-1].flatten(0, -2), actions.flatten(0, -2), log_probability.view(-1, 1),
            advantages.view(-1, 1), returns.view(-1, 1)], 1)
        sizes = (features.shape[-1], actions.shape[-1], 1, 1, 1)
        minibatch = max(1, len(steps) // config.minibatches)
        for _ in range(config.epochs):
            order = torch.randperm(len(steps), generator=imagination.generator)
            for chosen in order.split(minibatch)[:config.minibatches]:
                self._improve(*steps[chosen].split(sizes, 1))

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imagined_return': self._return, 'value_loss': self._value_loss,
                'action_std': float(self.log_std.detach().exp().mean())}

    @torch.inference_mode()
    def _imagine(self, imagination: Imagination) -> tuple[torch.Tensor, ...]:
        """Roll out: features (horizon + 1, ...), and (horizon, ...) of the rest."""
        config, policy = self.config, self.policy
        std = self.log_std.exp()
        observation = imagination.start(config.rollouts, config.initial_share)
        shape = (config.horizon, *observation.shape[:-1], self._task.action_size)
        noise = torch.randn(shape, generator=imagination.generator)
        scaled = noise * std
        features, actions, observations = [policy.features(observation)], [], []
        for step in range(config.horizon):
            action = policy.unsquashed(features[-1]) + scaled[step]
            observation = imagination.advance(observation, action.clamp(-1.0, 1.0))
            actions.append(action)
            observations.append(observation)
            features.append(policy.features(observation))
        action = torch.stack(actions)
        clamped = action.clamp(-1.0, 1.0)
        rewards = (self._task.reward(torch, torch.stack(observations), clamped)
                   - config.excess_cost * (action - clamped).square().sum(-1))
        log_probability = (-0.5 * noise.square() - self.log_std).sum(-1)
        return torch.stack(features), action, log_probability, rewards

    def _improve(self, features: torch.Tensor, actions: torch.Tensor,
                 log_probability: torch.Tensor, advantages: torch.Tensor,
                 returns: torch.Tensor) -> None:
        """Take one gradient step on a minibatch."""
        config = self.config
        deviation = (actions - self.policy.unsquashed(features)) * (-self.log_std).exp()
        now = (-0.5 * deviation.square() - self.log_std).sum(-1, keepdim=True)
        ratio = (now - log_probability).exp()
        clipped = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
        policy_loss = (-torch.min(ratio * advantages, clipped * advantages).mean()
                       - config.entropy_weight * self.log_std.sum())
        value_loss = nn.functional.mse_loss(self.value(features), returns.squeeze(-1))
        # The two losses share no parameters: one backward pass serves both.
        policy, value = self._policy_optimizer.parameters, self._value_optimizer.parameters
        gradients = torch.autograd.grad(policy_loss + value_loss, [*policy, *value])
        clip_norm(gradients[:len(policy) - 1], config.gradient_norm)
        self._policy_optimizer.step(gradients[:len(policy)])
        self._value_optimizer.step(gradients[len(policy):])
        with torch.no_grad():
            self.log_std.clamp_(config.least_log_std, 0.0)
        self._value_loss = float(value_loss.detach())
