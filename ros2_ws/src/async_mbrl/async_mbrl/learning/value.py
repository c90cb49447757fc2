"""The value of a state under a policy, and the targets it is learned from."""

from __future__ import annotations

from typing import Any

import torch

from async_mbrl.learning.buffer import Samples
from async_mbrl.learning.network import Mlp
from async_mbrl.learning.settings.imagined import BaselineConfig


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


def advantages_of_episodes(samples: Samples, ended: torch.Tensor, values: torch.Tensor,
                           next_values: torch.Tensor, discount: float,
                           trace: float) -> torch.Tensor:
    """Give generalised advantages (rows,) of transitions of the robot in the order of time.

    A_t = d_t + discount trace A_{t+1} within an episode, with
    d_t = r_t + discount v(s'_t) - v(s_t); nothing follows where the task has ended by itself, and
    an episode that was cut short is taken to go on as the value says (Schulman et al. 2016).

    Args:
        samples: the transitions.
        ended: (rows,), after which the episode was over, for whatever reason.
        values: (rows,) of the observations.
        next_values: (rows,) of the next ones.
        discount: of the return.
        trace: lambda.
    """
    change = samples.reward + discount * (1.0 - samples.terminated) * next_values - values
    go_on = discount * trace * (~ended).float()
    result = torch.empty_like(change)
    following = change.new_zeros(())
    for row in reversed(range(len(change))):
        following = change[row] + go_on[row] * following
        result[row] = following
    return result


def make_value(config: BaselineConfig, task: Any,
               generator: torch.Generator) -> ValueNetwork | None:
    """Build the value network that settings ask for; None if the baseline is none."""
    if config.baseline != 'network':
        return None
    return ValueNetwork((task.feature_size, *config.value_hidden, 1), config.value_activation,
                        generator)


def value_identity(config: BaselineConfig) -> dict[str, Any]:
    """Give the settings that a value network of a checkpoint must have been made with."""
    if config.baseline != 'network':
        return {'baseline': config.baseline}
    return {'baseline': config.baseline, 'value_hidden': list(config.value_hidden)}
