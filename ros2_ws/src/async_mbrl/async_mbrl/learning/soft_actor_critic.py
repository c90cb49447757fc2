"""The soft actor-critic: what SAC and MBPO do with a batch of transitions, wherever it is from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.ensemble import Ensemble
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.product import choose_numbers
from async_mbrl.learning.settings.sac import SoftActorCriticConfig

CRITICS = 2


class Critics(Ensemble):
    """Two estimates of the value of an action in a state; they begin as layers of torch do."""

    def __init__(self, sizes: Sequence[int], activation: str, generator: torch.Generator, *,
                 product: str = 'batched', numbers: torch.dtype = torch.float32) -> None:
        """Draw the weights; arguments are those of :class:`Ensemble`."""
        super().__init__(CRITICS, sizes, activation, generator, initial='uniform',
                         product=product, numbers=numbers)

    def forward(self, features: torch.Tensor, action: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Give values (2, rows) of actions (rows, action_size) and features (rows, ...)."""
        inputs = torch.cat([features, action], -1)
        return super().forward(inputs.expand(CRITICS, *inputs.shape)).squeeze(-1)


class SoftActorCritic(nn.Module):
    """Policy, critics, temperature, and how a batch changes them (Haarnoja et al. 2018).

    The equations are those of "Soft Actor-Critic Algorithms and Applications", which learns the
    temperature too. Critics may be learned more often than policy and temperature, as in Chen et
    al. 2021 (REDQ): where many updates are made of few transitions it is the critics that gain.
    """

    critic_updates: torch.Tensor
    """Updates of the critics so far, (), on the host."""

    def __init__(self, config: SoftActorCriticConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimisers."""
        super().__init__()
        self.config = config
        sizes = (task.feature_size + task.action_size, *config.critic_hidden, 1)
        numbers = choose_numbers(config.numbers, CRITICS, sizes, config.critic_activation,
                                 config.batch, generator.device)
        self.policy = Policy(network, task, generator, config.initial_log_std, numbers)
        self.critics = Critics(sizes, config.critic_activation, generator, numbers=numbers)
        self.register_buffer('critic_updates',
                             torch.zeros((), dtype=torch.long, device='cpu'))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(config.initial_temperature).log())
        self._target_entropy = config.target_entropy * task.action_size
        self._critic_optimizer = Adam(self.critics.parameters(), config.critic_learning_rate)
        self._policy_optimizer = Adam(self.policy.parameters(), config.policy_learning_rate)
        self._temperature_optimizer = Adam([self.log_temperature],
                                           config.temperature_learning_rate)
        self.scalars: dict[str, float] = {}
        """Of the newest batch that each was computed for."""

    @property
    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name."""
        return {'critics': self._critic_optimizer, 'policy': self._policy_optimizer,
                'temperature': self._temperature_optimizer}

    def improve(self, samples: Samples, generator: torch.Generator,
                weights: torch.Tensor | None = None) -> torch.Tensor:
        """Take a gradient step on the critics, and where it is due on policy and temperature.

        Args:
            samples: transitions (rows, ...).
            generator: draws actions.
            weights: of the transitions in the loss of the critics, (rows,); None: all are 1.

        Returns:
            Errors (2, rows) of both critics before the step.
        """
        features = self.policy.features(samples.observation)
        noise = torch.randn(2, *samples.action.shape, generator=generator,
                            device=generator.device)
        targets = self.value_targets(samples, noise[0])
        values = self.critics(features, samples.action)
        loss = self.critic_loss(values, targets, weights)
        self._critic_optimizer.step(torch.autograd.grad(loss, self._critic_optimizer.parameters))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()),
                                 self.config.target_rate)
        self.scalars.update(critic_loss=float(loss.detach()), value=float(targets.mean()))
        if int(self.critic_updates) % self.config.policy_interval == 0:
            self._improve_policy(features, noise[1])
        self.critic_updates += 1
        return values.detach() - targets

    def _improve_policy(self, features: torch.Tensor, noise: torch.Tensor) -> None:
        action, log_density = self.policy.sample(features, noise)
        policy_loss = self.policy_loss(features, action, log_density)
        self._policy_optimizer.step(
            torch.autograd.grad(policy_loss, self._policy_optimizer.parameters))
        temperature_loss = self.temperature_loss(log_density.detach())
        self._temperature_optimizer.step(
            torch.autograd.grad(temperature_loss, [self.log_temperature]))
        self.scalars.update(entropy=-float(log_density.detach().mean()),
                            temperature=float(self.log_temperature.detach().exp()))

    @torch.no_grad()
    def value_targets(self, samples: Samples, noise: torch.Tensor) -> torch.Tensor:
        """Give r + discount (min Q(s', a') - temperature ln pi(a' | s')), (rows,); equation 5.

        Nothing follows where the task has ended by itself; an episode that was only cut short would
        have gone on. ``noise`` (rows, action_size), standard normal, draws the actions a'.
        """
        features = self.policy.features(samples.next_observation)
        action, log_density = self.policy.sample(features, noise)
        value = (self.targets(features, action).amin(0)
                 - self.log_temperature.exp() * log_density)
        return samples.reward + self.config.discount * (1.0 - samples.terminated) * value

    @staticmethod
    def critic_loss(values: torch.Tensor, targets: torch.Tensor,
                    weights: torch.Tensor | None = None) -> torch.Tensor:
        """Give half the squared error of both critics, each averaged over the rows; equation 5.

        Args:
            values: of the critics, (2, rows).
            targets: (rows,).
            weights: of the rows, (rows,); None: all are 1.
        """
        squared = (values - targets).square()
        return 0.5 * (squared if weights is None else weights * squared).mean(1).sum()

    def policy_loss(self, features: torch.Tensor, action: torch.Tensor,
                    log_density: torch.Tensor) -> torch.Tensor:
        """Give temperature ln pi(a | s) - min Q(s, a), averaged over the rows; equation 9."""
        temperature = self.log_temperature.detach().exp()
        return (temperature * log_density - self.critics(features, action).amin(0)).mean()

    def temperature_loss(self, log_density: torch.Tensor) -> torch.Tensor:
        """Give -temperature (ln pi(a | s) + target entropy), over the rows; equation 18."""
        return -self.log_temperature.exp() * (log_density + self._target_entropy).mean()
