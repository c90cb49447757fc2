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
        log_density = self._advance(correlation)
        if std <= 0.0:
            return np.zeros(self._size), 0.0
        return std * self._unit, log_density - self._size * math.log(std)

    def draw_each(self, std: np.ndarray, correlation: float) -> tuple[np.ndarray, float]:
        """Draw as :meth:`draw`, with a positive standard deviation (size,) for each component."""
        log_density = self._advance(correlation)
        return std * self._unit, log_density - float(np.log(std).sum())

    def _advance(self, correlation: float) -> float:
        """Go on to the next step of the unit process; give the log density of that, nat."""
        fresh = self._rng.standard_normal(self._size)
        share = 1.0 if self._first else math.sqrt(1.0 - correlation * correlation)
        self._unit = fresh if self._first else correlation * self._unit + share * fresh
        self._first = False
        return (-0.5 * float(fresh @ fresh)
                - self._size * (math.log(share) + 0.5 * math.log(2.0 * math.pi)))


def log_slope_of_tanh(x: np.ndarray) -> float:
    """Give ln |d tanh(x) / dx|, summed over the components, without a loss where it is small.

    ln(1 - tanh(x)^2) = 2 (ln 2 - |x| - ln(1 + exp(-2 |x|))), as in appendix C of Haarnoja et al.
    2018.
    """
    distance = np.abs(x)
    return 2.0 * float((math.log(2.0) - distance - np.log1p(np.exp(-2.0 * distance))).sum())
