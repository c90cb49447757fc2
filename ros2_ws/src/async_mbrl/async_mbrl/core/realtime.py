"""Scheduling of processes that keep deadlines."""

from __future__ import annotations

import os


def use_fifo(priority: int) -> str:
    """Put the calling thread, and those it starts from now on, under SCHED_FIFO if allowed.

    Args:
        priority: real-time priority, 1 to 99.

    Returns:
        What it runs under now, ready for the log; with the remedy where FIFO is refused.
    """
    if not hasattr(os, 'sched_setscheduler'):
        return 'SCHED_OTHER (this system has no SCHED_FIFO)'
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return (f'SCHED_OTHER (SCHED_FIFO {priority} is refused; allow it with "rtprio 99" in '
                '/etc/security/limits.conf, or --cap-add=sys_nice for a container)')
    return f'SCHED_FIFO:{priority}'
