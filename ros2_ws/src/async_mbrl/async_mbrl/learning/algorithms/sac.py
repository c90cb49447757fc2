"""SAC: an off-policy actor-critic on the transitions of the robot, without a model.

Haarnoja et al. 2018. One update: a batch of transitions, drawn from those that are kept, and a
gradient step on critics, policy and temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.curiosity import make_curiosity
from async_mbrl.learning.experience import EVENLY, Experience
from async_mbrl.learning.from_experience import FromExperience
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.sampling import make_sampling
from async_mbrl.learning.settings import SacConfig
from async_mbrl.learning.soft_actor_critic import SoftActorCritic


class Sac(FromExperience, nn.Module):
    """Policy, critics, temperature and how one update changes them."""

    def __init__(self, config: SacConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks and optimisers."""
        super().__init__()
        self.config = config
        self.actor_critic = SoftActorCritic(config, network, task, generator)
        self.curiosity = make_curiosity(config, task, generator)
        self.sampling = make_sampling(config.sampling)

    @property
    def policy(self) -> Policy:
        """The policy that is improved."""
        return self.actor_critic.policy

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
        return self.with_curiosity(self.actor_critic.optimizers)

    def update(self, experience: Experience) -> None:
        """Improve the policy once."""
        self.learn_from(experience, self.config.batch, EVENLY, self.policy,
                        self.actor_critic.improve)

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {**self.actor_critic.scalars, **self.scalars_around()}
