"""Processes of this machine are seen to die, and ids that are none harm nobody."""

from __future__ import annotations

import os
import subprocess

import pytest

from async_mbrl.core.host import ProcessWatch, host_id


@pytest.mark.parametrize('process', [0, -1, 2**31, 2**32 - 1, 2**70])
def test_an_id_that_is_none_is_refused_and_what_was_watched_is_watched_on(process: int) -> None:
    watch = ProcessWatch()
    assert watch.watch(host_id(), (os.getpid(),))
    before = watch.descriptors
    assert not watch.watch(host_id(), (os.getppid(), process))
    assert watch.descriptors == before and watch.check() == ()
    assert watch.watch('elsewhere', (process,))     # none of ours
    assert watch.descriptors == ()


def test_a_process_that_has_ended_before_is_dead_at_once() -> None:
    process = subprocess.Popen(['true'])
    process.wait()
    watch = ProcessWatch()
    assert watch.watch(host_id(), (process.pid, os.getpid()))
    assert watch.check() == (process.pid,) and len(watch.descriptors) == 1
    assert watch.watch(host_id(), (os.getpid(), process.pid))
    assert watch.check() == (process.pid,)
    watch.close()
    assert watch.check() == ()
