"""Settings of a step within a trust region."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import param


@dataclass(frozen=True)
class TrustRegionConfig:
    """Bound of the step, conjugate gradients and line search."""

    divergence: float = param('greatest Kullback-Leibler divergence of a step, averaged over the '
                              'imagined states, nat', 0.01, minimum=1e-8, maximum=10.0)
    damping: float = param('added to the diagonal of the curvature', 1e-3, minimum=0.0)
    curvature_stride: int = param('every how many steps of the imagined rollouts are looked at for '
                                  'the curvature; the bound and the line search look at all', 1,
                                  minimum=1, maximum=1000)
    iterations: int = param('of conjugate gradients', 10, minimum=1, maximum=1000)
    shrink: float = param('factor that shortens a step which does not improve or goes too far', 0.8,
                          minimum=0.01, maximum=0.99)
    backtracks: int = param('lengths tried before the step is given up', 15, minimum=1,
                            maximum=1000)
