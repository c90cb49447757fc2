"""Settings of PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.config import ExplorationConfig
from async_mbrl.learning.settings.base import ImprovementConfig


@dataclass(frozen=True)
class PpoConfig(ImprovementConfig):
    """Proximal policy optimisation on the newest episodes of the robot alone."""

    NEEDS_MODEL: ClassVar[bool] = False

    iteration_transitions: int = param('transitions, in whole episodes by the newest policy, that '
                                       'an update is made of', 500, minimum=2, maximum=10_000_000)
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    trace: float = param('lambda of the generalised advantage', 0.975, minimum=0.0, maximum=1.0)
    clip: float = param('greatest change of the probability ratio', 0.2, minimum=0.0)
    epochs: int = param('passes over the transitions', 5, minimum=1)
    minibatches: int = param('gradient steps of a pass', 8, minimum=1)
    policy_learning_rate: float = param('of Adam', 3e-4, minimum=0.0)
    value_learning_rate: float = param('of Adam', 1e-3, minimum=0.0)
    value_hidden: tuple[int, ...] = param('units of each hidden layer of the value network',
                                          (64, 64), minimum=1, maximum=4096)
    value_activation: str = param('between layers of the value network', 'silu',
                                  choices=('tanh', 'silu', 'relu'))
    gradient_norm: float = param('greatest norm of the gradient of the policy', 1.0, minimum=0.0)
    entropy_weight: float = param('of the entropy of the actions', 1e-3, minimum=0.0)
    initial_log_std: float = param('of the actions, normalised action', -0.5,
                                   minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    least_log_std: float = param('floor of it while it is learned', -3.0,
                                 minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])

    def __post_init__(self) -> None:
        if self.capacity < self.iteration_transitions:
            raise ConfigError(f'capacity: {self.capacity}, but an iteration needs '
                              f'{self.iteration_transitions} transitions; keep at least these')

    @property
    def on_policy_transitions(self) -> int:
        """Transitions of whole episodes by the newest policy that an update needs."""
        return self.iteration_transitions

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Refuse all but a clipped Gaussian with one standard deviation for all states."""
        if (network.distribution, network.squash) != ('state_independent', 'clip'):
            raise ConfigError(
                'network.distribution: ppo improves a clipped Gaussian; expected '
                "'state_independent' and network.squash 'clip', got "
                f'{network.distribution!r} and {network.squash!r}')

    def check_exploration(self, exploration: ExplorationConfig) -> None:
        """Refuse all noise but what the policy draws by itself, which it needs the density of."""
        for name in ('correlation', 'color', 'parameter_noise'):
            value = getattr(exploration, name)
            if value:
                raise ConfigError(f'exploration.{name}: {value}, but ppo learns from what the '
                                  'policy itself draws; leave it 0')
