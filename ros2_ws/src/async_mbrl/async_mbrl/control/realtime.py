"""What Linux offers a process that must be punctual; each call says whether it was granted."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_MCL_CURRENT_AND_FUTURE = 3

_libc = ctypes.CDLL(None, use_errno=True)


def lock_memory() -> bool:
    """Keep all memory of the process, present and future, from being paged out."""
    return _libc.mlockall(_MCL_CURRENT_AND_FUTURE) == 0


def shorten_timer_slack() -> None:
    """Let sleeps of the calling thread end when they are over, not up to 50 us later."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: process id of the parent; ends at once if it is gone already.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit('the parent process has ended')
