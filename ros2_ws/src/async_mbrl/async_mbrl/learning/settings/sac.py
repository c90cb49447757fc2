"""Settings of SAC, and of the actor-critic that MBPO shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.settings.actor_critic import ActorCriticConfig
from async_mbrl.learning.settings.curiosity import CuriosityConfig


@dataclass(frozen=True)
class SoftActorCriticConfig(ActorCriticConfig):
    """A stochastic policy, two critics, and a temperature that is learned."""

    NAME: ClassVar[str]

    policy_interval: int = param('updates of the critics for each one of policy and temperature',
                                 1, minimum=1, maximum=1000)
    initial_temperature: float = param('weight of the entropy at first', 0.1, minimum=1e-6)
    temperature_learning_rate: float = param('of Adam, for the logarithm of the temperature', 3e-4,
                                             minimum=0.0)
    target_entropy: float = param('entropy that the temperature is learned for, of one component '
                                  'of the action, nat', -1.0)
    initial_log_std: float = param('of the actions at first, before they are squashed', 0.0,
                                   minimum=LOG_STD_RANGE[0] + 0.01,
                                   maximum=LOG_STD_RANGE[1] - 0.01)

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Refuse what is not a squashed Gaussian with a standard deviation for each state."""
        if (network.distribution, network.squash) != ('state_dependent', 'tanh'):
            raise ConfigError(
                f'network.distribution: {self.NAME} improves a squashed Gaussian; expected '
                "'state_dependent' and network.squash 'tanh', got "
                f'{network.distribution!r} and {network.squash!r}')


@dataclass(frozen=True)
class SacConfig(SoftActorCriticConfig, CuriosityConfig):
    """Soft actor-critic on the transitions of the robot alone."""

    NAME: ClassVar[str] = 'sac'
    NEEDS_MODEL: ClassVar[bool] = False
