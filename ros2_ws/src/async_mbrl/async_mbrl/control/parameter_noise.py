"""Noise on the weights of a policy, the same throughout an episode (Plappert et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWN_AT_ONCE = 4096
"""Numbers drawn in one tick, about 40 microseconds; 0.7 ms for all of a network of 2 x 256."""

_STREAM = 1
"""Keeps this noise apart from that on the actions, which has the same seed."""


class ParameterNoise:
    """One standard normal number for each weight and bias that the mean of a policy depends on.

    Its scale comes with each policy. That of a policy which takes over in the middle of an episode
    is put on the same numbers, so that the behaviour goes on.
    """

    def __init__(self, sizes: Sequence[int], actions: int) -> None:
        """Prepare for a network.

        Args:
            sizes: inputs, units of each hidden layer, outputs.
            actions: outputs, from the first one, that are the mean; the others stay as they are,
                but for what the hidden layers do to them.
        """
        shapes = [shape for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
                  for shape in ((outputs, inputs), (outputs,))]
        self._flat = np.zeros(sum(int(np.prod(shape)) for shape in shapes), np.float32)
        tensors, begin = [], 0
        for shape in shapes:
            end = begin + int(np.prod(shape))
            tensors.append(self._flat[begin:end].reshape(shape))
            begin = end
        self.weights = tuple(tensors[::2])
        """(outputs, inputs) of each layer, float32."""
        self.biases = tuple(tensors[1::2])
        """(outputs,) of each layer, float32."""
        self._others = self.weights[-1][actions:], self.biases[-1][actions:]
        self._rng: np.random.Generator | None = None
        self._drawn = 0

    def restart(self, seed: int | None) -> None:
        """Begin an episode, whose noise the seed determines; None: one without noise."""
        self._rng = None if seed is None else np.random.default_rng([seed, _STREAM])
        self._drawn = 0

    @property
    def complete(self) -> bool:
        """Whether the episode has noise, and all of it is drawn."""
        return self._rng is not None and self._drawn == len(self._flat)

    def draw(self, most: int = DRAWN_AT_ONCE) -> None:
        """Draw so many further numbers, at most; together they are the same however few at once."""
        begin, end = self._drawn, min(self._drawn + most, len(self._flat))
        if self._rng is None or begin == end:
            return
        self._rng.standard_normal(dtype=np.float32, out=self._flat[begin:end])
        self._drawn = end
        if end == len(self._flat):
            for tensor in self._others:
                tensor.fill(0.0)

    def finish(self) -> None:
        """Draw all that is missing."""
        self.draw(len(self._flat))
