"""Linear equations with a matrix of which only products are known."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch

RESIDUAL = 1e-10
"""Share of the squared norm of the right side below which the rest of it does not matter."""


def conjugate_gradient(product: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor,
                       iterations: int, pause: Callable[[], Iterator[None]]
                       ) -> Generator[None, None, torch.Tensor]:
    """Solve A x = right for a symmetric, positive definite A (Hestenes and Stiefel 1952).

    Args:
        product: gives A v of v (n,).
        right: the right side (n,).
        iterations: products at most.
        pause: called after each product; yields where the learner may look around.

    Returns:
        x (n,), as far as it got.
    """
    solution = torch.zeros_like(right)
    residual, direction = right.clone(), right.clone()
    squared = residual @ residual
    enough = RESIDUAL * squared
    for _ in range(iterations):
        if squared <= enough:
            break
        image = product(direction)
        length = squared / (direction @ image)
        solution += length * direction
        residual -= length * image
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
        yield from pause()
    return solution
