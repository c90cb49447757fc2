"""Mean, spread and range of the data seen so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from async_mbrl.learning.buffer import TransitionBuffer

LEAST_STATE_STD = 1e-2
"""Floor of the spread of a state component: one that hardly moved yet must not be blown up."""
LEAST_DELTA_STD = 1e-4
"""Floor of the spread of a change over one step."""
REFRESH_SHARE = 0.01
"""Statistics are taken anew once the data have grown by this share: their cost per transition does
not grow with the data."""


@dataclass(frozen=True)
class Statistics:
    """Statistics (state_size,) of the transitions in a buffer."""

    state_mean: torch.Tensor
    state_std: torch.Tensor
    delta_mean: torch.Tensor
    delta_std: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor


def statistics(buffer: TransitionBuffer, margin: float) -> Statistics:
    """Describe the data of a buffer with at least two transitions.

    Args:
        buffer: the transitions.
        margin: the range is widened to both sides by this many standard deviations.
    """
    states, next_states = buffer.states, buffer.next_states
    delta = next_states - states
    std = next_states.std(0)
    return Statistics(
        state_mean=states.mean(0), state_std=states.std(0).clamp_min(LEAST_STATE_STD),
        delta_mean=delta.mean(0), delta_std=delta.std(0).clamp_min(LEAST_DELTA_STD),
        lower=next_states.amin(0) - margin * std, upper=next_states.amax(0) + margin * std)


class StatisticsRefresh:
    """Take statistics of a buffer again when enough has come, which at first is always."""

    def __init__(self, margin: float) -> None:
        """Widen ranges by ``margin`` standard deviations (see :func:`statistics`)."""
        self._margin = margin
        self._taken_at = 0

    def due(self, buffer: TransitionBuffer) -> Statistics | None:
        """Give new statistics if they are due, else None."""
        new = buffer.next_number - self._taken_at
        if len(buffer) < 2 or new < REFRESH_SHARE * len(buffer):
            return None
        self._taken_at = buffer.next_number
        return statistics(buffer, self._margin)
