"""PETS: model-predictive control with the ensemble; see :mod:`async_mbrl.learning.planning`.

Chua et al. 2018. What acts is the planner. The policy here only imitates it, by regression on the
actions that were planned, so that there is something to act by where no plan has come in time, and
where the planner is not: in evaluations without the graph, and on an arm that only uses what was
learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.settings import PetsConfig


class Pets(nn.Module):
    """The policy that imitates the planner."""

    def __init__(self, config: PetsConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build a policy of mean 0, and its optimiser."""
        super().__init__()
        self.config = config
        self.policy = Policy(network, task, generator)
        self._optimizer = Adam(self.policy.parameters(), config.imitation_learning_rate)
        self._loss = 0.0
        self._share = 0.0

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
        return {}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        return {'policy': self._optimizer}

    def update(self, imagination: Imagination) -> None:
        """Bring the policy closer to what was planned."""
        buffer = imagination.pool.buffer    # in offline data nothing was planned by this planner
        rows = torch.randint(len(buffer), (self.config.batch,),
                             generator=imagination.generators.rows)
        # What the policy did by itself was drawn, and has a density; what was planned, or done by a
        # person, has none.
        planned = (buffer.log_probability(rows) == 0.0).float()
        mean = self.policy.mean(self.policy.features(buffer.samples(rows).observation))
        error = (mean - buffer.requested(rows)).square().mean(-1)
        loss = (planned * error).sum() / planned.sum().clamp(min=1.0)
        self._optimizer.step(torch.autograd.grad(loss, self._optimizer.parameters))
        self._loss, self._share = float(loss.detach()), float(planned.mean())

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imitation_loss': self._loss, 'planned_share': self._share}
