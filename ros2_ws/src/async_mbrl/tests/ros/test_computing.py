"""Work in a thread of its own, beside callbacks."""

from __future__ import annotations

import os
import threading

from async_mbrl.ros.computing import Computing


def test_work_is_woken_and_ends_when_asked_to() -> None:
    seen = threading.Semaphore(0)

    def work() -> None:
        while not computing.stopping:
            computing.rest()
            seen.release()

    computing = Computing('test', work)
    assert not computing.begun and not computing.ended
    computing.begin()
    computing.begin()       # once is enough
    computing.wake()
    assert seen.acquire(timeout=5.0)
    assert computing.begun and not computing.ended
    computing.stop()
    assert computing.ended and computing.error is None


def test_an_error_ends_it_and_is_kept() -> None:
    flaw = RuntimeError('no more')

    def work() -> None:
        raise flaw

    computing = Computing('test', work)
    computing.begin()
    computing.stop()
    assert computing.ended and computing.error is flaw


def test_only_its_own_thread_gives_way() -> None:
    found: list[int] = []
    computing = Computing(
        'test', lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
        nice=19)
    computing.begin()
    computing.stop()
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


def test_what_never_began_can_be_stopped() -> None:
    computing = Computing('test', lambda: None)
    computing.stop()
    assert not computing.begun and not computing.ended
