"""Settings of ME-PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import param
from async_mbrl.learning.settings.imagined import BaselineConfig


@dataclass(frozen=True)
class MePpoConfig(BaselineConfig):
    """Proximal policy optimisation on rollouts imagined by a model ensemble."""

    NAME: ClassVar[str] = 'me_ppo'

    clip: float = param('greatest change of the probability ratio', 0.2, minimum=0.0)
    epochs: int = param('passes over the imagined steps', 4, minimum=1)
    minibatches: int = param('updates of a pass', 4, minimum=1)
    policy_learning_rate: float = param('of Adam', 7e-4, minimum=0.0)
    gradient_norm: float = param('greatest norm of the gradient of the policy', 1.0, minimum=0.0)
    entropy_weight: float = param('of the entropy of the imagined actions', 1e-4, minimum=0.0)
