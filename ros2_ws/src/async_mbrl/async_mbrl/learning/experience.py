"""What an algorithm learns from that needs no model."""

from __future__ import annotations

import torch

from async_mbrl.core.snapshot import Version
from async_mbrl.learning.buffer import Samples, TransitionBuffer, together
from async_mbrl.learning.device import Generators

EVENLY = -1.0
"""The share of offline data in a batch that is their share of all transitions."""


class Experience:
    """Transitions of the robot, offline data beside them, and what is of the newest policy."""

    def __init__(self, buffer: TransitionBuffer, generators: Generators,
                 offline: TransitionBuffer | None = None) -> None:
        """Learn from a buffer, and from offline data, by what the generators draw."""
        self.buffer = buffer
        self.generators = generators
        self.offline = offline
        """Transitions from before the run, if there are any; they count for nothing in it."""
        self.acting_since: Version | None = None
        """First version that the policy was handed out under as it is now; None until it is."""
        self.left_out = 0
        """Rows that :meth:`on_policy_rows` has left out the last time."""

    def __len__(self) -> int:
        return len(self.buffer) + len(self.offline or ())

    def draw(self, count: int, offline_share: float, human_share: float = 0.0) -> Samples:
        """Draw transitions (count, ...) with replacement, those of the offline data first.

        Args:
            count: how many; there must be at least one to draw from.
            offline_share: share of them that is drawn from the offline data, from 0 to 1, where
                there are both kinds; negative to draw evenly from all transitions of both.
            human_share: share of those from the robot in which a person acted, from 0 to 1, where
                there are any; the rest of them is drawn from all, these included.
        """
        old_count, new_count = self.counts(count, offline_share)
        # First, as none at all may be asked for of a buffer that is empty yet.
        if self.offline is not None and not new_count:
            return self.offline.samples(self._rows(self.offline, count))
        if self.offline is None or not old_count:
            return self.buffer.samples(self._shown(self._rows(self.buffer, count), human_share))
        if old_count < 0:
            rows = torch.randint(len(self), (count,), generator=self.generators.rows)
            old = rows < len(self.offline)
            return together(self.offline.samples(rows[old]),
                            self.buffer.samples(self._shown(rows[~old] - len(self.offline),
                                                            human_share)))
        return together(
            self.offline.samples(self._rows(self.offline, old_count)),
            self.buffer.samples(self._shown(self._rows(self.buffer, new_count), human_share)))

    def counts(self, count: int, offline_share: float) -> tuple[int, int]:
        """Give how many of so many are from the offline data, and how many from the robot.

        Both are -1 where they are drawn evenly from both together; for the arguments see
        :meth:`draw`.
        """
        if not self.offline:
            return 0, count
        if not len(self.buffer):
            return count, 0
        if offline_share < 0:
            return -1, -1
        old_count = round(offline_share * count)
        return old_count, count - old_count

    def on_policy_rows(self) -> torch.Tensor:
        """Give the rows of the newest policy alone; see :meth:`TransitionBuffer.rows_of`.

        Episodes that a person took over, be it for one step, are left out as a whole: what a
        person does has no density under the policy, and what followed is owed to it.
        """
        self.left_out = 0
        if self.acting_since is None:
            return torch.zeros(0, dtype=torch.long)
        rows = self.buffer.rows_of(self.acting_since)
        by_human = self.buffer.by_human(rows)
        if by_human.any():
            over = self.buffer.ended(rows).long()
            episode = over.cumsum(0) - over
            taken_over = torch.zeros(int(episode[-1]) + 1, dtype=torch.bool)
            taken_over[episode[by_human]] = True
            self.left_out = int(taken_over[episode].sum())
            rows = rows[~taken_over[episode]]
        return rows

    def complete(self, count: int) -> bool:
        """Say whether so many transitions of whole episodes by the newest policy are there."""
        rows = self.on_policy_rows()
        return len(rows) >= max(1, count) and bool(self.buffer.ended(rows[-1:]))

    def _rows(self, buffer: TransitionBuffer, count: int) -> torch.Tensor:
        return torch.randint(len(buffer), (count,), generator=self.generators.rows)

    def _shown(self, rows: torch.Tensor, share: float) -> torch.Tensor:
        """Put rows in which a person acted in the place of a share of these, if there are any."""
        count = round(share * len(rows))
        if not count or not len(human := self.buffer.human_rows):
            return rows
        chosen = torch.randint(len(human), (count,), generator=self.generators.rows)
        return torch.cat([human[chosen], rows[count:]])
