"""What an algorithm learns from that needs no model."""

from __future__ import annotations

import torch

from async_mbrl.core.snapshot import Version
from async_mbrl.learning.buffer import TransitionBuffer


class Experience:
    """Transitions of the robot, and which of them are of the newest policy."""

    def __init__(self, buffer: TransitionBuffer, generator: torch.Generator) -> None:
        """Learn from a buffer; ``generator`` draws whatever is drawn."""
        self.buffer = buffer
        self.generator = generator
        self.acting_since: Version | None = None
        """First version that the policy was handed out under as it is now; None until it is."""

    def on_policy_rows(self) -> torch.Tensor:
        """Give the rows of the newest policy; see :meth:`TransitionBuffer.rows_of`."""
        if self.acting_since is None:
            return torch.zeros(0, dtype=torch.long)
        return self.buffer.rows_of(self.acting_since)

    def complete(self, count: int) -> bool:
        """Say whether so many transitions of whole episodes by the newest policy are there."""
        rows = self.on_policy_rows()
        return len(rows) >= max(1, count) and bool(self.buffer.ended(rows[-1:]))
