"""The policy network in torch; :mod:`async_mbrl.control.policy` runs the same in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.learning.network import Mlp


class Policy(nn.Module):
    """From an observation to the mean of a normalised action.

    A new policy has mean 0 everywhere: only exploration moves the arm at first.
    """

    state_mean: torch.Tensor
    state_std: torch.Tensor

    def __init__(self, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build the network for a task."""
        super().__init__()
        self.architecture = policy_architecture(network, task)
        self._task = task
        self._squash = torch.tanh if network.squash == 'tanh' else _clip
        self.network = Mlp(self.architecture['sizes'], network.activation, generator,
                           output_scale=0.0)
        self.register_buffer('state_mean', torch.zeros(task.state_size))
        self.register_buffer('state_std', torch.ones(task.state_size))

    def features(self, observation: torch.Tensor) -> torch.Tensor:
        """Features (..., feature_size) of observations (..., observation_size)."""
        return self._task.features(torch, observation, self.state_mean, self.state_std)

    def unsquashed(self, features: torch.Tensor) -> torch.Tensor:
        """Output (..., action_size) of the network, before it is brought into [-1, 1]."""
        return self.network(features)

    def mean(self, features: torch.Tensor) -> torch.Tensor:
        """Mean action (..., action_size) in [-1, 1]."""
        return self._squash(self.network(features))

    def normalise(self, state_mean: torch.Tensor, state_std: torch.Tensor) -> None:
        """Take over the statistics of the states seen."""
        self.state_mean.copy_(state_mean)
        self.state_std.copy_(state_std)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the tensors of a snapshot, named as the architecture says, as copies."""
        named = {'state_mean': self.state_mean, 'state_std': self.state_std}
        for index, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases,
                                                   strict=True)):
            named[f'layer{index}.weight'] = weight
            named[f'layer{index}.bias'] = bias
        return {name: value.detach().numpy().copy() for name, value in named.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over the tensors of a snapshot of the same architecture."""
        self.state_mean.copy_(torch.from_numpy(np.array(tensors['state_mean'])))
        self.state_std.copy_(torch.from_numpy(np.array(tensors['state_std'])))
        for index, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases,
                                                   strict=True)):
            weight.copy_(torch.from_numpy(np.array(tensors[f'layer{index}.weight'])))
            bias.copy_(torch.from_numpy(np.array(tensors[f'layer{index}.bias'])))


def _clip(action: torch.Tensor) -> torch.Tensor:
    return action.clamp(-1.0, 1.0)
