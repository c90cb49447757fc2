"""Gaussians with a diagonal covariance: log density, divergence, and policies that are one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.settings.imagined import ImaginedConfig


class GaussianPolicy(Policy):
    """A policy with a learned standard deviation in imagination.

    On the robot it acts by the same one if its network says so, else by one that is given.
    """

    def __init__(self, network: PolicyNetworkConfig, task: Any, generator: torch.Generator,
                 config: ImaginedConfig) -> None:
        """Build the network for a task."""
        super().__init__(network, task, generator, config.initial_log_std)
        self._bounds = config.least_log_std, config.greatest_log_std
        if not network.stochastic:
            self.log_std = nn.Parameter(torch.full((task.action_size,), config.initial_log_std))

    def learned(self) -> list[nn.Parameter]:
        """Give what is learned: the parameters of the network, then ``log_std``."""
        return [*self.network.parameters(), self.log_std]

    @torch.no_grad()
    def bound(self) -> None:
        """Bring ``log_std`` back between its floor and its ceiling."""
        self.log_std.clamp_(*self._bounds)


def log_density(action: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log density (...) of actions (..., n), nat, but for the constant -n/2 ln(2 pi)."""
    deviation = (action - mean) * (-log_std).exp()
    return (-0.5 * deviation.square() - log_std).sum(-1)


def divergence(mean: torch.Tensor, log_std: torch.Tensor, other_mean: torch.Tensor,
               other_log_std: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence (...) of the other Gaussian from the first one, nat.

    KL(p || q) = ln(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2, summed over components.
    """
    change = other_log_std - log_std
    # expm1: the divergence is a small difference of numbers near 1, lost in single precision.
    return (change + 0.5 * torch.expm1(-2.0 * change)
            + 0.5 * ((mean - other_mean) * (-other_log_std).exp()).square()).sum(-1)


def clipped_log_density(action: torch.Tensor, mean: torch.Tensor,
                        log_std: torch.Tensor) -> torch.Tensor:
    """Log density (...) of actions (..., n) that were clipped to [-1, 1] after they were drawn.

    Inside it is that of the Gaussian; at -1 and 1 it is the logarithm of the probability of all
    that lies beyond, so that ratios are exact although what was drawn is not known (Fujita and
    Maeda 2018).
    """
    inside = (-0.5 * ((action - mean) * (-log_std).exp()).square() - log_std
              - 0.5 * math.log(2.0 * math.pi))
    below = torch.special.log_ndtr((-1.0 - mean) * (-log_std).exp())
    above = torch.special.log_ndtr((mean - 1.0) * (-log_std).exp())
    return torch.where(action <= -1.0, below, torch.where(action >= 1.0, above, inside)).sum(-1)
