"""Rollouts of a Gaussian policy in imagination."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.settings.imagined import ImaginedConfig
from async_mbrl.learning.workload import Workload, multiplications


@dataclass(frozen=True)
class Rollouts:
    """What was imagined; the leading axes are (time, members, rollouts of a member).

    Attributes:
        features: (horizon + 1, ..., feature_size), of the states before each step and after the
            last.
        actions: (horizon, ..., action_size), as drawn, before they were clipped.
        log_density: (horizon, ...), of these; see :func:`async_mbrl.learning.gaussian.log_density`.
        rewards: (horizon, ...), as the task gives them.
        bonus: (horizon, ...), of exploration; 0 where none is wanted.
    """

    features: torch.Tensor
    actions: torch.Tensor
    log_density: torch.Tensor
    rewards: torch.Tensor
    bonus: torch.Tensor

    @property
    def incentives(self) -> torch.Tensor:
        """What the policy is to gain (horizon, ...): rewards and bonus."""
        return self.rewards + self.bonus

    @property
    def imagined_return(self) -> float:
        """Sum of the rewards of a rollout, on average, without the bonus."""
        return float(self.rewards.sum(0).mean())

    @property
    def mean_bonus(self) -> float:
        """Bonus of a step, on average."""
        return float(self.bonus.mean())


# As a decorator, which leaves the mode wherever the generator yields.
@torch.no_grad()
def imagine(imagination: Imagination, task: Any, config: ImaginedConfig, rollouts: int,
            policy: Policy, mean: Callable[[torch.Tensor], torch.Tensor], log_std: torch.Tensor,
            work: Workload, *, mix_members: bool = False) -> Generator[None, None, Rollouts]:
    """Roll out, yielding now and then.

    Args:
        imagination: where.
        task: gives rewards.
        config: horizon, start states, cost of actions beyond their range.
        rollouts: how many.
        policy: gives the features of observations.
        mean: gives the mean action (..., action_size) of features.
        log_std: of the actions, (action_size,) or (members, rollouts of a member, action_size).
        work: counts what this costs.
        mix_members: see :meth:`Imagination.advance`.
    """
    observation = start = imagination.start(rollouts, config.initial_share)
    shape = (config.horizon, *observation.shape[:-1], task.action_size)
    generator = imagination.generators.noise
    noise = torch.randn(shape, generator=generator, device=generator.device)
    scaled = noise * log_std.exp()
    cost = (imagination.multiplications + multiplications(policy)) * shape[1] * shape[2]
    features, actions, observations = [policy.features(observation)], [], []
    for step in range(config.horizon):
        action = mean(features[-1]) + scaled[step]
        observation = imagination.advance(observation, action.clamp(-1.0, 1.0),
                                          mix_members=mix_members)
        actions.append(action)
        observations.append(observation)
        features.append(policy.features(observation))
        yield from work.add(cost)
    action = torch.stack(actions)
    clamped = action.clamp(-1.0, 1.0)
    rewards = (task.reward(torch, torch.stack(observations), clamped)
               - config.excess_cost * (action - clamped).square().sum(-1))
    bonus = torch.zeros_like(rewards)
    if config.disagreement_weight:
        for step, before in enumerate([start, *observations[:-1]]):
            bonus[step] = config.disagreement_weight * imagination.disagreement(before,
                                                                                clamped[step])
            yield from work.add(cost * imagination.members)
    return Rollouts(torch.stack(features), action,
                    (-0.5 * noise.square() - log_std).sum(-1), rewards, bonus)
