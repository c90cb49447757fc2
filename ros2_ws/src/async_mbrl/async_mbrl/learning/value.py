"""The value of a state under a policy, and the targets it is learned from."""

from __future__ import annotations

import torch

from async_mbrl.learning.network import Mlp


class ValueNetwork(Mlp):
    """From features (..., feature_size) to a value (...)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the values."""
        return super().forward(x).squeeze(-1)


def lambda_returns(rewards: torch.Tensor, values: torch.Tensor, discount: float,
                   trace: float) -> torch.Tensor:
    """Give lambda returns: R_t = r_t + discount ((1 - trace) v_{t+1} + trace R_{t+1}), R_H = v_H.

    R_t - v_t is the generalised advantage (Schulman et al. 2016).

    Args:
        rewards: (horizon, ...) rewards.
        values: (horizon + 1, ...) values of the states before each step and after the last.
        discount: of the return.
        trace: lambda.

    Returns:
        (horizon, ...) returns.
    """
    one_step = rewards + discount * (1.0 - trace) * values[1:]
    result = torch.empty_like(rewards)
    following = values[-1]
    for step in reversed(range(len(rewards))):
        following = torch.add(one_step[step], following, alpha=discount * trace)
        result[step] = following
    return result
