"""Imagined rollouts: where they start, and one step of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from async_mbrl.learning.device import Generators
from async_mbrl.learning.dynamics import Dynamics
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.workload import multiplications


class Imagination:
    """Rollouts inside a dynamics ensemble.

    Observations are (members, rollouts of a member, observation_size): each rollout goes on in one
    member from start to end, unless the members are mixed. Nothing ends a rollout early.
    """

    def __init__(self, dynamics: Dynamics, task: Any, pool: Pool,
                 generators: Generators, goal_rng: np.random.Generator) -> None:
        """Imagine with a model, from states of a pool, towards goals that the task draws."""
        self._dynamics = dynamics
        self._task = task
        self.pool = pool
        self._goal_rng = goal_rng
        self.generators = generators
        self.members = dynamics.members
        self.multiplications = multiplications(dynamics) / dynamics.members
        """In one step of one rollout."""

    def start(self, rollouts: int, initial_share: float) -> torch.Tensor:
        """Draw first observations.

        Args:
            rollouts: how many; rounded down to a multiple of the members, at least one a member.
            initial_share: share that starts where real episodes started; the others start anywhere
                in the data.
        """
        members = self._dynamics.members
        count = max(1, rollouts // members)
        initial = self.pool.initial_rows
        shape = (members, round(initial_share * count) if len(initial) else 0)
        generator = self.generators.rows
        rows = torch.randint(len(self.pool), (members, count - shape[1]), generator=generator)
        if shape[1]:
            chosen = torch.randint(len(initial), shape, generator=generator)
            rows = torch.cat([initial[chosen], rows], 1)
        goals = torch.from_numpy(self._task.sample_goals(self._goal_rng, members * count))
        states, _, _ = self.pool.batch(rows)
        return torch.cat([states, goals.view(members, count, -1).to(states.device)], -1)

    def advance(self, observation: torch.Tensor, action: torch.Tensor, *,
                mix_members: bool = False) -> torch.Tensor:
        """Give the next observations; the goal stays.

        Args:
            observation: (members, rollouts of a member, observation_size).
            action: (members, rollouts of a member, action_size), in [-1, 1].
            mix_members: whether each rollout is advanced by a member drawn for this step, all
                members by equally many, as in Zhang et al. 2019, instead of by its own.
        """
        size = self._task.state_size
        state = observation[..., :size]
        if mix_members:
            generator = self.generators.noise
            order = torch.randperm(state.shape[0] * state.shape[1], generator=generator,
                                   device=generator.device)
            mixed = self._dynamics.predict(_take(state, order), _take(action, order))
            state = torch.empty_like(mixed).flatten(0, 1).index_copy(
                0, order, mixed.flatten(0, 1)).view_as(mixed)
        else:
            state = self._dynamics.predict(state, action)
        return torch.cat([state, observation[..., size:]], -1)

    def disagreement(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Say (...) how far the members are apart; see :meth:`Dynamics.disagreement`.

        Args:
            observation: (..., observation_size).
            action: (..., action_size), in [-1, 1].
        """
        return self._dynamics.disagreement(observation[..., :self._task.state_size], action)


def _take(rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Give rows (members, rollouts of a member, size) in another order."""
    return rows.flatten(0, 1).index_select(0, order).view_as(rows)
