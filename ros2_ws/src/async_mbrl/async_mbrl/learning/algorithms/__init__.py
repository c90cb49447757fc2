"""Policy improvement: one file an algorithm."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.algorithms.me_ppo import MePpo
from async_mbrl.learning.algorithms.svg import Svg
from async_mbrl.learning.config import MePpoConfig, SvgConfig
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.policy import Policy

__all__ = ['Algorithm', 'make_algorithm']


class Algorithm(Protocol):
    """What the policy learner asks of an algorithm; all are ``torch.nn.Module`` besides."""

    config: Any
    policy: Policy

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published."""
        ...

    def update(self, imagination: Imagination) -> None:
        """Improve the policy once."""
        ...

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        ...

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Parameters and statistics by name (of ``torch.nn.Module``)."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take them back (of ``torch.nn.Module``)."""
        ...


def make_algorithm(improvement: MePpoConfig | SvgConfig, network: PolicyNetworkConfig, task: Any,
                   generator: torch.Generator) -> Algorithm:
    """Build the algorithm that settings belong to."""
    if isinstance(improvement, MePpoConfig):
        return MePpo(improvement, network, task, generator)
    return Svg(improvement, network, task, generator)
