"""Planning in a dynamics ensemble: which actions promise the greatest return from here.

The two planners differ in how candidates become the next plan: the cross-entropy method of PETS
(Chua et al. 2018) with what iCEM adds to it (Pinneri et al. 2020: correlated candidates, elites
that are kept, the mean as a candidate), or the path integral of MPPI (Williams et al. 2017). Each
candidate is judged by all members, each going its own way to the end of the plan (TS-infinity). A
member has no noise of its own, so one particle a member is all of them.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch

from async_mbrl.learning.settings.pets import PetsConfig

_HOPELESS = -1e30
"""Return of a candidate whose imagined end is not finite."""


class Model(Protocol):
    """What plans are tried in; see :class:`async_mbrl.learning.dynamics.Dynamics`."""

    members: int

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Next state (members, rows, state_size)."""
        ...


class Planner:
    """Plans by trying candidates around the plan before, shifted to the present."""

    def __init__(self, config: PetsConfig, model: Model, task: Any,
                 generator: torch.Generator) -> None:
        """Begin with a plan of zeros.

        Args:
            config: settings.
            model: an ensemble; its parameters may change between two plans.
            task: gives rewards, and says where an episode ends by itself (see
                :mod:`async_mbrl.tasks`).
            generator: draws candidates.
        """
        self._config = config
        self._model = model
        self._task = task
        self._generator = generator
        self._mean = torch.zeros(config.horizon, task.action_size)

    def forget(self) -> None:
        """Begin with a plan of zeros again."""
        self._mean = torch.zeros_like(self._mean)

    def shift(self, steps: int) -> None:
        """Move on by a number of steps: what follows the plan before is 0 (Chua et al. 2018)."""
        self._mean = torch.cat([self._mean[steps:], torch.zeros_like(self._mean[:steps])])

    @torch.no_grad()
    def plan(self, observation: torch.Tensor, committed: torch.Tensor) -> torch.Tensor:
        """Improve the plan.

        Args:
            observation: (observation_size,).
            committed: actions (steps, action_size) that are taken first, whatever is planned;
                there may be none.

        Returns:
            Actions (horizon, action_size) in [-1, 1], the first one for the step after those.
        """
        start = observation.expand(self._model.members, 1, -1)
        for action in committed:
            start = self._advance(start, action.expand(*start.shape[:-1], -1))
        improve = self._by_elites if self._config.planner == 'cem' else self._by_weights
        self._mean = improve(start)
        return self._mean

    @torch.no_grad()
    def returns(self, start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Give the mean return (candidates,) over the members.

        Args:
            start: observations (members, 1, observation_size).
            actions: (candidates, horizon, action_size).
        """
        observation = start.expand(-1, len(actions), -1)
        taken = actions.transpose(0, 1)[:, None].expand(-1, len(start), -1, -1)
        seen = []
        for action in taken:
            observation = self._advance(observation, action)
            seen.append(observation)
        observations = torch.stack(seen)
        rewards = self._task.reward(torch, observations, taken)
        alive = torch.from_numpy(~self._task.terminated(observations.cpu().numpy())).to(rewards)
        # The step to the end counts, but nothing after it.
        rewards[1:] = rewards[1:] * alive.cumprod(0)[:-1]
        total = rewards.sum(0).mean(0)
        return torch.where(torch.isfinite(total), total, _HOPELESS)

    def _advance(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        size = self._task.state_size
        state = self._model.predict(observation[..., :size], action)
        return torch.cat([state, observation[..., size:]], -1)

    def _by_elites(self, start: torch.Tensor) -> torch.Tensor:
        config = self._config
        mean, std = self._mean, torch.full_like(self._mean, config.initial_std)
        kept = mean[None]
        for _ in range(config.iterations):
            actions = torch.cat([kept, self._draw(mean, std, config.candidates - len(kept))])
            best = self.returns(start, actions).topk(config.elites).indices
            elites = actions[best]
            mean = torch.lerp(elites.mean(0), mean, config.smoothing)
            std = torch.lerp(elites.std(0, correction=0), std, config.smoothing)
            kept = elites[:config.kept]
        return mean

    def _by_weights(self, start: torch.Tensor) -> torch.Tensor:
        """Williams et al. 2017, with candidates that have no cost but that of the task.

        That is alpha = 1 in Williams et al. 2018: the reward of the task knows what actions cost.
        """
        config = self._config
        mean, std = self._mean, torch.full_like(self._mean, config.initial_std)
        for _ in range(config.iterations):
            actions = torch.cat([mean[None], self._draw(mean, std, config.candidates - 1)])
            returns = self.returns(start, actions)
            best = returns.max()
            scale = config.temperature * (best - returns.median()).clamp(min=1e-12)
            weights = torch.softmax((returns - best) / scale, 0)
            mean = torch.einsum('c,cta->ta', weights, actions)
        return mean

    def _draw(self, mean: torch.Tensor, std: torch.Tensor, count: int) -> torch.Tensor:
        """Draw candidates (count, horizon, action_size) in [-1, 1], correlated in time."""
        generator = self._generator
        noise = torch.randn(count, *mean.shape, generator=generator, device=generator.device)
        correlation = self._config.correlation
        share = math.sqrt(1.0 - correlation * correlation)
        for step in range(1, len(mean)):
            noise[:, step] = correlation * noise[:, step - 1] + share * noise[:, step]
        return (mean + std * noise).clamp(-1.0, 1.0)
