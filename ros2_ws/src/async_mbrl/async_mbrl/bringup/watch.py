"""``async-mbrl monitor``: the terminal view of a graph that somebody else runs."""

from __future__ import annotations

import time

from async_mbrl.bringup.up import PERIOD_S, interruptions
from async_mbrl.reporting.state import ViewState
from async_mbrl.reporting.view import TerminalView
from async_mbrl.ros.monitor import Monitor


def watch(live: bool | None = None) -> int:
    """Show a running graph until it is done or the user has seen enough."""
    monitor = Monitor()
    state = ViewState()
    view = TerminalView(state, live)
    with interruptions() as arrived:
        monitor.start()
        view.start()
        try:
            while not arrived:
                now = time.monotonic()
                for update in monitor.drain():
                    state.take(update, now)
                view.refresh(now)
                if state.run is not None and state.run.phase in ('done', 'failed'):
                    break
                time.sleep(PERIOD_S)
        finally:
            view.stop(time.monotonic())
            monitor.close()
    return 0
