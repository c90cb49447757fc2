"""Curiosity: a bonus for what the robot could not have told of where its action would lead.

Pathak et al. 2017, "Curiosity-driven Exploration by Self-supervised Prediction": states are looked
at through features that are learned to tell which action was taken between two of them, so that
what the robot has no influence on does not count; another network predicts the features of the
next state, and its error is the bonus. As in Burda et al. 2019, "Large-Scale Study of
Curiosity-Driven Learning", the features are not changed to be predicted more easily.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.network import Mlp
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.settings.curiosity import CuriosityConfig

_FEATURES = 32
_HIDDEN = 64
_LEARNING_RATE = 1e-3
_GREATEST_ERROR = 4.0
"""Of features in (-1, 1); what is predicted is not bound to that range."""


class Curiosity(nn.Module):
    """Features, what predicts them, and the bonus that comes of its errors."""

    def __init__(self, weight: float, task: Any, generator: torch.Generator) -> None:
        """Build networks and optimiser.

        Args:
            weight: of the bonus; positive.
            task: see :mod:`async_mbrl.tasks`.
            generator: draws the initial weights.
        """
        super().__init__()
        self._weight = weight
        self._size, actions = task.state_size, task.action_size
        self.encoder, self.inverse, self.prediction = (
            Mlp((inputs, _HIDDEN, outputs), 'relu', generator, output_scale=1.0)
            for inputs, outputs in ((self._size, _FEATURES), (2 * _FEATURES, actions),
                                    (_FEATURES + actions, _FEATURES)))
        self.optimizer = Adam(self.parameters(), _LEARNING_RATE)
        self.scalars: dict[str, float] = {}
        """Of the newest transitions."""

    def reward(self, samples: Samples, policy: Policy) -> Samples:
        """Learn from transitions, and give them with the bonus among their rewards.

        Args:
            samples: transitions (rows, ...).
            policy: states are normalised as for it.
        """
        mean, std = policy.state_mean, policy.state_std
        features, following = (
            torch.tanh(self.encoder((observation[..., :self._size] - mean) / std))
            for observation in (samples.observation, samples.next_observation))
        taken = self.inverse(torch.cat([features, following], -1))
        predicted = self.prediction(torch.cat([features.detach(), samples.action], -1))
        errors = (predicted - following.detach()).square().mean(-1)
        inverse_loss = nn.functional.mse_loss(taken, samples.action)
        self.optimizer.step(torch.autograd.grad(inverse_loss + errors.mean(),
                                                self.optimizer.parameters))
        bonus = self._weight * errors.detach().clamp(max=_GREATEST_ERROR)
        self.scalars = {'exploration_bonus': float(bonus.mean()),
                        'inverse_loss': float(inverse_loss.detach())}
        return replace(samples, reward=samples.reward + bonus)


def make_curiosity(config: CuriosityConfig, task: Any,
                   generator: torch.Generator) -> Curiosity | None:
    """Build what gives the bonus; None where none is wanted."""
    if not config.curiosity_weight:
        return None
    return Curiosity(config.curiosity_weight, task, generator)
