"""What every task says of an episode: what it starts from, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Plan:
    """An episode that was drawn.

    Attributes:
        start: what it starts from: a pose of an arm (n,), rad, or a state of a benchmark body.
        goal: (goal_size,) float32.
        reached: pose (n,), rad, at the goal, which must be free of collisions; empty without one.
    """

    start: np.ndarray
    goal: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    reached: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Verdict:
    """How an episode ended; None for what the task does not define.

    Attributes:
        success: whether it succeeded.
        distance_m: distance of the tool to the goal, m.
    """

    success: bool | None = None
    distance_m: float | None = None
