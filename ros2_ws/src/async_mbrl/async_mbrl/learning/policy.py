"""The policy network in torch; :mod:`async_mbrl.control.policy` runs the same in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from async_mbrl.core.network import (
    LOG_STD_RANGE,
    PolicyNetworkConfig,
    log_std_between,
    policy_architecture,
)
from async_mbrl.learning.network import Mlp

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Policy(nn.Module):
    """From an observation to the mean of a normalised action, or to a distribution.

    A new policy has mean 0 everywhere: only exploration moves the arm at first.
    """

    log_std: nn.Parameter
    """(action_size,), of a state-independent distribution; others have none."""
    state_mean: torch.Tensor
    state_std: torch.Tensor

    def __init__(self, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator, initial_log_std: float = 0.0,
                 numbers: torch.dtype = torch.float32) -> None:
        """Build the network for a task.

        Args:
            network: its shape, and which distribution it has.
            task: see :mod:`async_mbrl.tasks`.
            generator: draws the initial weights.
            initial_log_std: logarithm of the standard deviation at first, where that is learned.
            numbers: that hidden layers are multiplied in while it is learned; on the robot it is
                always float32.
        """
        super().__init__()
        self.architecture = policy_architecture(network, task)
        self._task = task
        self._distribution = network.distribution
        self._squash_name = network.squash
        self._squash = torch.tanh if network.squash == 'tanh' else _clip
        self._actions = task.action_size
        self.network = Mlp(self.architecture['sizes'], network.activation, generator,
                           output_scale=0.0, numbers=numbers)
        if network.distribution == 'state_independent':
            self.log_std = nn.Parameter(torch.full((task.action_size,), initial_log_std))
        elif network.distribution == 'state_dependent':
            with torch.no_grad():
                self.network.biases[-1][task.action_size:] = output_of_log_std(initial_log_std)
        self.register_buffer('state_mean', torch.zeros(task.state_size))
        self.register_buffer('state_std', torch.ones(task.state_size))

    def features(self, observation: torch.Tensor) -> torch.Tensor:
        """Features (..., feature_size) of observations (..., observation_size)."""
        return self._task.features(torch, observation, self.state_mean, self.state_std)

    def unsquashed(self, features: torch.Tensor) -> torch.Tensor:
        """Mean (..., action_size) before it is brought into [-1, 1]."""
        return self._mean_of(self.network(features))

    def mean(self, features: torch.Tensor) -> torch.Tensor:
        """Mean action (..., action_size) in [-1, 1]."""
        return self._squash(self.unsquashed(features))

    def perturbed_means(self, features: torch.Tensor, noise: Sequence[torch.Tensor],
                        std: float) -> torch.Tensor:
        """Mean actions of several policies, each of which has noise on its weights and biases.

        Args:
            features: (rows, feature_size).
            noise: for each parameter of the network, with a leading axis (policies, ...).
            std: what the noise is multiplied by.

        Returns:
            (policies, rows, action_size), in [-1, 1].
        """
        parameters = [parameter + std * each for parameter, each
                      in zip(self.network.parameters(), noise, strict=True)]
        output = self.network.side_by_side(parameters,
                                           features.expand(len(noise[0]), *features.shape))
        return self._squash(self._mean_of(output))

    def distribution(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the Gaussian that actions are drawn from, before they are brought into [-1, 1].

        Args:
            features: (..., feature_size).

        Returns:
            Its mean (..., action_size) and the logarithm of its standard deviation, (...,
            action_size) or, where that is the same in all states, (action_size,).

        Raises:
            ValueError: the policy has no standard deviation of its own.
        """
        if self._distribution == 'given':
            raise ValueError('this policy has no standard deviation of its own')
        output = self.network(features)
        if self._distribution == 'state_independent':
            return self._mean_of(output), self.log_std.clamp(*LOG_STD_RANGE)
        return self._mean_of(output), log_std_between(torch, output[..., self._actions:])

    def sample(self, features: torch.Tensor,
               noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions from its own distribution, differentiably.

        Args:
            features: (..., feature_size).
            noise: (..., action_size), standard normal.

        Returns:
            Actions (..., action_size) in [-1, 1], and the log density (...), nat: of the action
            where it is squashed by a hyperbolic tangent (Haarnoja et al. 2018, appendix C), else of
            what was drawn before it was clipped.
        """
        mean, log_std = self.distribution(features)
        drawn = mean + log_std.exp() * noise
        log_density = (-0.5 * noise.square() - log_std - HALF_LOG_TWO_PI).sum(-1)
        if self._squash_name == 'tanh':
            log_density = log_density - log_slope_of_tanh(drawn).sum(-1)
        return self._squash(drawn), log_density

    def _mean_of(self, output: torch.Tensor) -> torch.Tensor:
        mean = output if self._distribution != 'state_dependent' else output[..., :self._actions]
        return torch.tanh(mean) if self._squash_name == 'tanh_mean' else mean

    def normalise(self, state_mean: torch.Tensor, state_std: torch.Tensor) -> None:
        """Take over the statistics of the states seen."""
        self.state_mean.copy_(state_mean)
        self.state_std.copy_(state_std)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the tensors of a snapshot, named as the architecture says, as copies."""
        named = {'state_mean': self.state_mean, 'state_std': self.state_std}
        if self._distribution == 'state_independent':
            named['log_std'] = self.log_std
        for index, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases,
                                                   strict=True)):
            named[f'layer{index}.weight'] = weight
            named[f'layer{index}.bias'] = bias
        return {name: value.detach().cpu().numpy().copy() for name, value in named.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over the tensors of a snapshot of the same architecture."""
        self.state_mean.copy_(torch.from_numpy(np.array(tensors['state_mean'])))
        self.state_std.copy_(torch.from_numpy(np.array(tensors['state_std'])))
        for index, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases,
                                                   strict=True)):
            weight.copy_(torch.from_numpy(np.array(tensors[f'layer{index}.weight'])))
            bias.copy_(torch.from_numpy(np.array(tensors[f'layer{index}.bias'])))
        if self._distribution == 'state_independent':
            self.log_std.copy_(torch.from_numpy(np.array(tensors['log_std'])))


def log_slope_of_tanh(x: torch.Tensor) -> torch.Tensor:
    """Give ln |d tanh(x) / dx| (...), elementwise, without a loss where it is small."""
    return 2.0 * (math.log(2.0) - x - nn.functional.softplus(-2.0 * x))


def output_of_log_std(log_std: float) -> float:
    """Give the output of a network that :func:`log_std_between` makes a log-std of."""
    low, high = LOG_STD_RANGE
    return math.atanh(2.0 * (log_std - low) / (high - low) - 1.0)


def _clip(action: torch.Tensor) -> torch.Tensor:
    return action.clamp(-1.0, 1.0)
