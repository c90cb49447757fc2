"""Settings that every algorithm has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.config import ExplorationConfig, ModelConfig


@dataclass(frozen=True)
class ImprovementConfig:
    """How a policy is improved; each algorithm adds its own settings."""

    capacity: int = param('transitions kept, the newest', 100_000, minimum=1,
                          maximum=10_000_000)
    minimum_transitions: int = param('transitions at which improvement begins', 25, minimum=2)
    publish_interval_s: float = param('wall time between two published snapshots, at least, s',
                                      0.1, minimum=0.0)
    max_updates_per_transition: float = param(
        'updates for each transition received, on average, at most; 0: no limit', 0.0, minimum=0.0)
    offline_updates: int = param('updates from a dataset alone, before the arm moves, where there '
                                 'is one', 200, minimum=0)

    NEEDS_MODEL: ClassVar[bool] = True
    """Whether the algorithm imagines rollouts in a dynamics model."""
    PLANS: ClassVar[bool] = False
    """Whether a planner acts, in the newest model, and the policy only where it does not."""

    @property
    def on_policy_transitions(self) -> int:
        """Transitions of whole episodes by the newest policy that an update needs."""
        return 0

    def check_offline(self) -> None:
        """Check that the algorithm can learn from transitions that its policy did not bring about.

        Raises:
            ConfigError: it cannot.
        """
        name = type(self).__name__.removesuffix('Config')
        if self.on_policy_transitions:
            raise ConfigError(f'dataset: {name} learns only from what its newest policy did; use '
                              'another algorithm, such as awac, or me_ppo in a model')

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Check that the network which acts is one that the algorithm can improve.

        Raises:
            ConfigError: it is not.
        """

    def check_exploration(self, exploration: ExplorationConfig) -> None:
        """Check that the noise is one that the algorithm can learn from.

        Raises:
            ConfigError: it is not.
        """

    def check_model(self, model: ModelConfig) -> None:
        """Check that the model is one that the algorithm can imagine in.

        Raises:
            ConfigError: it is not.
        """
