"""Exploration: noise on the policy's mean that is correlated from step to step."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

COLOR_ORDER = 32
"""Steps back that coloured noise is predicted from: its autocovariance is exact as far as that."""

COLOR_PERIOD = 1024
"""Steps of the slowest oscillation of coloured noise; below that its spectrum is flat."""


@dataclass(frozen=True, eq=False)
class NoiseProcess:
    """A stationary Gaussian process of variance 1, as the best prediction of each next step.

    Given m values before it, a step is normal around ``coefficients[m] @ values`` with standard
    deviation ``deviations[m]``. Later steps of a sequence are predicted from the ``order`` newest
    values only, earlier ones from all, so that each has variance 1, the first one included.

    Attributes:
        coefficients: for m from 0 to ``order``, each (m,), of the oldest value first.
        deviations: for m from 0 to ``order``.
    """

    coefficients: tuple[np.ndarray, ...]
    deviations: tuple[float, ...]

    @property
    def order(self) -> int:
        """Values before a step that it is predicted from at most."""
        return len(self.coefficients) - 1


@functools.lru_cache(maxsize=16)
def noise_process(correlation: float, color: float) -> NoiseProcess:
    """Give the process of a first-order autoregression, or of a colour where that is not 0.

    Args:
        correlation: coefficient from one step to the next, in [0, 1).
        color: exponent beta of a power spectrum proportional to 1 / f^beta, from 0 to 2.

    A colour that was not asked for before costs about a millisecond.
    """
    if color == 0.0:
        return NoiseProcess((np.zeros(0), np.array([correlation])),
                            (1.0, math.sqrt(1.0 - correlation * correlation)))
    return _predicted(color_autocovariance(color)[:COLOR_ORDER + 1])


def color_autocovariance(color: float) -> np.ndarray:
    """Give the autocovariance (COLOR_PERIOD,) of coloured noise of variance 1, by lag.

    It is that of the noise of Eberhard et al. 2023, "Pink noise is all you need", of which they
    draw a period of COLOR_PERIOD steps at once.
    """
    frequency = np.fft.rfftfreq(COLOR_PERIOD)
    covariance = np.fft.irfft(np.maximum(frequency, 1.0 / COLOR_PERIOD) ** -color)
    return covariance / covariance[0]


def _predicted(covariance: np.ndarray) -> NoiseProcess:
    """Give the predictions of all orders for an autocovariance (order + 1,), 1 at lag 0.

    The recursion of Levinson and Durbin (Brockwell and Davis 1991, proposition 5.2.1).
    """
    newest_first, variance = np.zeros(0), 1.0
    coefficients, deviations = [newest_first], [1.0]
    for order in range(1, len(covariance)):
        # What the new value tells beyond those between it and the step.
        reflection = (covariance[order] - newest_first @ covariance[order - 1:0:-1]) / variance
        newest_first = np.append(newest_first - reflection * newest_first[::-1], reflection)
        variance *= 1.0 - reflection * reflection
        coefficients.append(newest_first[::-1].copy())
        deviations.append(math.sqrt(variance))
    return NoiseProcess(tuple(coefficients), tuple(deviations))


class CorrelatedNoise:
    """Gaussian noise of a chosen process and stationary standard deviation, drawn step by step.

    The process, of variance 1, is kept apart from its scale, so that the scale may change with the
    policy in the middle of an episode. If the process changes there, the newest value is the first
    one of the new process: the noise does not jump, and keeps its standard deviation.
    """

    def __init__(self, size: int) -> None:
        """Prepare noise for actions of ``size`` components."""
        self._size = size
        self._rng = np.random.default_rng(0)
        self._process = noise_process(0.0, 0.0)
        # Each value stands twice, so that the newest ones always lie side by side.
        self._past = np.zeros((2 * COLOR_ORDER, size))
        self._newest = 0
        self._known = 0

    def restart(self, seed: int) -> None:
        """Begin a new, independent sequence that the seed determines."""
        self._rng = np.random.default_rng(seed)
        self._known = 0

    def draw(self, std: float, process: NoiseProcess) -> tuple[np.ndarray, float]:
        """Draw the noise of the next step.

        Args:
            std: stationary standard deviation, normalised action; 0 gives no noise.
            process: from :func:`noise_process`.

        Returns:
            The noise (size,) and its log density given the noise of the steps before, nat; 0 where
            there is no noise, as no density exists.
        """
        unit, log_density = self._advance(process)
        if std <= 0.0:
            return np.zeros(self._size), 0.0
        return std * unit, log_density - self._size * math.log(std)

    def draw_each(self, std: np.ndarray, process: NoiseProcess) -> tuple[np.ndarray, float]:
        """Draw as :meth:`draw`, with a positive standard deviation (size,) for each component."""
        unit, log_density = self._advance(process)
        return std * unit, log_density - float(np.log(std).sum())

    def _advance(self, process: NoiseProcess) -> tuple[np.ndarray, float]:
        """Go on to the next step of the unit process; give it and the log density of it, nat."""
        if process is not self._process:
            self._process, self._known = process, min(self._known, 1)
        order = min(self._known, process.order)
        end = self._newest + COLOR_ORDER + 1
        fresh = self._rng.standard_normal(self._size)
        deviation = process.deviations[order]
        unit = process.coefficients[order] @ self._past[end - order:end] + deviation * fresh
        self._newest = (self._newest + 1) % COLOR_ORDER
        self._past[self._newest] = self._past[self._newest + COLOR_ORDER] = unit
        self._known += 1
        return unit, (-0.5 * float(fresh @ fresh)
                      - self._size * (math.log(deviation) + 0.5 * math.log(2.0 * math.pi)))


def log_slope_of_tanh(x: np.ndarray) -> float:
    """Give ln |d tanh(x) / dx|, summed over the components, without a loss where it is small.

    ln(1 - tanh(x)^2) = 2 (ln 2 - |x| - ln(1 + exp(-2 |x|))), as in appendix C of Haarnoja et al.
    2018.
    """
    distance = np.abs(x)
    return 2.0 * float((math.log(2.0) - distance - np.log1p(np.exp(-2.0 * distance))).sum())
