"""Multi-layer perceptrons whose initial weights come from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'tanh': torch.tanh, 'silu': nn.functional.silu, 'relu': torch.relu}


class Mlp(nn.Module):
    """Fully connected layers, linear at the end."""

    def __init__(self, sizes: Sequence[int], activation: str, generator: torch.Generator,
                 output_scale: float = 0.1, numbers: torch.dtype = torch.float32) -> None:
        """Draw the weights.

        Args:
            sizes: inputs, units of each hidden layer, outputs.
            activation: a key of :data:`ACTIVATIONS`, between layers.
            generator: draws the initial weights, uniform in +- 1 / sqrt(inputs of the layer).
            output_scale: the weights of the last layer are scaled by it, its bias begins at 0.
            numbers: that hidden layers are multiplied in, if other ones than those of the inputs
                (see :func:`~.product.batched_perceptrons`).
        """
        super().__init__()
        self._numbers = numbers
        self._activation = ACTIVATIONS[activation]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            bound = 1.0 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(
                (2.0 * torch.rand(outputs, inputs, generator=generator) - 1.0) * bound))
            self.biases.append(nn.Parameter(
                (2.0 * torch.rand(outputs, generator=generator) - 1.0) * bound))
        with torch.no_grad():
            self.weights[-1].mul_(output_scale)
            self.biases[-1].zero_()
        self._layers = list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        hidden = x.dtype if self._numbers == torch.float32 else self._numbers
        h = x.to(hidden)
        for weight, bias in self._layers[:-1]:
            h = self._activation(nn.functional.linear(h, weight.to(hidden), bias.to(hidden)))
        weight, bias = self._layers[-1]
        return nn.functional.linear(h.to(x.dtype), weight, bias)

    def side_by_side(self, parameters: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Map by several networks of this shape with parameters of their own.

        Args:
            parameters: as :meth:`parameters` gives them, each with a leading axis (networks, ...).
            x: (networks, rows, inputs).

        Returns:
            (networks, rows, outputs).
        """
        layers = len(self._layers)
        for index, (weight, bias) in enumerate(zip(parameters[:layers], parameters[layers:],
                                                   strict=True)):
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            if index < layers - 1:
                x = self._activation(x)
        return x
