"""Entry of a node started by ``async-mbrl up``: it does not outlive the process that started it.

``python -m async_mbrl.bringup.child PARENT_PID NICE now|spare EXECUTABLE [ARGUMENTS]``

A spare has loaded everything and waits for a line on its standard input before it becomes the node:
loading torch takes longer than all the rest of a restart.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
AUTOGROUP = Path('/proc/self/autogroup')
AUTOGROUP_ATTEMPTS, AUTOGROUP_PAUSE_S = 20, 0.1
"""The kernel lets others than root set this ten times a second, all processes together."""

SPARE_DELAY_S = 6.0
"""A spare loads this late, so that it does not hold up what is starting now: on two busy cores that
takes up to five seconds."""

GRACE_S = 3.0
"""Time for an orderly end, safe command included, after the parent has died."""


def follow(parent: int) -> None:
    """End this process soon after ``parent``: asked by SIGTERM, then by SIGKILL.

    The kernel sends the first signal; a thread that sleeps on the parent's pidfd sees to the end.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f'error: process {parent}, which started this node, has ended')
    handle = os.pidfd_open(parent)

    def watch() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name='follow', daemon=True).start()


def share_nicely(nice: int) -> None:
    """Set the niceness of this session against others, which niceness of threads does not cross.

    Linux may share the processors by session first (autogroup), and each node is a session of its
    own; without autogroup, or where it must not be set, which is said, threads see to themselves.
    """
    if not nice or os.getsid(0) != os.getpid() or not AUTOGROUP.exists():
        return
    refusal: OSError | None = None
    for _ in range(AUTOGROUP_ATTEMPTS):
        try:
            AUTOGROUP.write_text(str(nice))
            return
        except BlockingIOError as error:
            refusal = error
            time.sleep(AUTOGROUP_PAUSE_S)
        except OSError as error:
            refusal = error
            break
    print(f'this node keeps its share of the processors: {AUTOGROUP}: {refusal}', file=sys.stderr)


def main() -> None:
    """Run the node that the command line names."""
    parent, nice, when, executable = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    follow(parent)
    # Until the node takes signals itself, they end it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    share_nicely(nice)
    sys.argv = [executable, *sys.argv[5:]]
    if when == 'spare':
        select.select([sys.stdin], [], [], SPARE_DELAY_S)
    node = importlib.import_module(f'async_mbrl.nodes.{executable}')
    if when == 'spare' and not sys.stdin.readline():
        return      # it was not needed
    node.main()


if __name__ == '__main__':
    main()
