"""The command: its help, its refusals, and how little it loads before it knows what to do."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from async_mbrl import cli
from async_mbrl.bringup.arguments import ARGUMENTS, RunRequest
from async_mbrl.bringup.compose import compose


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        status = cli.main(arguments)
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_help_describes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, '--help')
    assert status == 0
    for command in ('up', 'emulate', 'bench', 'run', 'evaluate', 'report', 'figure', 'record',
                    'monitor'):
        assert command in text
    status, text = run(capsys, 'up', '--help')
    assert status == 0 and 'exit status' in text
    for argument in ARGUMENTS:
        assert argument.flag in text
    assert '--no-dry-run' in text


@pytest.mark.parametrize(('arguments', 'words'), [
    (('up', 'real', '--real-time-factor', '2'), 'a real arm keeps to the clock'),
    (('run', 'nowhere'), 'not the folder of a run'),
    (('up', 'sim', '--task', 'stack'), "no task 'stack'; this version has: ant"),
    (('up', 'sim', '--robot', 'panda'), 'this version has: ant, arm7, fr3'),
    (('up', 'sim', '--schedule', 'never'), 'this version has: async, sync, interleaved'),
    (('emulate', '--schedule', 'sync', '--set', 'schedule.rollouts=0'), 'schedule.rollouts: 0'),
    (('emulate', '--output', '/nowhere/figures.json'), 'output: /nowhere/figures.json'),
    (('bench', 'paper', '--only', 'nothing'), 'only: no row is like nothing'),
    (('up', 'sim', '--motion-time', 'long'), 'motion_time: expected a number'),
    (('up', 'sim', '--motion-time', '-1'), 'collection.motion_time_s: -1.0 is below'),
    (('up', 'sim', '--set', 'task.nothing=1'), 'task.nothing: unknown key'),
    (('evaluate', 'nowhere'), 'not the folder of a run'),
    (('report', 'nowhere'), 'not the folder of a run'),
    (('record', 'nowhere'), 'not the folder of a run'),
])
def test_what_does_not_fit_is_one_line_and_status_2(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = run(capsys, *arguments)
    assert status == 2
    assert text.startswith('error: ') and words in text and text.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('command', ['evaluate', 'report', 'figure', 'record'])
def test_a_run_that_goes_on_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                          package_root: Path, command: str) -> None:
    (tmp_path / 'config.yaml').write_text(
        compose(RunRequest(), package_root, tmp_path).to_yaml())
    with open(tmp_path / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, text = run(capsys, command, str(tmp_path))
    assert (status, text) == (
        2, f'error: {tmp_path}: a run goes on in this folder; wait until it has ended\n')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.lock', 'config.yaml']


def test_a_full_disk_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_options: object) -> int:
        with open('/dev/full', 'wb', buffering=0) as file:
            file.write(b'x')
        return 0

    monkeypatch.setattr(cli, '_monitor', fill)
    status, text = run(capsys, 'monitor')
    assert status == 1 and text == 'error: No space left on device\n'


def test_help_loads_nothing_heavy() -> None:
    code = ('import sys, async_mbrl.cli as cli\n'
            'try:\n    cli.main(["--help"])\nexcept SystemExit:\n    pass\n'
            'print([name for name in ("torch", "mujoco", "rclpy", "matplotlib", "rich") '
            'if name in sys.modules])')
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                            check=True).stdout
    assert output.splitlines()[-1] == '[]'
