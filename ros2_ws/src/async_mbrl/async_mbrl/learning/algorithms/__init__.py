"""Policy improvement: one file an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.algorithms.awac import Awac
from async_mbrl.learning.algorithms.mb_mpo import MbMpo
from async_mbrl.learning.algorithms.mbpo import Mbpo
from async_mbrl.learning.algorithms.me_ppo import MePpo
from async_mbrl.learning.algorithms.me_trpo import MeTrpo
from async_mbrl.learning.algorithms.pets import Pets
from async_mbrl.learning.algorithms.ppo import Ppo
from async_mbrl.learning.algorithms.sac import Sac
from async_mbrl.learning.algorithms.svg import Svg
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.sampling import Sampling
from async_mbrl.learning.settings import (
    AwacConfig,
    ImprovementConfig,
    MbMpoConfig,
    MbpoConfig,
    MePpoConfig,
    MeTrpoConfig,
    PetsConfig,
    PpoConfig,
    SacConfig,
    SvgConfig,
)

__all__ = ['ActsByEpisode', 'Algorithm', 'DrawsTransitions', 'make_algorithm']


class Algorithm(Protocol):
    """What the policy learner asks of an algorithm; all are ``torch.nn.Module`` besides."""

    config: Any
    policy: Policy

    @property
    def acting_policy(self) -> Policy:
        """The policy that is published."""
        ...

    def update(self, source: Any) -> Iterator[None] | None:
        """Improve the policy once.

        The source is an :class:`~async_mbrl.learning.imagination.Imagination` or, for an algorithm
        that needs no model, an :class:`~async_mbrl.learning.experience.Experience`.

        An update that may last longer than a moment is an iterator, which does the work and yields
        now and then; it is to be exhausted. Model and normalisation stay the same meanwhile.
        """
        ...

    @property
    def samples_of_update(self) -> int:
        """Rows of the data that an update looks at, for the count of passes over them."""
        ...

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit, besides all shapes."""
        ...

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint."""
        ...

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Parameters alone, with their names (of ``torch.nn.Module``)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Parameters and statistics by name (of ``torch.nn.Module``)."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take them back (of ``torch.nn.Module``)."""
        ...


@runtime_checkable
class ActsByEpisode(Protocol):
    """An algorithm that does not act in every episode by the same policy."""

    @property
    def about(self) -> dict[str, Any]:
        """What a published snapshot says of the policy."""
        ...

    def expect_episode(self, number: int) -> None:
        """Take that the next transition will be of this episode, as far as is known."""
        ...


@runtime_checkable
class DrawsTransitions(Protocol):
    """An algorithm that learns from transitions which a sampling has drawn."""

    sampling: Sampling


ALGORITHMS: dict[type[ImprovementConfig], Any] = {
    MePpoConfig: MePpo,
    MeTrpoConfig: MeTrpo,
    MbMpoConfig: MbMpo,
    SvgConfig: Svg,
    MbpoConfig: Mbpo,
    PetsConfig: Pets,
    AwacConfig: Awac,
    PpoConfig: Ppo,
    SacConfig: Sac,
}


def make_algorithm(improvement: ImprovementConfig, network: PolicyNetworkConfig, task: Any,
                   generator: torch.Generator) -> Algorithm:
    """Build the algorithm that settings belong to."""
    algorithm: Algorithm = ALGORITHMS[type(improvement)](improvement, network, task, generator)
    return algorithm
