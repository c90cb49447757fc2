"""Actions planned ahead for the steps of an episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_STEPS = 64
"""Most actions of a plan that is handed out."""


@dataclass(frozen=True)
class Plan:
    """Actions for a number of policy steps in a row of one episode.

    Attributes:
        command_number: episode command that the episode belongs to.
        episode: number of the episode.
        step: policy step that the first action is for.
        actions: (steps, action_size) float32, normalised to [-1, 1].
    """

    command_number: int
    episode: int
    step: int
    actions: np.ndarray

    def action(self, command_number: int, episode: int, step: int) -> np.ndarray | None:
        """Give the action (action_size,) for a step; None if the plan is not for it."""
        ahead = step - self.step
        if (command_number, episode) != (self.command_number, self.episode) or not (
                0 <= ahead < len(self.actions)):
            return None
        action: np.ndarray = self.actions[ahead]
        return action
