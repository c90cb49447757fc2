"""Where a long update lets its learner look at what has arrived."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

STAGE = 1e9
"""Multiplications after which an update yields. One core of 2020 does them in about a tenth of a
second; that no clock is asked makes runs repeatable."""

FORWARD_AND_BACKWARD = 3
"""Multiplications of a gradient in those of what is differentiated."""


class Workload:
    """Counts multiplications; an update yields whenever it has done enough for a while."""

    def __init__(self) -> None:
        """Begin an update."""
        self._done = 0.0

    def add(self, multiplications: float) -> Iterator[None]:
        """Account for work that has been done; yield once if that makes a stage complete."""
        self._done += multiplications
        if self._done >= STAGE:
            self._done = 0.0
            yield


def multiplications(network: nn.Module) -> int:
    """Count the multiplications of one row through fully connected layers."""
    return sum(parameter.numel() for parameter in network.parameters())
