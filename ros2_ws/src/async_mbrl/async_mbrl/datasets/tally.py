"""What an import has met on its way: what was left out, what is worth telling."""

from __future__ import annotations

from collections import Counter

from async_mbrl.datasets.identity import DatasetError, one_line

MOST_NOTES = 100
"""Of one source that are kept; more are counted."""


class Tally:
    """Account of one source of an import.

    Attributes:
        skip_damaged: what is damaged is left out and told, instead of raised.
        left_out: number of transitions or messages left out, by reason.
        marked: number of transitions that were changed, by what was done to them.
        notes: what else is worth telling, one line each.
    """

    def __init__(self, skip_damaged: bool = False) -> None:
        """Begin with nothing met."""
        self.skip_damaged = skip_damaged
        self.left_out: Counter[str] = Counter()
        self.marked: Counter[str] = Counter()
        self.notes: list[str] = []
        self._more_notes = 0

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Note that something was left out."""
        if count:
            self.left_out[reason] += count

    def mark(self, what: str, count: int = 1) -> None:
        """Note that something was changed."""
        if count:
            self.marked[what] += count

    def note(self, line: str) -> None:
        """Keep a line to be told, once; of too many only the number."""
        line = one_line(line)
        if line in self.notes:
            return
        if len(self.notes) < MOST_NOTES:
            self.notes.append(line)
        else:
            self._more_notes += 1

    def told(self) -> list[str]:
        """Give the notes, with the number of those that were not kept."""
        return [*self.notes, *([f'and {self._more_notes} more'] if self._more_notes else [])]

    def damaged(self, what: str) -> None:
        """Meet damage: what, with file and place.

        Raises:
            DatasetError: damage is not to be skipped.
        """
        if not self.skip_damaged:
            raise DatasetError(f'{what}; restore it, or go on without what is damaged: '
                               '--skip-damaged')
        self.note(f'{what}; left out')
