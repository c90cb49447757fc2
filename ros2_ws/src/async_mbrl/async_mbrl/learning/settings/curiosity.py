"""Settings of the bonus for what could not be predicted."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import param
from async_mbrl.learning.settings.base import ImprovementConfig


@dataclass(frozen=True)
class CuriosityConfig(ImprovementConfig):
    """An algorithm that learns from transitions, and may be drawn to surprising ones."""

    curiosity_weight: float = param(
        'bonus of a transition for each unit of the squared error with which learned features of '
        'the next state were predicted, from 0 to 4; 0: none', 0.0, minimum=0.0)
