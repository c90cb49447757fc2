"""Both learners of a run in one process, as pre-training and emulated runs have them."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.settings import ImprovementConfig


class LearningSettings(Protocol):
    """The settings that learners are made from."""

    @property
    def model(self) -> ModelConfig:
        """Of the dynamics ensemble."""
        ...

    @property
    def network(self) -> PolicyNetworkConfig:
        """Of the policy."""
        ...

    @property
    def exploration(self) -> ExplorationConfig:
        """Of the noise that the policy acts with."""
        ...

    @property
    def improvement(self) -> ImprovementConfig:
        """Of the algorithm."""
        ...


def make_learners(settings: LearningSettings, task: Any, run_seed: int,
                  device: torch.device) -> tuple[ModelLearner | None, PolicyLearner]:
    """Make learners that draw the numbers which the nodes of such a run would draw.

    Args:
        settings: of model and policy.
        task: see :mod:`async_mbrl.tasks`.
        run_seed: of the run; each learner has its own.
        device: where they learn.

    Returns:
        The learner of the model, None where the algorithm needs none, and that of the policy.
    """
    policy = PolicyLearner(
        settings.improvement, settings.model, settings.network, settings.exploration, task,
        seed=learner_seed(run_seed, 'policy_learner'), device=device)
    model = ModelLearner(settings.model, task, seed=learner_seed(run_seed, 'model_learner'),
                         device=device) if settings.improvement.NEEDS_MODEL else None
    return model, policy
