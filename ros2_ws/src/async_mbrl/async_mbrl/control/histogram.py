"""Histograms of durations in a fixed number of words, which may lie in shared memory."""

from __future__ import annotations

import math
from collections.abc import MutableSequence

_PER_DECADE = 100
_DECADES = 7
_LEAST_S = 1e-6

BINS = _PER_DECADE * _DECADES + 1
"""Words of a histogram: from 1 us to 10 s in steps of 2.3 %."""


def record(bins: MutableSequence[int] | memoryview, duration_s: float) -> None:
    """Count one duration."""
    if duration_s <= _LEAST_S:
        bins[0] += 1
        return
    index = int(math.log10(duration_s / _LEAST_S) * _PER_DECADE) + 1
    bins[index if index < BINS else BINS - 1] += 1


def percentiles(bins: MutableSequence[int] | memoryview, shares: tuple[float, ...]) -> list[float]:
    """Give the durations, s, below which shares of the counted ones lie; 0 without any."""
    counts = list(bins)
    total = sum(counts)
    if total == 0:
        return [0.0] * len(shares)
    found = []
    for share in shares:
        wanted, seen = share * total, 0
        for index, count in enumerate(counts):
            seen += count
            if seen >= wanted:
                # The upper edge of the bin: never better than it was.
                found.append(_LEAST_S * 10.0 ** (index / _PER_DECADE))
                break
    return found
