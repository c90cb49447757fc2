"""Settings of the bonus for what the members of the model are apart on."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import ConfigError, param
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.settings.base import ImprovementConfig


@dataclass(frozen=True)
class DisagreementConfig(ImprovementConfig):
    """An algorithm that imagines, and may be drawn to where its model is not sure."""

    disagreement_weight: float = param(
        'bonus in imagination for each unit of disagreement of the ensemble, which is 1 where its '
        'members are as far apart as the data change in a step; 0: none', 0.0, minimum=0.0)

    def check_model(self, model: ModelConfig) -> None:
        """Refuse a bonus on the disagreement of a single member."""
        super().check_model(model)
        if self.disagreement_weight and model.members < 2:
            raise ConfigError(f'improvement.disagreement_weight: {self.disagreement_weight}, but '
                              f'model.members is {model.members}: nobody is there to disagree; '
                              'give the model 2 members at least, or the bonus weight 0')
