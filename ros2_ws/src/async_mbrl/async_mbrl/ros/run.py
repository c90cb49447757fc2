"""How signals reach a node: as an exception, or noted until it looks."""

from __future__ import annotations

import signal


class StopRequested(Exception):
    """SIGINT or SIGTERM arrived."""


def raise_stop(number: int, _frame: object) -> None:
    """End what runs in the main thread, as a handler of signals."""
    raise StopRequested(signal.Signals(number).name)


def note_stops() -> list[int]:
    """Have SIGINT and SIGTERM noted in the list given, from now on, instead of raising.

    For what calls into the middleware all the time: an exception that arrives in the middle of such
    a call comes out of it as another one.
    """
    arrived: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: arrived.append(number))
    return arrived
