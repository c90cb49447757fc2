"""AWAC: an actor-critic that follows the better actions of the data, offline and then online.

Nair et al. 2020, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets"; details
after the authors' code (rlkit, ``awac_trainer.py``). One update: a batch of transitions, a gradient
step on the critics and one on the policy. Nothing in it depends on who has collected the data, so
that the same update learns from offline data alone and, later, from those of the robot as well.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.curiosity import make_curiosity
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.from_experience import FromExperience
from async_mbrl.learning.gaussian import log_density
from async_mbrl.learning.policy import HALF_LOG_TWO_PI, Policy
from async_mbrl.learning.product import choose_numbers
from async_mbrl.learning.sampling import make_sampling
from async_mbrl.learning.settings import AwacConfig
from async_mbrl.learning.soft_actor_critic import CRITICS, Critics


class Awac(FromExperience, nn.Module):
    """Policy, critics and how one update changes them."""

    def __init__(self, config: AwacConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimisers."""
        super().__init__()
        self.config = config
        sizes = (task.feature_size + task.action_size, *config.critic_hidden, 1)
        numbers = choose_numbers(config.numbers, CRITICS, sizes, config.critic_activation,
                                 config.batch, generator.device)
        self.policy = Policy(network, task, generator, config.initial_log_std, numbers)
        self.critics = Critics(sizes, config.critic_activation, generator, product='members',
                               numbers=numbers)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self._critic_optimizer = Adam(self.critics.parameters(), config.critic_learning_rate)
        self._policy_optimizer = Adam(self.policy.parameters(), config.policy_learning_rate,
                                      config.policy_weight_decay)
        self.curiosity = make_curiosity(config, task, generator)
        self.sampling = make_sampling(config.sampling)
        self._scalars: dict[str, float] = {}

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published: the same one."""
        return self.policy

    @property
    def samples_of_update(self) -> int:
        """Rows of the data that an update looks at."""
        return self.config.batch

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return {'critic_hidden': list(self.config.critic_hidden),
                'curious': self.curiosity is not None}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return self.with_curiosity({'critics': self._critic_optimizer,
                                    'policy': self._policy_optimizer})

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update.

        ``effective_share``: effective sample size of the weights (Kish 1965) as a share of the
        batch. ``clipped_share``: share of the weights that are the greatest one allowed.
        ``log_likelihood``: log density of the actions in the data, their mean, nat.
        """
        return {**self._scalars, **self.scalars_around()}

    def update(self, experience: Experience) -> None:
        """Improve policy and critics once."""
        self.learn_from(experience, self.config.batch, self.config.offline_share, self.policy,
                        self.improve)

    def improve(self, samples: Samples, generator: torch.Generator,
                importance: torch.Tensor | None = None) -> torch.Tensor:
        """Take one gradient step on each.

        Args:
            samples: transitions (rows, ...).
            generator: draws actions.
            importance: weights (rows,) in the loss of the critics; None: all are 1.

        Returns:
            Errors (2, rows) of both critics before the step.
        """
        features = self.policy.features(samples.observation)
        noise = torch.randn(1 + self.config.value_samples, *samples.action.shape,
                            generator=generator, device=generator.device)
        targets = self.value_targets(samples, noise[0])
        values = self.critics(features, samples.action)
        squared = (values - targets).square()
        critic_loss = (squared if importance is None else importance * squared).mean(1).sum()

        mean, log_std = self.policy.distribution(features)
        advantage = values.detach().amin(0) - self.state_values(
            features, mean.detach(), log_std.detach(), noise[1:])
        weights, clipped = self.weights(advantage)
        likelihood = log_likelihood(samples.action, mean, log_std)
        policy_loss = -(weights * likelihood).sum()

        # Both gradients are of the critics as they were, so that one forward pass of them serves
        # the loss and the advantage.
        self._critic_optimizer.step(
            torch.autograd.grad(critic_loss, self._critic_optimizer.parameters))
        self._policy_optimizer.step(
            torch.autograd.grad(policy_loss, self._policy_optimizer.parameters))
        with torch.no_grad():
            self.policy.log_std.clamp_(self.config.least_log_std, self.config.greatest_log_std)
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()),
                                 self.config.target_rate)
        self._scalars = {
            'critic_loss': float(critic_loss.detach()), 'value': float(targets.mean()),
            'advantage_mean': float(advantage.mean()),
            'advantage_std': float(advantage.std(correction=0)),
            'effective_share': effective_share(weights), 'clipped_share': clipped,
            'log_likelihood': float(likelihood.detach().mean()),
            'action_std': float(self.policy.log_std.detach().exp().mean())}
        return values.detach() - targets

    @torch.no_grad()
    def value_targets(self, samples: Samples, noise: torch.Tensor) -> torch.Tensor:
        """Give r + discount min Q(s', a'), (rows,), with a' by the policy; there is no entropy.

        Nothing follows where the task has ended by itself; an episode that was only cut short would
        have gone on. ``noise`` (rows, action_size), standard normal, draws the actions a'.
        """
        features = self.policy.features(samples.next_observation)
        action, _ = self.policy.sample(features, noise)
        value = self.targets(features, action).amin(0)
        return samples.reward + self.config.discount * (1.0 - samples.terminated) * value

    @torch.no_grad()
    def state_values(self, features: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor,
                     noise: torch.Tensor) -> torch.Tensor:
        """Give the values V(s) = E min Q(s, a) of states (rows,) under the policy.

        Args:
            features: (rows, feature_size).
            mean: of the policy in these states, (rows, action_size).
            log_std: of the policy, (action_size,).
            noise: (samples, rows, action_size), standard normal, draws the actions a.
        """
        if self.config.state_value == 'mean':
            return self.critics(features, mean.clamp(-1.0, 1.0)).amin(0)
        action = (mean + log_std.exp() * noise).clamp(-1.0, 1.0)
        count, rows = noise.shape[:2]
        values = self.critics(features.repeat(count, 1), action.flatten(0, 1)).amin(0)
        return values.view(count, rows).mean(0)

    def weights(self, advantage: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Give the weights of the actions, and the share of them that is clipped.

        Args:
            advantage: Q(s, a) - V(s) of the data, (rows,).

        Returns:
            Weights (rows,): exp(advantage / temperature), of a sum 1 by softmax, else the mean of
            what is clipped; and the share.
        """
        scores = advantage / self.config.temperature
        if self.config.weighting == 'softmax':
            return torch.softmax(scores, 0), 0.0
        greatest = math.log(self.config.greatest_weight)
        # Clipped before the exponential: it cannot overflow.
        return (scores.clamp(max=greatest).exp() / len(scores),
                float((scores > greatest).float().mean()))


def log_likelihood(action: torch.Tensor, mean: torch.Tensor,
                   log_std: torch.Tensor) -> torch.Tensor:
    """Give ln pi(a | s), (rows,), nat, of actions (rows, action_size) before clipping.

    An action of the data at -1 or 1 is taken as it stands, as the authors do.
    """
    return log_density(action, mean, log_std) - action.shape[-1] * HALF_LOG_TWO_PI


def effective_share(weights: torch.Tensor) -> float:
    """Give the effective sample size (sum w)^2 / sum w^2 as a share of the weights (rows,).

    It is 1 where all are equal, and 1 / rows where one has all (Kish 1965).
    """
    return float(weights.sum().square() / weights.square().sum() / len(weights))
