"""One step of trust region policy optimisation (Schulman et al. 2015).

Minimise a loss subject to a bound on a divergence. The step goes along the natural gradient, as far
as the divergence allows to second order, and is shortened until loss and divergence agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from async_mbrl.learning.conjugate_gradient import conjugate_gradient
from async_mbrl.learning.settings.trust_region import TrustRegionConfig

Evaluate = Callable[[], tuple[torch.Tensor, torch.Tensor]]
"""Gives loss and divergence at the parameters as they are, differentiable if gradients are on."""


@dataclass(frozen=True)
class Step:
    """What became of a step.

    Attributes:
        share: of the whole step; 0 if it was rejected.
        divergence: from the policy before, nat.
        gain: how much lower the loss is.
    """

    share: float
    divergence: float
    gain: float


REJECTED = Step(0.0, 0.0, 0.0)


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put tensors one after the other into a vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


class Curvature:
    """The Hessian of a function of some parameters, by its exact products with vectors."""

    def __init__(self, value: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Differentiate ``value`` once; its graph is kept."""
        self._parameters = parameters
        self._gradient = flat(torch.autograd.grad(value, parameters, create_graph=True))

    def times(self, vector: torch.Tensor) -> torch.Tensor:
        """Give the Hessian times a vector (n,): the gradient of gradient . vector."""
        return flat(torch.autograd.grad(self._gradient @ vector, self._parameters,
                                        retain_graph=True))


def improve(parameters: Sequence[torch.Tensor], evaluate: Evaluate, config: TrustRegionConfig,
            project: Callable[[], None], pause: Callable[[], Iterator[None]],
            curvature_of: Callable[[], torch.Tensor] | None = None
            ) -> Generator[None, None, Step]:
    """Take one step, or none if none is found.

    Args:
        parameters: leaves that are changed in place.
        evaluate: loss and divergence. The divergence and its gradient are 0 to begin with.
        config: bound, damping and line search.
        project: brings the parameters back to where they may be, in place.
        pause: called after each evaluation; yields where the learner may look around.
        curvature_of: gives an estimate of the divergence, of fewer states, that the curvature is
            taken of (as Schulman et al. 2015 did, appendix C), 0 and with a gradient of 0 to begin
            with as well; None: of the divergence itself.
    """
    loss, divergence = evaluate()
    gradient = flat(torch.autograd.grad(loss, parameters, retain_graph=curvature_of is None))
    curvature = Curvature(divergence if curvature_of is None else curvature_of(), parameters)

    def product(vector: torch.Tensor) -> torch.Tensor:
        return curvature.times(vector) + config.damping * vector

    direction = yield from conjugate_gradient(product, -gradient, config.iterations, pause)
    squared = float(direction @ product(direction))
    # Not so where there is nothing to improve, or numbers have become too large.
    if not (0.0 < squared < math.inf):
        return REJECTED
    step = math.sqrt(2.0 * config.divergence / squared) * direction
    return (yield from _search(parameters, step, float(loss.detach()), evaluate, config, project,
                               pause))


def _search(parameters: Sequence[torch.Tensor], step: torch.Tensor, loss: float,
            evaluate: Evaluate, config: TrustRegionConfig, project: Callable[[], None],
            pause: Callable[[], Iterator[None]]) -> Generator[None, None, Step]:
    """Shorten a step until the loss is lower and the divergence within its bound."""
    before = [parameter.detach().clone() for parameter in parameters]
    steps = [part.view_as(parameter) for part, parameter in zip(
        step.split([parameter.numel() for parameter in parameters]), parameters, strict=True)]
    for attempt in range(config.backtracks):
        share = config.shrink ** attempt
        with torch.no_grad():
            for parameter, old, change in zip(parameters, before, steps, strict=True):
                parameter.copy_(old).add_(change, alpha=share)
            project()
            found, divergence = (float(value) for value in evaluate())
        if found < loss and divergence <= config.divergence:
            return Step(share, divergence, loss - found)
        with torch.no_grad():   # whoever looks during a pause sees what was there before
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        yield from pause()
    return REJECTED
