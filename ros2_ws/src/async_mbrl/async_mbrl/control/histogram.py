"""Histograms of durations in a fixed number of words, which may lie in shared memory."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import MutableSequence

_PER_DECADE = 100
_DECADES = 9
_LEAST_S = 1e-6

BINS = _PER_DECADE * _DECADES + 1
"""Words of a histogram: from 1 us to 1000 s in steps of 2.3 %."""


def record(bins: MutableSequence[int] | memoryview, duration_s: float) -> None:
    """Count one duration."""
    if duration_s <= _LEAST_S:
        bins[0] += 1
        return
    index = int(math.log10(duration_s / _LEAST_S) * _PER_DECADE) + 1
    bins[index if index < BINS else BINS - 1] += 1


def percentiles(bins: MutableSequence[int] | memoryview, shares: tuple[float, ...]) -> list[float]:
    """Give the durations, s, below which shares of the counted ones lie; 0 without any."""
    seen = list(itertools.accumulate(bins))
    if seen[-1] == 0:
        return [0.0] * len(shares)
    # The upper edge of the bin: never better than it was.
    return [_LEAST_S * 10.0 ** (bisect.bisect_left(seen, share * seen[-1]) / _PER_DECADE)
            for share in shares]


class Histogram:
    """Distribution of durations in constant memory, the longest of them exact."""

    def __init__(self) -> None:
        """Start without any duration."""
        self._bins = [0] * BINS
        self.maximum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration."""
        record(self._bins, duration_s)
        self.maximum_s = max(self.maximum_s, duration_s)

    def percentiles_s(self, shares: tuple[float, ...]) -> list[float]:
        """Give the durations, s, below which shares of the counted ones lie; 0 without any."""
        return [min(found, self.maximum_s) for found in percentiles(self._bins, shares)]
