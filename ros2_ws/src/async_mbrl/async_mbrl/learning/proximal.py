"""The clipped objective of proximal policy optimisation."""

from __future__ import annotations

import torch


def clipped_loss(log_density_now: torch.Tensor, log_density_then: torch.Tensor,
                 advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Give minus the clipped objective of Schulman et al. 2017, equation 7; shapes are equal."""
    ratio = (log_density_now - log_density_then).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.min(ratio * advantages, clipped * advantages).mean()
