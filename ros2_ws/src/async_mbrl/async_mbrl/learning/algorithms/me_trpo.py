"""ME-TRPO: trust region policy optimisation on rollouts imagined by a model ensemble.

Kurutach et al. 2018, asynchronously as in Zhang et al. 2019. One update: imagine a batch of
rollouts with the current policy, form generalised advantages, take one step along the natural
gradient that is bounded in its divergence from the current policy (Schulman et al. 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning import trust_region
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.baseline import advantages_and_returns
from async_mbrl.learning.gaussian import GaussianPolicy, divergence, log_density
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.rollouts import imagine
from async_mbrl.learning.settings import MeTrpoConfig
from async_mbrl.learning.value import make_value, value_identity
from async_mbrl.learning.workload import FORWARD_AND_BACKWARD, Workload, multiplications


class MeTrpo(nn.Module):
    """Policy, baseline and how one update changes them."""

    def __init__(self, config: MeTrpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build the networks, and the optimiser of the value network if there is one."""
        super().__init__()
        self.config = config
        self._task = task
        self.policy = GaussianPolicy(network, task, generator, config)
        self.value = make_value(config, task, generator)
        self._value_optimizer = Adam([] if self.value is None else self.value.parameters(),
                                     config.value_learning_rate)
        self._return = self._bonus = 0.0
        self._value_loss = 0.0
        self._step = trust_region.REJECTED

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
        return {} if self.value is None else {'value': self._value_optimizer}

    def update(self, imagination: Imagination) -> Iterator[None]:
        """Improve the policy once, yielding now and then."""
        config, work = self.config, Workload()
        rollouts = yield from imagine(
            imagination, self._task, config, config.rollouts, self.policy, self.policy.unsquashed,
            self.policy.log_std, work, mix_members=config.mix_members)
        self._return, self._bonus = rollouts.imagined_return, rollouts.mean_bonus
        advantages, returns = (value.flatten() for value in advantages_and_returns(
            rollouts, self.value, config))
        features = rollouts.features[:-1].flatten(0, -2)
        actions, then = rollouts.actions.flatten(0, -2), rollouts.log_density.flatten()
        with torch.no_grad():
            mean, log_std = self.policy.unsquashed(features), self.policy.log_std.clone()

        def evaluate() -> tuple[torch.Tensor, torch.Tensor]:
            new_mean = self.policy.unsquashed(features)
            ratio = (log_density(actions, new_mean, self.policy.log_std) - then).exp()
            return (-(ratio * advantages).mean(),
                    divergence(mean, log_std, new_mean, self.policy.log_std).mean())

        stride = config.trust_region.curvature_stride
        some = rollouts.features[:-1:stride].flatten(0, -2)
        mean_of_some = mean.view(config.horizon, -1, mean.shape[-1])[::stride].flatten(0, 1)

        def curvature_of() -> torch.Tensor:
            return divergence(mean_of_some, log_std, self.policy.unsquashed(some),
                              self.policy.log_std).mean()

        cost = FORWARD_AND_BACKWARD * len(features) * multiplications(self.policy)
        self._step = yield from trust_region.improve(
            self.policy.learned(), evaluate, config.trust_region, self.policy.bound,
            partial(work.add, cost), curvature_of if stride > 1 else None)
        if self.value is not None:
            yield from self._fit(self.value, features, returns, imagination.generators.noise, work)

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imagined_return': self._return, 'exploration_bonus': self._bonus,
                'value_loss': self._value_loss,
                'action_std': float(self.policy.log_std.detach().exp().mean()),
                'step_share': self._step.share, 'step_divergence': self._step.divergence}

    def _fit(self, value: nn.Module, features: torch.Tensor, returns: torch.Tensor,
             generator: torch.Generator, work: Workload) -> Iterator[None]:
        """Make a few passes over the steps with the value network."""
        config = self.config
        minibatch = max(1, len(features) // config.value_minibatches)
        for _ in range(config.value_epochs):
            order = torch.randperm(len(features), generator=generator,
                                   device=generator.device)
            for chosen in order.split(minibatch)[:config.value_minibatches]:
                loss = nn.functional.mse_loss(value(features[chosen]), returns[chosen])
                self._value_optimizer.step(torch.autograd.grad(
                    loss, self._value_optimizer.parameters))
                self._value_loss = float(loss.detach())
                yield from work.add(FORWARD_AND_BACKWARD * minibatch * multiplications(value))
