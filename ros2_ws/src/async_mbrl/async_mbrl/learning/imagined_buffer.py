"""Imagined transitions: the newest of them, as an off-policy algorithm draws them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from async_mbrl.learning.buffer import Samples


class ImaginedBuffer(nn.Module):
    """Transitions first in, first out, in no order of episodes; part of the checkpoint."""

    rows: torch.Tensor
    taken: torch.Tensor
    """How many have ever been taken, (), on the host."""

    def __init__(self, capacity: int, task: Any) -> None:
        """Make an empty buffer that keeps up to ``capacity`` transitions of a task."""
        super().__init__()
        self._sizes = [task.observation_size, task.action_size, task.observation_size, 1, 1]
        self.register_buffer('rows', torch.zeros(capacity, sum(self._sizes)))
        self.register_buffer('taken', torch.zeros((), dtype=torch.long, device='cpu'))

    def __len__(self) -> int:
        return min(int(self.taken), len(self.rows))

    def append(self, samples: Samples) -> None:
        """Add transitions (count, ...); of more than fit only the last ones are kept."""
        added = torch.cat([samples.observation, samples.action, samples.next_observation,
                           samples.reward[:, None], samples.terminated[:, None]], 1)
        first = int(self.taken) + max(0, len(added) - len(self.rows))
        last = int(self.taken) + len(added)
        places = torch.arange(first, last, device=added.device) % len(self.rows)
        self.rows[places] = added[len(added) - (last - first):]
        self.taken.fill_(last)

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """Draw transitions (count, ...), each as likely as another."""
        chosen = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        observation, action, following, reward, terminated = self.rows[chosen].split(
            self._sizes, 1)
        return Samples(observation, action, following, reward.squeeze(1), terminated.squeeze(1))
