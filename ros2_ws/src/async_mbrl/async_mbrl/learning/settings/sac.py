"""Settings of SAC, and of the actor-critic that MBPO shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.settings.base import ImprovementConfig


@dataclass(frozen=True)
class SoftActorCriticConfig(ImprovementConfig):
    """A stochastic policy, two critics, and a temperature that is learned."""

    NAME: ClassVar[str]

    batch: int = param('transitions of an update', 256, minimum=1, maximum=65_536)
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    policy_interval: int = param('updates of the critics for each one of policy and temperature',
                                 1, minimum=1, maximum=1000)
    numbers: str = param('that hidden layers are multiplied in: float32; bfloat16, rounded to 8 '
                         'bits, which some processors do twice as fast; auto, bfloat16 where a '
                         'short trial at the start says so. Weights, their gradients and the last '
                         'layer stay in float32', 'float32',
                         choices=('float32', 'bfloat16', 'auto'))
    policy_learning_rate: float = param('of Adam', 3e-4, minimum=0.0)
    critic_learning_rate: float = param('of Adam', 3e-4, minimum=0.0)
    critic_hidden: tuple[int, ...] = param('units of each hidden layer of a critic', (128, 128),
                                           minimum=1, maximum=4096)
    critic_activation: str = param('between layers of a critic', 'silu',
                                   choices=('tanh', 'silu', 'relu'))
    target_rate: float = param('step of the target critics towards the critics', 0.005,
                               minimum=1e-6, maximum=1.0)
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
class SacConfig(SoftActorCriticConfig):
    """Soft actor-critic on the transitions of the robot alone."""

    NAME: ClassVar[str] = 'sac'
    NEEDS_MODEL: ClassVar[bool] = False
