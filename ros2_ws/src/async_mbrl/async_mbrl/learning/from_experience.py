"""What the actor-critics that learn from transitions alone do around each of their updates."""

from __future__ import annotations

from collections.abc import Callable

import torch

from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.curiosity import Curiosity
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.sampling import Sampling

Improve = Callable[[Samples, torch.Generator, torch.Tensor | None], torch.Tensor]
"""A gradient step: from transitions (rows, ...), what draws actions and importance weights (rows,)
to the errors (critics, rows) before it."""


class FromExperience:
    """Draws the transitions of an update, adds curiosity where it is wanted, and learns of errors.

    What mixes it in has the two attributes; a curiosity is a part of it, as any other network.
    """

    curiosity: Curiosity | None
    sampling: Sampling

    def learn_from(self, experience: Experience, batch: int, offline_share: float, policy: Policy,
                   improve: Improve) -> None:
        """Take one update.

        Args:
            experience: what is drawn from.
            batch: transitions to draw.
            offline_share: see :meth:`Experience.draw`.
            policy: states are normalised as for it.
            improve: the gradient step.
        """
        drawn = self.sampling.draw(experience, batch, offline_share)
        samples = drawn.samples
        if self.curiosity is not None:
            samples = self.curiosity.reward(samples, policy)
        self.sampling.learned(drawn, improve(samples, experience.generators.noise, drawn.weights))

    def with_curiosity(self, optimizers: dict[str, Adam]) -> dict[str, Adam]:
        """Give optimisers by name, that of the curiosity among them if there is one."""
        if self.curiosity is None:
            return optimizers
        return {**optimizers, 'curiosity': self.curiosity.optimizer}

    def scalars_around(self) -> dict[str, float]:
        """Scalars of the newest draw, and of the curiosity."""
        curious = {} if self.curiosity is None else self.curiosity.scalars
        return {**self.sampling.metrics(), **curious}
