"""MBPO: a soft actor-critic on short rollouts that branch off from states of the robot.

Janner et al. 2019. One update is one of the actor-critic, on a batch that is mostly imagined; now
and then, before an update, rollouts are imagined by the newest model and the newest policy. How
often the model is learned anew is not counted in transitions as in the paper: it is learned at the
same time, and the newest one is taken.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import Samples, together
from async_mbrl.learning.experience import EVENLY, Experience
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.imagined_buffer import ImaginedBuffer
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.sampling import make_sampling
from async_mbrl.learning.settings import MbpoConfig
from async_mbrl.learning.soft_actor_critic import SoftActorCritic


class Mbpo(nn.Module):
    """An actor-critic, what was imagined for it, and how one update changes both."""

    since_rollouts: torch.Tensor
    """Updates since rollouts were imagined, (), on the host."""

    def __init__(self, config: MbpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build networks, optimisers and an empty buffer of imagined transitions."""
        super().__init__()
        self.config = config
        self._task = task
        self.actor_critic = SoftActorCritic(config, network, task, generator)
        self.sampling = make_sampling(config.sampling)
        self.imagined = ImaginedBuffer(config.imagined_capacity, task)
        self.register_buffer('since_rollouts',
                             torch.zeros((), dtype=torch.long, device='cpu'))
        self._reward = self._bonus = 0.0

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
        """Rows of the data that an update looks at: those drawn, and its part of the branches."""
        config = self.config
        return (round(config.real_share * config.batch)
                + -(-config.rollouts // config.rollout_interval))

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return {'critic_hidden': list(self.config.critic_hidden),
                'imagined_capacity': self.config.imagined_capacity}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return self.actor_critic.optimizers

    def update(self, imagination: Imagination) -> None:
        """Improve the policy once."""
        config, generators = self.config, imagination.generators
        if not len(self.imagined) or int(self.since_rollouts) >= config.rollout_interval:
            self._branch(imagination)
            self.since_rollouts.zero_()
        self.since_rollouts += 1
        real = round(config.real_share * config.batch)
        experience = Experience(imagination.pool.buffer, generators, imagination.pool.offline)
        drawn = self.sampling.draw(experience, real, EVENLY)
        batch = together(self._with_bonus(imagination, drawn.samples),
                         self.imagined.draw(config.batch - real, generators.noise))
        weights = drawn.weights
        if weights is not None:
            weights = torch.cat([weights, weights.new_ones(config.batch - real)])
        errors = self.actor_critic.improve(batch, generators.noise, weights)
        self.sampling.learned(drawn, errors[:, :real])

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {**self.actor_critic.scalars, **self.sampling.metrics(),
                'imagined_reward': self._reward, 'exploration_bonus': self._bonus}

    @torch.no_grad()
    def _branch(self, imagination: Imagination) -> None:
        """Imagine rollouts from anywhere in the data and keep their transitions."""
        config, generator = self.config, imagination.generators.noise
        observation = imagination.start(config.rollouts, initial_share=0.0)
        alive = torch.ones(observation.shape[:-1], dtype=torch.bool, device=observation.device)
        rewards, bonuses = [], []
        for _ in range(config.length(imagination.pool.received)):
            noise = torch.randn(*observation.shape[:-1], self._task.action_size,
                                generator=generator, device=generator.device)
            action, _ = self.policy.sample(self.policy.features(observation), noise)
            following = imagination.advance(observation, action, mix_members=True)
            reward = self._task.reward(torch, following, action)
            ended = torch.from_numpy(self._task.terminated(following.cpu().numpy())).to(
                following.device)
            step = Samples(observation[alive], action[alive], following[alive], reward[alive],
                           ended[alive].float())
            rewards.append(step.reward)
            step = self._with_bonus(imagination, step)
            self.imagined.append(step)
            bonuses.append(step.reward - rewards[-1])
            alive &= ~ended
            observation = following
        self._reward = float(torch.cat(rewards).mean())
        self._bonus = float(torch.cat(bonuses).mean())

    @torch.no_grad()
    def _with_bonus(self, imagination: Imagination, samples: Samples) -> Samples:
        """Give the transitions with the bonus for disagreement among their rewards.

        What is kept has that of when it was imagined; the model has learned since.
        """
        weight = self.config.disagreement_weight
        if not weight:
            return samples
        bonus = weight * imagination.disagreement(samples.observation, samples.action)
        return replace(samples, reward=samples.reward + bonus)

