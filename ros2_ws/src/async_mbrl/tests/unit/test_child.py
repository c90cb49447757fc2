"""A node that `async-mbrl up` has started."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from async_mbrl.bringup import child
from async_mbrl.bringup.child import AUTOGROUP

SHARE = 'from async_mbrl.bringup.child import share_nicely; share_nicely(5)'
SHOW = f'print(open({str(AUTOGROUP)!r}).read())'


def shown(program: str, own_session: bool) -> list[str]:
    """What the kernel says of a process that runs ``program``, as words; its last is the number."""
    return subprocess.run([sys.executable, '-c', program], start_new_session=own_session,
                          capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason='the kernel does not group by session')
@pytest.mark.parametrize('own_session', [True, False])
def test_a_learner_is_nice_to_other_sessions_never_in_the_name_of_its_own(
        own_session: bool) -> None:
    before = shown(SHOW, own_session)
    if own_session and not before:
        pytest.skip('the kernel gives a new session no group of its own')
    after = shown(f'{SHARE}; {SHOW}', own_session)
    # A session that the kernel keeps in the group of all has nothing to show.
    assert after[-1:] == (['5'] if own_session else before[-1:])


class Kernel:
    """Stands in for the file: refuses with each of the errors, then takes the number."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.taken = ''

    def exists(self) -> bool:
        return True

    def write_text(self, text: str) -> None:
        if self.errors:
            raise OSError(code := self.errors.pop(0), os.strerror(code))
        self.taken = text


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(child.os, 'getsid', lambda _: os.getpid())
    monkeypatch.setattr(child.time, 'sleep', found.append)
    return found


def test_learners_that_start_together_wait_for_each_other(
        monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    kernel = Kernel(errno.EAGAIN, errno.EAGAIN)
    monkeypatch.setattr(child, 'AUTOGROUP', kernel)
    child.share_nicely(5)
    assert kernel.taken == '5' and len(pauses) == 2


@pytest.mark.parametrize(('errors', 'waits'), [
    ((errno.EROFS,), 0), ((errno.EAGAIN,) * child.AUTOGROUP_ATTEMPTS, child.AUTOGROUP_ATTEMPTS)])
def test_a_learner_learns_also_where_its_share_must_not_be_set(
        monkeypatch: pytest.MonkeyPatch, pauses: list[float], capsys: pytest.CaptureFixture[str],
        errors: tuple[int, ...], waits: int) -> None:
    kernel = Kernel(*errors)
    monkeypatch.setattr(child, 'AUTOGROUP', kernel)
    child.share_nicely(5)
    assert kernel.taken == '' and len(pauses) == waits
    assert os.strerror(errors[-1]) in capsys.readouterr().err
