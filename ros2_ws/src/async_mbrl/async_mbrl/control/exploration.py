"""Exploration: noise on the policy's mean that is correlated from step to step."""

from __future__ import annotations

import math

import numpy as np


class CorrelatedNoise:
    """First-order autoregressive Gaussian noise of a chosen stationary standard deviation.

    The unit process z[k] = rho z[k-1] + sqrt(1 - rho^2) e[k] is kept apart from its scale, so that
    the scale may change with the policy in the middle of an episode.
    """

    def __init__(self, size: int) -> None:
        """Prepare noise for actions of ``size`` components."""
        self._size = size
        self._rng = np.random.default_rng(0)
        self._unit = np.zeros(size)
        self._first = True

    def restart(self, seed: int) -> None:
        """Begin a new, independent sequence that the seed determines."""
        self._rng = np.random.default_rng(seed)
        self._first = True

    def draw(self, std: float, correlation: float) -> tuple[np.ndarray, float]:
        """Draw the noise of the next step.

        Args:
            std: stationary standard deviation, normalised action; 0 gives no noise.
            correlation: coefficient from one step to the next, in [0, 1).

        Returns:
            The noise (size,) and its log density given the noise of the step before, nat; 0 where
            there is no noise, as no density exists.
        """
        fresh = self._rng.standard_normal(self._size)
        share = 1.0 if self._first else math.sqrt(1.0 - correlation * correlation)
        self._unit = fresh if self._first else correlation * self._unit + share * fresh
        self._first = False
        if std <= 0.0:
            return np.zeros(self._size), 0.0
        log_density = (-0.5 * float(fresh @ fresh)
                       - self._size * (math.log(std * share) + 0.5 * math.log(2.0 * math.pi)))
        return std * self._unit, log_density
