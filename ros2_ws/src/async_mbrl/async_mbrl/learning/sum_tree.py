"""A tree of sums, by which numbers are drawn in proportion to weights that change."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Weights of rows 0, 1, ...; each inner node is the sum of its two children.

    Sums are always taken from the children, never corrected by differences: they do not drift, and
    the same weights give the same tree, to the bit, in whatever order they came.
    """

    def __init__(self) -> None:
        """Begin without weights."""
        self._leaves = 1
        self._nodes = np.zeros(2)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Give the weights of rows."""
        return self._nodes[self._leaves + rows]

    def set(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Set weights (count,), none negative, of rows (count,); of equal rows the last counts."""
        if not len(rows):
            return
        self._grow(int(rows.max()) + 1)
        nodes = self._leaves + rows
        self._nodes[nodes] = weights
        while (nodes := nodes >> 1)[0]:
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, heights: np.ndarray) -> np.ndarray:
        """Give the rows (count,) at heights (count,) of the stack of all weights, from 0 to total.

        A row whose weight is 0 is never given, however sums are rounded.
        """
        nodes, left = np.ones(len(heights), np.int64), heights.astype(float)
        for _ in range(self._leaves.bit_length() - 1):
            nodes *= 2
            below = self._nodes[nodes]
            right = (left >= below) & (self._nodes[nodes + 1] > 0.0) | (below <= 0.0)
            left -= np.where(right, below, 0.0)
            nodes += right
        return nodes - self._leaves

    def _grow(self, rows: int) -> None:
        leaves = self._leaves
        while leaves < rows:
            leaves *= 2
        if leaves == self._leaves:
            return
        level, nodes = self._nodes[self._leaves:], np.zeros(2 * leaves)
        nodes[leaves:leaves + len(level)] = level
        begin = leaves
        while begin > 1:
            children = nodes[begin:2 * begin]
            nodes[begin // 2:begin] = children[::2] + children[1::2]
            begin //= 2
        self._leaves, self._nodes = leaves, nodes
