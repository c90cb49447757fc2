"""A node that `async-mbrl up` has started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from async_mbrl.bringup.child import AUTOGROUP

SHOW = ('from async_mbrl.bringup.child import AUTOGROUP, share_nicely; share_nicely(5); '
        'print(AUTOGROUP.read_text())')


@pytest.mark.skipif(not AUTOGROUP.exists(), reason='the kernel does not group by session')
@pytest.mark.parametrize('own_session', [True, False])
def test_a_learner_is_nice_to_other_sessions_never_in_the_name_of_its_own(
        own_session: bool) -> None:
    before = AUTOGROUP.read_text().split()[-1]
    shown = subprocess.run([sys.executable, '-c', SHOW], start_new_session=own_session,
                           capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1] == ('5' if own_session else before)
