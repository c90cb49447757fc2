"""Settings of ME-TRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import param
from async_mbrl.learning.settings.imagined import BaselineConfig
from async_mbrl.learning.settings.trust_region import TrustRegionConfig


@dataclass(frozen=True)
class MeTrpoConfig(BaselineConfig):
    """Trust region policy optimisation on rollouts imagined by a model ensemble."""

    NAME: ClassVar[str] = 'me_trpo'

    trust_region: TrustRegionConfig = param('the step of the policy', TrustRegionConfig())
    value_epochs: int = param('passes of the value network over the imagined steps', 4, minimum=1)
    value_minibatches: int = param('updates of a pass', 4, minimum=1)
