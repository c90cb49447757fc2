"""Numbered streams without ROS: put what arrives into order, and keep what was sent."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar('T')


class InOrder(Generic[T]):
    """Give out numbered items in order, each once, whatever order and how often they come.

    Items beyond a gap are kept until the gap is filled. What does not fit is dropped: it counts as
    missing again once the gap has closed, so nothing is lost by the bound.
    """

    def __init__(self, first: int = 0, capacity: int = 1024) -> None:
        """Begin with the item numbered ``first``; keep ``capacity`` items beyond a gap at most."""
        self.next_number = first
        self._capacity = capacity
        self._known_end = first
        self._waiting: dict[int, T] = {}

    @property
    def waiting(self) -> int:
        """Items kept beyond a gap."""
        return len(self._waiting)

    def offer(self, number: int, item: T) -> list[T]:
        """Take an item; give the items that can be delivered now, in order."""
        if number < self.next_number:
            return []
        self._known_end = max(self._known_end, number + 1)
        if number != self.next_number:
            if number < self.next_number + self._capacity:
                self._waiting.setdefault(number, item)
            return []
        self._waiting.pop(number, None)
        ready = [item]
        self.next_number += 1
        while self.next_number in self._waiting:
            ready.append(self._waiting.pop(self.next_number))
            self.next_number += 1
        return ready

    def announce(self, next_number: int) -> None:
        """Learn that all items with numbers below ``next_number`` exist."""
        self._known_end = max(self._known_end, next_number)

    def missing(self) -> tuple[int, int] | None:
        """Give the first gap as (first number, count); None if nothing known is missing."""
        if self.next_number >= self._known_end:
            return None
        end = min(self._waiting, default=self._known_end)
        return self.next_number, end - self.next_number


class History:
    """The last payloads that were sent, by number. Safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        """Keep the last ``capacity`` payloads."""
        self._lock = threading.Lock()
        self._payloads: deque[bytes] = deque(maxlen=capacity)
        self._next = 0

    def append(self, number: int, payload: bytes) -> None:
        """Add a payload; a number that does not follow the last one begins a new sequence."""
        with self._lock:
            if number != self._next:
                self._payloads.clear()
            self._payloads.append(payload)
            self._next = number + 1

    def fetch(self, first: int, count: int) -> list[bytes] | None:
        """Give up to ``count`` payloads from number ``first`` on; None if no longer kept."""
        with self._lock:
            begin = first - (self._next - len(self._payloads))
            if begin < 0:
                return None
            return [self._payloads[index]
                    for index in range(begin, min(begin + count, len(self._payloads)))]
