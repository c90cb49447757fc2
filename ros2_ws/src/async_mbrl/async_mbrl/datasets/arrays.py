"""Rows of foreign data sets, which hold observations and actions as they are, made into columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import CLIPPED, unknown
from async_mbrl.datasets.tally import Tally

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ArrayRules:
    """How rows are taken.

    Attributes:
        task: whose sizes they must have.
        actor: who chose the actions.
        own_rewards: the rewards of the task, instead of those that were recorded.
        tally: told of actions that are clipped.
    """

    task: Any
    actor: Source
    own_rewards: bool
    tally: Tally

    def columns(self, observation: np.ndarray, action: np.ndarray, following: np.ndarray,
                reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray,
                episode: np.ndarray, step: np.ndarray,
                log_probability: np.ndarray | None = None) -> Columns:
        """Make columns of arrays (n, ...) of one row a transition."""
        taken = np.clip(action, -1.0, 1.0).astype(np.float32)
        clipped = (np.abs(action) > 1.0 + _TOLERANCE).any(1)
        self.tally.mark(CLIPPED, int(clipped.sum()))
        with np.errstate(over='ignore'):    # what is too large becomes infinite, and is left out
            observation = observation.astype(np.float32)
            following = following.astype(np.float32)
        told = unknown(len(taken), self.actor)
        if log_probability is not None:
            told['log_probability'] = log_probability.astype(np.float32)
        if self.own_rewards:
            reward = self.task.reward(np, following.astype(np.float64), taken.astype(np.float64))
        terminated = terminated.astype(bool)
        return Columns(
            observation=observation, action_requested=taken,
            action_applied=taken, next_observation=following,
            reward=np.asarray(reward, np.float64), terminated=terminated,
            truncated=truncated.astype(bool) & ~terminated, intervened=clipped,
            episode=episode.astype(np.int64), step=step.astype(np.int64), **told)


def only_finite(parts: Iterable[Columns], tally: Tally) -> Iterator[Columns]:
    """Leave out rows that are not finite, and mark what stands before them as truncated.

    The last row is kept back, since the next part may show that it ends there.
    """
    kept: Columns | None = None
    for part in parts:
        rows = part if kept is None else joined([kept, part])
        finite = ~np.isinf(rows.log_probability) & np.isfinite(rows.reward)
        for name in ('observation', 'next_observation', 'action_requested', 'action_applied'):
            finite &= np.isfinite(getattr(rows, name)).all(1)
        if not finite.all():
            tally.leave_out('not finite', int((~finite).sum()))
            same = rows.episode[1:] == rows.episode[:-1]
            rows.truncated[:-1] |= same & ~finite[1:] & ~rows.terminated[:-1]
            rows = rows[finite]
        if len(rows) > 1:
            yield rows[:-1]
        kept = rows[-1:] if len(rows) else None
    if kept is not None:
        yield kept
