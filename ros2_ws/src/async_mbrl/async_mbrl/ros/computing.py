"""Computing beside callbacks: they only take notes and wake it, so that messages never wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from async_mbrl.ros.bridged_node import IDLE_S


class Computing:
    """A thread in which work is done until it is over, fails, or is asked to stop."""

    def __init__(self, name: str, work: Callable[[], None], nice: int = 0) -> None:
        """Prepare; :meth:`begin` starts it.

        Args:
            name: of the thread.
            work: is called once; it sees to ``stopping`` itself.
            nice: niceness of the thread, at least.
        """
        self._name = name
        self._work = work
        self._nice = nice
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.stopping = False
        """Whether it has been asked to end."""
        self.error: Exception | None = None
        """What has ended the work; None if nothing has."""

    @property
    def begun(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    @property
    def ended(self) -> bool:
        """Whether it was started and is over."""
        return self._thread is not None and not self._thread.is_alive()

    def begin(self) -> None:
        """Start the thread, unless it was started before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name)
            self._thread.start()

    def stop(self) -> None:
        """Ask for the end, and wait for it."""
        self.stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Have :meth:`rest` return: there is something to do."""
        self._wake.set()

    def rest(self) -> None:
        """Wait, in the thread, until woken, a moment at most."""
        self._wake.wait(IDLE_S)
        self._wake.clear()

    def _run(self) -> None:
        # Only this thread: callbacks, and the threads of DDS, keep their priority.
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread,
                       max(self._nice, os.getpriority(os.PRIO_PROCESS, thread)))
        try:
            self._work()
        except Exception as error:
            self.error = error
