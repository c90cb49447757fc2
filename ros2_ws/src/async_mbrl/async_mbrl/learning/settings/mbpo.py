"""Settings of MBPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.learning.settings.disagreement import DisagreementConfig
from async_mbrl.learning.settings.sac import SoftActorCriticConfig


@dataclass(frozen=True)
class MbpoConfig(SoftActorCriticConfig, DisagreementConfig):
    """Soft actor-critic, mostly on short rollouts imagined from states of the robot."""

    NAME: ClassVar[str] = 'mbpo'
    NEEDS_MODEL: ClassVar[bool] = True

    real_share: float = param('share of a batch that comes from the robot, and from offline '
                              'data, if there are any; the rest is imagined', 0.05,
                              minimum=0.0, maximum=1.0)
    rollouts: int = param('rollouts that are imagined at a time, shared evenly by the members', 400,
                          minimum=1, maximum=100_000)
    rollout_interval: int = param('updates after which rollouts are imagined again', 20, minimum=1)
    first_length: int = param('steps of an imagined rollout at first', 1, minimum=1, maximum=1000)
    last_length: int = param('steps of an imagined rollout at last', 1, minimum=1, maximum=1000)
    length_grows_from: int = param('transitions at which they begin to grow longer', 500,
                                   minimum=0)
    length_grows_to: int = param('transitions at which they have grown to their last length', 5000,
                                 minimum=1)
    imagined_capacity: int = param('imagined transitions kept, the newest', 20_000, minimum=1,
                                   maximum=10_000_000)

    def __post_init__(self) -> None:
        if self.last_length < self.first_length:
            raise ConfigError(f'last_length: {self.last_length} is less than first_length '
                              f'{self.first_length}; rollouts only grow')
        if self.length_grows_to <= self.length_grows_from:
            raise ConfigError(f'length_grows_to: {self.length_grows_to} is not after '
                              f'length_grows_from {self.length_grows_from}')

        if not round(self.real_share * self.batch) and (self.sampling.kind != 'uniform'
                                                        or self.sampling.human_share):
            raise ConfigError(f'sampling.kind: {self.sampling.kind!r}, but real_share '
                              f'{self.real_share} of a batch of {self.batch} is no transition of '
                              "the robot; give a greater share, or 'uniform' without a human_share")

    def length(self, transitions: int) -> int:
        """Give the steps of a rollout after a number of transitions; linear between two of them."""
        share = (transitions - self.length_grows_from) / (
            self.length_grows_to - self.length_grows_from)
        grown = int(max(0.0, min(1.0, share)) * (self.last_length - self.first_length))
        return self.first_length + grown
