"""Settings of the algorithms that estimate policy gradients from imagined rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.settings.disagreement import DisagreementConfig


@dataclass(frozen=True)
class ImaginedConfig(DisagreementConfig):
    """Imagined rollouts of a Gaussian policy, and their advantages."""

    NAME: ClassVar[str]

    rollouts: int = param('imagined rollouts of an update, shared evenly by the members', 100,
                          minimum=1, maximum=100_000)
    horizon: int = param('steps of an imagined rollout', 30, minimum=1, maximum=10_000)
    initial_share: float = param('share of rollouts that start where real episodes started; the '
                                 'rest starts anywhere in the data', 0.5, minimum=0.0, maximum=1.0)
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    trace: float = param('lambda of the generalised advantage', 0.95, minimum=0.0, maximum=1.0)
    initial_log_std: float = param('of the imagined actions, normalised action', -0.7,
                                   minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    least_log_std: float = param('floor of it while it is learned', -3.5,
                                 minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    greatest_log_std: float = param('ceiling of it while it is learned', 0.0,
                                    minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    excess_cost: float = param('cost of the squared part of an action beyond [-1, 1]', 0.01,
                               minimum=0.0)

    def __post_init__(self) -> None:
        if not self.least_log_std <= self.initial_log_std <= self.greatest_log_std:
            raise ConfigError(
                f'initial_log_std: {self.initial_log_std} is not between least_log_std '
                f'{self.least_log_std} and greatest_log_std {self.greatest_log_std}')

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Refuse what imagined actions are not drawn from: they are clipped, with one spread."""
        if network.squash != 'clip':
            raise ConfigError(f'network.squash: {self.NAME} improves a policy whose output is '
                              f"clipped; expected 'clip', got {network.squash!r}")
        if network.distribution == 'state_dependent':
            raise ConfigError(
                f'network.distribution: {self.NAME} learns one standard deviation for all states; '
                f"expected 'given' or 'state_independent', got {network.distribution!r}")


@dataclass(frozen=True)
class BaselineConfig(ImaginedConfig):
    """The same for one policy in all members, with a choice of what returns are held against."""

    mix_members: bool = param('shuffle the rollouts over the members at each step instead of '
                              'leaving each in one member from start to end', False)
    baseline: str = param('what returns are held against; network: a value network; linear: a '
                          'regression on the imagined rollouts themselves', 'network',
                          choices=('network', 'linear'))
    value_learning_rate: float = param('of Adam', 1e-3, minimum=0.0)
    value_hidden: tuple[int, ...] = param('units of each hidden layer of the value network',
                                          (64, 64), minimum=1, maximum=4096)
    value_activation: str = param('between layers of the value network', 'silu',
                                  choices=('tanh', 'silu', 'relu'))
