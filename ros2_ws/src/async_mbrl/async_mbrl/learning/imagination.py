"""Imagined rollouts: where they start, and one step of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.dynamics import Dynamics


class Imagination:
    """Rollouts inside a dynamics ensemble, each rollout in one member from start to end.

    Observations are (members, rollouts of a member, observation_size).
    """

    def __init__(self, dynamics: Dynamics, task: Any, buffer: TransitionBuffer,
                 generator: torch.Generator, goal_rng: np.random.Generator) -> None:
        """Imagine with a model, from states of a buffer, towards goals that the task draws."""
        self._dynamics = dynamics
        self._task = task
        self._buffer = buffer
        self._goal_rng = goal_rng
        self.generator = generator

    def start(self, rollouts: int, initial_share: float) -> torch.Tensor:
        """Draw first observations.

        Args:
            rollouts: how many; rounded down to a multiple of the members, at least one a member.
            initial_share: share that starts where real episodes started; the others start anywhere
                in the data.
        """
        members = self._dynamics.members
        count = max(1, rollouts // members)
        initial = self._buffer.initial_rows
        shape = (members, round(initial_share * count) if len(initial) else 0)
        rows = torch.randint(len(self._buffer), (members, count - shape[1]),
                             generator=self.generator)
        if shape[1]:
            chosen = torch.randint(len(initial), shape, generator=self.generator)
            rows = torch.cat([initial[chosen], rows], 1)
        goals = torch.from_numpy(self._task.sample_goals(self._goal_rng, members * count))
        return torch.cat([self._buffer.states[rows], goals.view(members, count, -1)], -1)

    def advance(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Give the next observations; the goal stays."""
        size = self._task.state_size
        state = self._dynamics.predict(observation[..., :size], action)
        return torch.cat([state, observation[..., size:]], -1)
