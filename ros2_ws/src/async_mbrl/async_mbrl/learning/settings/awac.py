"""Settings of AWAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig
from async_mbrl.learning.settings.actor_critic import ActorCriticConfig
from async_mbrl.learning.settings.curiosity import CuriosityConfig


@dataclass(frozen=True)
class AwacConfig(ActorCriticConfig, CuriosityConfig):
    """Advantage-weighted actor-critic on offline data, on the transitions of the robot, or both."""

    NEEDS_MODEL: ClassVar[bool] = False

    batch: int = param('transitions of an update', 1024, minimum=1, maximum=65_536)
    offline_share: float = param('share of a batch that comes from offline data, if there are any; '
                                 'negative: as many as their share of all transitions', -1.0,
                                 minimum=-1.0, maximum=1.0)
    weighting: str = param('weights of the actions in the data: softmax of advantage / temperature '
                           'over the batch; exponential: exp(advantage / temperature), at most '
                           'greatest_weight', 'softmax', choices=('softmax', 'exponential'))
    temperature: float = param('of the weights: the smaller, the fewer actions are followed', 1.0,
                               minimum=1e-6)
    greatest_weight: float = param('of exponential weights', 100.0, minimum=1e-6)
    state_value: str = param('what the value of a state is taken from: sample, the mean of the '
                             'values of actions that the policy draws; mean, the value of its mean '
                             'action', 'sample', choices=('sample', 'mean'))
    value_samples: int = param('actions drawn for the value of a state, if by sample', 1,
                               minimum=1, maximum=100)
    policy_weight_decay: float = param('of AdamW', 1e-4, minimum=0.0)
    critic_hidden: tuple[int, ...] = param('units of each hidden layer of a critic', (256, 256),
                                           minimum=1, maximum=4096)
    critic_activation: str = param('between layers of a critic', 'relu',
                                   choices=('tanh', 'silu', 'relu'))
    initial_log_std: float = param('of the actions, normalised action', -0.5,
                                   minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    least_log_std: float = param('floor of it while it is learned', LOG_STD_RANGE[0],
                                 minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])
    greatest_log_std: float = param('ceiling of it while it is learned', 0.0,
                                    minimum=LOG_STD_RANGE[0], maximum=LOG_STD_RANGE[1])

    def __post_init__(self) -> None:
        if not self.least_log_std <= self.initial_log_std <= self.greatest_log_std:
            raise ConfigError(f'initial_log_std: {self.initial_log_std} is not between '
                              f'least_log_std {self.least_log_std} and greatest_log_std '
                              f'{self.greatest_log_std}')
        if self.state_value == 'mean' and self.value_samples != 1:
            raise ConfigError(f'value_samples: {self.value_samples}, but state_value is '
                              "'mean': there is only one mean action")

        if self.offline_share == 1.0 and (self.sampling.kind == 'recent'
                                          or self.sampling.human_share):
            raise ConfigError("sampling: with offline_share 1 nothing is drawn from the robot's "
                              "transitions; give a smaller share, or sampling.kind 'uniform' "
                              'without a human_share')

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Refuse all but a clipped Gaussian with one standard deviation for all states."""
        if network.distribution != 'state_independent' or network.squash == 'tanh':
            raise ConfigError(
                'network.distribution: awac improves a Gaussian whose actions are clipped; '
                "expected 'state_independent' and network.squash 'tanh_mean' or 'clip', got "
                f'{network.distribution!r} and {network.squash!r}')
