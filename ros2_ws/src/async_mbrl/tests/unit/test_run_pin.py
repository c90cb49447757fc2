"""The folder of a learner belongs to one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_mbrl.core.config import ConfigError
from async_mbrl.learning.run_pin import FILE, RunPin


def test_the_run_heard_first_is_kept_over_starts(tmp_path: Path) -> None:
    folder = tmp_path / 'model_learner'
    pin = RunPin(folder, dry_run=False)
    pin.check('first', False)
    pin.check('first', False)
    for one in (pin, RunPin(folder, dry_run=False)):
        with pytest.raises(ConfigError, match=r"'first' \(dry_run False\), but run 'second'"):
            one.check('second', False)
        one.check('first', False)


def test_dry_runs_and_others_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.dry_run: False here, but run 'r' .* True; start"):
        RunPin(tmp_path, dry_run=False).check('r', True)
    assert not (tmp_path / FILE).exists()
    RunPin(tmp_path, dry_run=True).check('r', True)
    with pytest.raises(ConfigError, match=r"'r' \(dry_run True\), but run 'r' \(dry_run False\)"):
        RunPin(tmp_path, dry_run=False).check('r', False)


@pytest.mark.parametrize('content', ['', '{}', '[1]', '{"run_id": 3, "dry_run": true}',
                                     '{"run_id": "r"}', 'x' * 5000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match=FILE):
        RunPin(tmp_path, dry_run=False)


def test_a_full_disk_does_not_let_the_next_run_in(tmp_path: Path) -> None:
    (tmp_path / 'in_the_way').write_text('')
    pin = RunPin(tmp_path / 'in_the_way', dry_run=False)
    with pytest.raises(OSError, match='in_the_way'):
        pin.check('first', False)
    with pytest.raises(ConfigError, match='second'):
        pin.check('second', False)
