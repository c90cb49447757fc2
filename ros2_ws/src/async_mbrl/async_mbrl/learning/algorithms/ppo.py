"""PPO: proximal policy optimisation on the newest episodes of the robot, without a model.

Schulman et al. 2017, the model-free baseline of Zhang et al. 2019. An update waits until enough
whole episodes by the newest policy have come, makes a few passes over these, and never looks at
them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam, clip_norm
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.gaussian import clipped_log_density
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.proximal import clipped_loss
from async_mbrl.learning.settings import PpoConfig
from async_mbrl.learning.value import ValueNetwork, advantages_of_episodes
from async_mbrl.learning.workload import FORWARD_AND_BACKWARD, Workload, multiplications


class Ppo(nn.Module):
    """Policy, value and how one update changes them."""

    def __init__(self, config: PpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimisers."""
        super().__init__()
        self.config = config
        self.policy = Policy(network, task, generator, config.initial_log_std)
        self._acting = Policy(network, task, generator).requires_grad_(False)
        self._acting.load_state_dict(self.policy.state_dict())
        self.value = ValueNetwork((task.feature_size, *config.value_hidden, 1),
                                  config.value_activation, generator)
        self._policy_optimizer = Adam(self.policy.parameters(), config.policy_learning_rate)
        self._value_optimizer = Adam(self.value.parameters(), config.value_learning_rate)
        self._reward = 0.0
        self._value_loss = 0.0
        self._log_ratio = 0.0
        self._taken_over = 0

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published: that of the last whole update."""
        return self._acting

    @property
    def samples_of_update(self) -> int:
        """Rows of the data that an update looks at, at least."""
        return self.config.iteration_transitions * self.config.epochs

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return {'value_hidden': list(self.config.value_hidden)}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return {'policy': self._policy_optimizer, 'value': self._value_optimizer}

    def update(self, experience: Experience) -> Iterator[None]:
        """Improve the policy once, yielding now and then."""
        config, work, generator = self.config, Workload(), experience.generators.noise
        rows = experience.on_policy_rows()
        self._taken_over += experience.left_out
        samples, actions = experience.buffer.samples(rows), experience.buffer.requested(rows)
        ended = experience.buffer.ended(rows).to(actions.device)
        steps = self._judged(samples, actions, ended)
        sizes = [part.shape[1] for part in steps]
        table = torch.cat(steps, 1)
        minibatch = max(1, -(-len(table) // config.minibatches))
        cost = FORWARD_AND_BACKWARD * minibatch * multiplications(self)
        for _ in range(config.epochs):
            order = torch.randperm(len(table), generator=generator, device=generator.device)
            for chosen in order.split(minibatch):
                self._improve(*table[chosen].split(sizes, 1))
                yield from work.add(cost)
        self._acting.load_state_dict(self.policy.state_dict())
        self._reward = float(samples.reward.mean())

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update.

        ``taken_over``: transitions so far of episodes left out because a person took them over.
        """
        return {'reward': self._reward, 'value_loss': self._value_loss,
                'log_ratio': self._log_ratio, 'taken_over': float(self._taken_over),
                'action_std': float(self.policy.log_std.detach().exp().mean())}

    @torch.no_grad()
    def _judged(self, samples: Samples, actions: torch.Tensor,
                ended: torch.Tensor) -> list[torch.Tensor]:
        """Give features, actions, log densities, advantages and returns, (rows, ...) each."""
        features = self.policy.features(samples.observation)
        # As the policy is now: the density that the controller reports is that before clipping.
        log_density = clipped_log_density(actions, *self.policy.distribution(features))
        values = self.value(features)
        advantages = advantages_of_episodes(
            samples, ended, values, self.value(self.policy.features(samples.next_observation)),
            self.config.discount, self.config.trace)
        returns = values + advantages
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
        return [features, actions, log_density[:, None], advantages[:, None], returns[:, None]]

    def _improve(self, features: torch.Tensor, actions: torch.Tensor, then: torch.Tensor,
                 advantages: torch.Tensor, returns: torch.Tensor) -> None:
        """Take one gradient step on a minibatch; ``then`` are the log densities (rows, 1)."""
        config = self.config
        mean, log_std = self.policy.distribution(features)
        now = clipped_log_density(actions, mean, log_std)[:, None]
        loss = (clipped_loss(now, then, advantages, config.clip)
                - config.entropy_weight * log_std.sum())
        value_loss = nn.functional.mse_loss(self.value(features), returns.squeeze(-1))
        # The two losses share no parameters: one backward pass serves both.
        policy, value = self._policy_optimizer.parameters, self._value_optimizer.parameters
        gradients = torch.autograd.grad(loss + value_loss, [*policy, *value])
        clip_norm(gradients[:len(policy)], config.gradient_norm)
        self._policy_optimizer.step(gradients[:len(policy)])
        self._value_optimizer.step(gradients[len(policy):])
        with torch.no_grad():
            self.policy.log_std.clamp_(min=config.least_log_std, max=0.0)
        self._value_loss = float(value_loss.detach())
        self._log_ratio = float((now.detach() - then).abs().mean())
