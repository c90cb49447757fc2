"""All members of an ensemble as one network with a leading member axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from async_mbrl.learning.product import (
    batched_perceptrons,
    member_perceptrons,
    onednn_perceptrons,
)

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Weights (members, inputs, outputs) and biases (members, 1, outputs) of each layer."""


def _small(members: int, sizes: Sequence[int], generator: torch.Generator) -> Layers:
    layers = [(torch.randn(members, inputs, outputs, generator=generator) / math.sqrt(inputs),
               torch.zeros(members, 1, outputs)) for inputs, outputs in pairwise(sizes)]
    layers[-1][0].mul_(0.1)
    return layers


def _uniform(members: int, sizes: Sequence[int], generator: torch.Generator) -> Layers:
    def drawn(rows: int, inputs: int, outputs: int) -> torch.Tensor:
        number = torch.rand(members, rows, outputs, generator=generator)
        return (2.0 * number - 1.0) / math.sqrt(inputs)

    return [(drawn(inputs, inputs, outputs), drawn(1, inputs, outputs))
            for inputs, outputs in pairwise(sizes)]


_INITIAL = {'small': _small, 'uniform': _uniform}


class Ensemble(nn.Module):
    """Independent multi-layer perceptrons, evaluated side by side.

    The members share each layer's product by ``baddbmm``, which is best where networks and batches
    are small, or each has its own: by torch's product, which is best where batches are large, or
    by oneDNN, which is best where networks are large and the processor has more than MKL uses
    (``python benchmarks/model_speed.py`` compares the first and the last).
    """

    def __init__(self, members: int, sizes: Sequence[int], activation: str,
                 generator: torch.Generator, *, initial: str = 'small', product: str = 'batched',
                 numbers: torch.dtype = torch.float32) -> None:
        """Draw the weights.

        Args:
            members: number of networks.
            sizes: inputs, units of each hidden layer, outputs.
            activation: a key of :data:`async_mbrl.learning.network.ACTIVATIONS`.
            generator: draws the initial weights.
            initial: ``small``: weights are normal with standard deviation 1 / sqrt(inputs of the
                layer), a tenth of it in the last layer, biases 0, so that the outputs are small at
                first; or ``uniform``: both are uniform in +- 1 / sqrt(inputs of the layer), as
                :class:`torch.nn.Linear` begins.
            product: ``batched`` or ``onednn`` (see :func:`~.product.choose_product`), or
                ``members`` (see :func:`~.product.member_perceptrons`). Both of the latter are for
                the CPU, oneDNN's for 32-bit floats; all else is batched then.
            numbers: that hidden layers are multiplied in (see :func:`~.product.choose_numbers`).
        """
        super().__init__()
        self.product = product
        self.numbers = numbers
        self._activation = activation
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for weights, biases in _INITIAL[initial](members, sizes, generator):
            self.weights.append(nn.Parameter(weights))
            self.biases.append(nn.Parameter(biases))
        self._parts = (list(self.weights), list(self.biases))

    def forward(self, x: torch.Tensor, members: torch.Tensor | None = None) -> torch.Tensor:
        """Map (members, rows, inputs) to (members, rows, outputs).

        Args:
            x: inputs.
            members: indices of the members that they are for; None for all.
        """
        weights, biases = self._parts
        if members is not None:
            weights, biases = ([each[members] for each in part] for part in self._parts)
        on_cpu = x.device.type == 'cpu'
        if self.product == 'members' and on_cpu:
            return member_perceptrons(self._activation, x, weights, biases, self.numbers)
        if self.product == 'onednn' and self.numbers == x.dtype == torch.float32 and on_cpu:
            return onednn_perceptrons(self._activation, x, weights, biases)
        return batched_perceptrons(self._activation, x, weights, biases, self.numbers)

    @torch.no_grad()
    def keep_rounded(self) -> None:
        """Keep hidden layers in the numbers they are multiplied in: nothing is learned here."""
        for parameter in (*self.weights[:-1], *self.biases[:-1]):
            parameter.data = parameter.data.to(self.numbers)
