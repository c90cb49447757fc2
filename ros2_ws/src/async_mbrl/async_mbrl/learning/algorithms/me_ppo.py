"""ME-PPO: proximal policy optimisation on rollouts imagined by a model ensemble.

Zhang et al. 2019 with the clipped objective of Schulman et al. 2017. One update: imagine a batch of
rollouts with the current policy, form generalised advantages, make a few passes over the steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam, clip_norm
from async_mbrl.learning.baseline import advantages_and_returns
from async_mbrl.learning.gaussian import GaussianPolicy, log_density
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.proximal import clipped_loss
from async_mbrl.learning.rollouts import imagine
from async_mbrl.learning.settings import MePpoConfig
from async_mbrl.learning.value import make_value, value_identity
from async_mbrl.learning.workload import FORWARD_AND_BACKWARD, Workload, multiplications


class MePpo(nn.Module):
    """Policy, value and how one update changes them."""

    def __init__(self, config: MePpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimiser."""
        super().__init__()
        self.config = config
        self._task = task
        self.policy = GaussianPolicy(network, task, generator, config)
        self.value = make_value(config, task, generator)
        self._policy_optimizer = Adam(self.policy.learned(), config.policy_learning_rate)
        self._value_optimizer = Adam([] if self.value is None else self.value.parameters(),
                                     config.value_learning_rate)
        self._return = self._bonus = 0.0
        self._value_loss = 0.0

    @property
    def acting_policy(self) -> GaussianPolicy:
        """The policy that is published."""
        return self.policy

    @property
    def samples_of_update(self) -> int:
        """Start states of the imagined rollouts."""
        return self.config.rollouts

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return value_identity(self.config)

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        if self.value is None:
            return {'policy': self._policy_optimizer}
        return {'policy': self._policy_optimizer, 'value': self._value_optimizer}

    def update(self, imagination: Imagination) -> Iterator[None]:
        """Improve the policy once, yielding now and then."""
        config, work, generator = self.config, Workload(), imagination.generators.noise
        rollouts = yield from imagine(
            imagination, self._task, config, config.rollouts, self.policy, self.policy.unsquashed,
            self.policy.log_std, work, mix_members=config.mix_members)
        self._return, self._bonus = rollouts.imagined_return, rollouts.mean_bonus
        advantages, returns = advantages_and_returns(rollouts, self.value, config)
        steps = torch.cat([
            rollouts.features[:-1].flatten(0, -2), rollouts.actions.flatten(0, -2),
            rollouts.log_density.view(-1, 1), advantages.view(-1, 1), returns.view(-1, 1)], 1)
        sizes = (rollouts.features.shape[-1], rollouts.actions.shape[-1], 1, 1, 1)
        minibatch = max(1, len(steps) // config.minibatches)
        cost = FORWARD_AND_BACKWARD * minibatch * multiplications(self)
        for _ in range(config.epochs):
            order = torch.randperm(len(steps), generator=generator, device=generator.device)
            for chosen in order.split(minibatch)[:config.minibatches]:
                self._improve(*steps[chosen].split(sizes, 1))
                yield from work.add(cost)

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imagined_return': self._return, 'exploration_bonus': self._bonus,
                'value_loss': self._value_loss,
                'action_std': float(self.policy.log_std.detach().exp().mean())}

    def _improve(self, features: torch.Tensor, actions: torch.Tensor, then: torch.Tensor,
                 advantages: torch.Tensor, returns: torch.Tensor) -> None:
        """Take one gradient step on a minibatch."""
        config = self.config
        now = log_density(actions, self.policy.unsquashed(features), self.policy.log_std)
        loss = (clipped_loss(now[:, None], then, advantages, config.clip)
                - config.entropy_weight * self.policy.log_std.sum())
        policy, value = self._policy_optimizer.parameters, self._value_optimizer.parameters
        if self.value is not None:
            value_loss = nn.functional.mse_loss(self.value(features), returns.squeeze(-1))
            self._value_loss = float(value_loss.detach())
            # The two losses share no parameters: one backward pass serves both.
            loss = loss + value_loss
        gradients = torch.autograd.grad(loss, [*policy, *value])
        clip_norm(gradients[:len(policy) - 1], config.gradient_norm)
        self._policy_optimizer.step(gradients[:len(policy)])
        if value:
            self._value_optimizer.step(gradients[len(policy):])
        self.policy.bound()
