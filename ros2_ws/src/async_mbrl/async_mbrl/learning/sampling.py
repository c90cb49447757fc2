"""Which transitions an update of an actor-critic is made of.

Three kinds behind one interface: evenly; with emphasis on recent experience, after Wang and Ross
2019, "Boosting Soft Actor-Critic: Emphasizing Recent Experience without Forgetting the Past"; and
by priority, after Schaul et al. 2016, "Prioritized Experience Replay".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from async_mbrl.learning.buffer import Samples, TransitionBuffer, together
from async_mbrl.learning.checkpoint import part, prefixed
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.settings.sampling import SamplingConfig
from async_mbrl.learning.sum_tree import SumTree

_SPAN = 1000
"""Exponent of the recency at the end of a series of updates, as in Wang and Ross 2019."""
_LEAST_ERROR = 1e-6
"""Added to each error: what is known exactly is drawn now and then, too."""
_WHOLE = 1.0 - 1e-12
"""Times the total of a tree: below it, however it is rounded."""


def _no_rows() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class Drawn:
    """Transitions of an update, those of the offline data first.

    Attributes:
        samples: (rows, ...).
        weights: importance weights (rows,) in the loss of the critics; None where all are 1.
        offline: rows of those from the offline data, where the sampling has to know.
        robot: rows of those of the robot, the same.
    """

    samples: Samples
    weights: torch.Tensor | None = None
    offline: torch.Tensor = field(default_factory=_no_rows)
    robot: torch.Tensor = field(default_factory=_no_rows)


class Sampling(Protocol):
    """Draws transitions, and may learn from how an update went which ones to draw."""

    def draw(self, experience: Experience, count: int, offline_share: float) -> Drawn:
        """Draw transitions with replacement; see :meth:`Experience.draw` for the arguments."""
        ...

    def learned(self, drawn: Drawn, errors: torch.Tensor) -> None:
        """Take the errors (critics, rows) that were found in transitions that were drawn."""
        ...

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest draw."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the state for a checkpoint."""
        ...

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave; an empty mapping is that of a beginning."""
        ...


class Stateless:
    """A sampling that does not depend on how updates went."""

    def learned(self, drawn: Drawn, errors: torch.Tensor) -> None:
        """Take nothing from it."""

    def metrics(self) -> dict[str, float]:
        """Give nothing to tell."""
        return {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give nothing to keep."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take nothing back."""


class Uniform(Stateless):
    """Each transition is as likely as another, or those of a person have a share of their own.

    Half of a batch is demonstrated in Luo et al. 2024 (HIL-SERL), where corrections are kept twice:
    among the demonstrations, and among all that the robot did.
    """

    def __init__(self, human_share: float = 0.0) -> None:
        """Draw with a share for those of a person; 0: as many as it happens."""
        self._human_share = human_share

    def draw(self, experience: Experience, count: int, offline_share: float) -> Drawn:
        """Draw transitions; see :meth:`Experience.draw`."""
        return Drawn(experience.draw(count, offline_share, self._human_share))


class Recent(Stateless):
    """The newer a transition, the likelier it is; the oldest are drawn now and then, too.

    Wang and Ross draw the k-th of K updates after an episode from the newest
    ``c = max(N eta^(1000 k / K), c_min)`` of N transitions. Here learning does not wait for the end
    of an episode, so there is no k: each update draws k / K anew. Over many updates transitions are
    drawn as often as there. Offline data are older than any of the robot's.
    """

    def __init__(self, recency: float, minimum: int) -> None:
        """Draw with ``recency`` eta, 1 at most, from ``minimum`` transitions at least."""
        self._recency, self._minimum = recency, minimum
        self._window = 0

    def draw(self, experience: Experience, count: int, offline_share: float) -> Drawn:
        """Draw transitions; see :meth:`Experience.draw`. Offline data alone are drawn evenly."""
        buffer, generator = experience.buffer, experience.generators.rows
        old, new = experience.counts(count, offline_share)
        phase = float(torch.rand((), generator=generator))
        evenly = old < 0
        if not new and not evenly:
            return Drawn(experience.draw(count, offline_share))
        held = len(experience) if evenly else len(buffer)
        self._window = max(min(self._minimum, held), int(held * self._recency ** (_SPAN * phase)))
        ages = torch.randint(self._window, (count if evenly else new,), generator=generator)
        if evenly:
            young = ages < len(buffer)
            ages, old = ages[young], int((~young).sum())
        samples = buffer.samples((buffer.next_number - 1 - ages) % buffer.capacity)
        if not old:
            return Drawn(samples)
        assert experience.offline is not None
        rows = torch.randint(len(experience.offline), (old,), generator=generator)
        return Drawn(together(experience.offline.samples(rows), samples))

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest draw: ``recent_transitions``, from how many it was drawn."""
        return {'recent_transitions': float(self._window)}


class Priorities:
    """Priorities of the transitions of one buffer; new ones have the greatest there has been."""

    def __init__(self) -> None:
        """Begin without transitions."""
        self.tree = SumTree()
        self._known = self._rows = 0

    def follow(self, buffer: TransitionBuffer, greatest: float) -> None:
        """Give the priority ``greatest`` to the transitions that came since."""
        first = max(self._known, buffer.next_number - len(buffer))
        if first < buffer.next_number:
            self.tree.set(np.arange(first, buffer.next_number) % buffer.capacity,
                          np.full(buffer.next_number - first, greatest))
            self._known, self._rows = buffer.next_number, len(buffer)

    def find(self, heights: np.ndarray) -> torch.Tensor:
        """Give the rows (count,) at heights of the stack of all priorities."""
        return torch.from_numpy(self.tree.find(heights))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the state for a checkpoint."""
        return {'weights': torch.from_numpy(self.tree.weights(np.arange(self._rows))),
                'known': torch.tensor(self._known)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave."""
        weights = tensors['weights'].numpy()
        self.tree.set(np.arange(len(weights)), weights)
        self._known, self._rows = int(tensors['known']), len(weights)


class Prioritised:
    """Proportional prioritisation: P(i) = p_i^alpha / sum_k p_k^alpha, p the error last seen.

    A batch is one draw from each of as many equal parts of the sum. Its transitions count in the
    loss of the critics with the weights (N P(i))^-beta, divided by the greatest of the batch, so
    that they only become less. With a fixed share of offline data each of the two parts of a batch
    has its own sum, and N.
    """

    def __init__(self, alpha: float, beta: float, updates: int) -> None:
        """Begin without priorities.

        Args:
            alpha: exponent of the priorities.
            beta: exponent of the importance weights, at first.
            updates: over which it rises to 1; 0 if it stays.
        """
        self._alpha, self._beta, self._updates = alpha, beta, updates
        self._robot, self._offline = Priorities(), Priorities()
        self._greatest = 1.0
        self._made = 0
        self._least_weight = 1.0

    def draw(self, experience: Experience, count: int, offline_share: float) -> Drawn:
        """Draw transitions; see :meth:`Experience.draw` for the arguments."""
        buffer, offline = experience.buffer, experience.offline
        self._robot.follow(buffer, self._greatest)
        if offline is not None:
            self._offline.follow(offline, self._greatest)
        old, new = experience.counts(count, offline_share)
        if old < 0:
            total = self._offline.tree.total + self._robot.tree.total
            heights = self._heights(count, total, experience.generators.rows)
            below = heights < self._offline.tree.total
            rows = (self._offline.find(heights[below]),
                    self._robot.find(heights[~below] - self._offline.tree.total))
            parts = ((total, len(experience)), (total, len(experience)))
        else:
            rows = (self._within(self._offline, old, experience.generators.rows),
                    self._within(self._robot, new, experience.generators.rows))
            parts = ((self._offline.tree.total, len(offline or ())),
                     (self._robot.tree.total, len(buffer)))
        weights = self._weights(rows, parts)
        samples = buffer.samples(rows[1])
        if offline is not None:
            samples = together(offline.samples(rows[0]), samples)
        return Drawn(samples, weights.to(samples.reward.device), *rows)

    def learned(self, drawn: Drawn, errors: torch.Tensor) -> None:
        """Take the errors (critics, rows) found: their mean is the priority from now on."""
        found = errors.detach().abs().mean(0).double().cpu().numpy() + _LEAST_ERROR
        weights = found ** self._alpha
        old = len(drawn.offline)
        self._offline.tree.set(drawn.offline.numpy(), weights[:old])
        self._robot.tree.set(drawn.robot.numpy(), weights[old:])
        self._greatest = max(self._greatest, float(weights.max()))
        self._made += 1

    def metrics(self) -> dict[str, float]:
        """Scalars.

        ``priority_max``: the greatest priority so far, which new transitions have.
        ``importance_weight_min``: the least weight in the newest batch.
        """
        greatest = self._greatest ** (1.0 / self._alpha) if self._alpha else self._greatest
        return {'priority_max': greatest, 'importance_weight_min': self._least_weight}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the state for a checkpoint."""
        return {'greatest': torch.tensor(self._greatest, dtype=torch.double),
                'made': torch.tensor(self._made),
                **prefixed('robot', self._robot.tensors()),
                **prefixed('offline', self._offline.tensors())}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave; without it all have the greatest priority."""
        if not tensors:
            return
        self._greatest, self._made = float(tensors['greatest']), int(tensors['made'])
        self._robot.load(part('robot', tensors))
        self._offline.load(part('offline', tensors))

    def _within(self, of: Priorities, count: int, generator: torch.Generator) -> torch.Tensor:
        return of.find(self._heights(count, of.tree.total, generator))

    @staticmethod
    def _heights(count: int, total: float, generator: torch.Generator) -> np.ndarray:
        within = torch.rand(count, generator=generator, dtype=torch.double).numpy()
        return (np.arange(count) + within) * (total * _WHOLE / max(1, count))

    def _weights(self, rows: tuple[torch.Tensor, torch.Tensor],
                 parts: tuple[tuple[float, int], tuple[float, int]]) -> torch.Tensor:
        risen = min(1.0, self._made / self._updates) if self._updates else 0.0
        beta = self._beta + risen * (1.0 - self._beta)
        chances = np.concatenate([
            each.tree.weights(drawn.numpy()) * (count / total) if len(drawn) else np.zeros(0)
            for each, drawn, (total, count) in zip((self._offline, self._robot), rows, parts,
                                                   strict=True)])
        weights = (chances / chances.min()) ** -beta
        self._least_weight = float(weights.min())
        return torch.from_numpy(weights).float()


def make_sampling(config: SamplingConfig) -> Sampling:
    """Build the sampling that settings belong to."""
    if config.kind == 'recent':
        return Recent(config.recency, config.recent_minimum)
    if config.kind == 'prioritised':
        return Prioritised(config.priority_exponent, config.importance_exponent,
                           config.importance_updates)
    return Uniform(config.human_share)
