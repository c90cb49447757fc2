"""The command for datasets: from a source to a dataset and back, or one line of what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_rig import damage, transitions, write_bag, write_dataset, write_journal
from joint_bag_rig import clock, commands, efforts, states, write

from async_mbrl import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    try:
        status = cli.main(['dataset', *map(str, arguments)])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_help_describes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, '--help')
    assert status == 0
    for action in ('import', 'info', 'check', 'merge', 'split'):
        assert action in text
        assert run(capsys, action, '--help')[0] == 0


def test_from_a_run_to_two_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_journal(tmp_path / 'run', transitions(50))
    assert run(capsys, 'import', tmp_path / 'run', '--output', tmp_path / 'a')[0] == 0
    status, text = run(capsys, 'check', tmp_path / 'a')
    assert (status, text) == (0, f'{tmp_path}/a: 0 errors, 0 notes\n')
    status, text = run(capsys, 'split', tmp_path / 'a', tmp_path / 'b', tmp_path / 'c',
                       '--share', 0.8)
    assert (status, text) == (0, f'{tmp_path}/b: 40 transitions, 8 episodes\n'
                                 f'{tmp_path}/c: 10 transitions, 2 episodes\n')
    status, text = run(capsys, 'merge', tmp_path / 'b', tmp_path / 'c', '--output', tmp_path / 'd')
    assert status == 0 and '50 transitions, 10 episodes' in text
    status, text = run(capsys, 'info', tmp_path / 'd')
    assert status == 0 and '50 transitions, 10 episodes, 5.0 s of motion' in text
    status, text = run(capsys, 'info', tmp_path / 'd', '--json')
    assert status == 0 and json.loads(text)['actors'] == {'policy': 50}


def test_what_a_person_took_over_is_told_and_taken_out(capsys: pytest.CaptureFixture[str],
                                                       tmp_path: Path) -> None:
    items = [replace(item, takeover=item.number in (3, 4, 22)) for item in transitions(50)]
    write_journal(tmp_path / 'run', items)
    assert run(capsys, 'import', tmp_path / 'run', '--output', tmp_path / 'a')[0] == 0
    status, text = run(capsys, 'info', tmp_path / 'a')
    assert status == 0 and 'actions by: policy 47 (94.0%), human 3 (6.0%)' in text
    status, text = run(capsys, 'split', tmp_path / 'a', tmp_path / 'b', tmp_path / 'c',
                       '--actor', 'human')
    assert (status, text) == (0, f'{tmp_path}/b: 10 transitions, 2 episodes\n'
                                 f'{tmp_path}/c: 40 transitions, 8 episodes\n')
    status, text = run(capsys, 'check', tmp_path / 'b')
    assert status == 0 and '0 errors' in text
    # Parts of one source are not taken for two of them.
    assert run(capsys, 'merge', tmp_path / 'b', tmp_path / 'c', '--output', tmp_path / 'd')[0] == 0
    status, text = run(capsys, 'info', tmp_path / 'd')
    assert status == 0 and all(f'{part} part of a split by actor' in text
                               for part in ('the first', 'the second'))


def test_a_journal_of_another_format_is_refused(capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:
    write_journal(tmp_path / 'run', transitions(5))
    meta = tmp_path / 'run' / 'journal' / 'meta.json'
    meta.write_text(json.dumps({**json.loads(meta.read_text()), 'format': 1}))
    status, text = run(capsys, 'import', tmp_path / 'run', '--output', tmp_path / 'a')
    assert status == 2 and 'format 1, but this version reads 2' in text


def test_a_bag_needs_task_and_robot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(10))
    status, text = run(capsys, 'import', tmp_path / 'bag', '--output', tmp_path / 'a')
    assert status == 2 and 'give --task and --robot' in text and text.count('\n') == 1
    assert run(capsys, 'import', tmp_path / 'bag', '--output', tmp_path / 'a', '--task', 'reach',
               '--robot', 'arm7')[0] == 0


def test_goals_and_settings_of_a_foreign_bag(capsys: pytest.CaptureFixture[str],
                                             tmp_path: Path) -> None:
    times = clock(2.001, 0.02, -0.2)
    write(tmp_path / 'bag', [*states(times[10:]), *commands(times, efforts(times))])
    arguments = ('import', tmp_path / 'bag', '--robot', 'arm7', '--set', 'task.policy_rate_hz=20',
                 '--output')
    status, text = run(capsys, *arguments, tmp_path / 'a', '--goal', 'reached', '--actor', 'human')
    assert status == 0 and '40 transitions' in text
    status, text = run(capsys, 'info', tmp_path / 'a')
    assert '20 Hz' in text and 'actions by: human 40' in text
    goal = [f'--goal={",".join(["-0.1"] * 9)}']
    assert run(capsys, *arguments, tmp_path / 'b', *goal)[0] == 0
    for wrong, words in ((['--goal', 'there'], 'neither numbers'), (['--gap', 0], 'gap: 0 is not'),
                         (['--seed', -1], 'seed: -1 is below'), ([], 'goal: missing')):
        status, text = run(capsys, *arguments, tmp_path / 'c', *wrong)
        assert status == 2 and words in text and text.count('\n') == 1
    assert not (tmp_path / 'c').exists()


def test_a_goal_takes_no_source_with_it(capsys: pytest.CaptureFixture[str],
                                        tmp_path: Path) -> None:
    times = clock(1.001, 0.02, -0.2)
    write(tmp_path / 'bag', [*states(times[10:]), *commands(times, efforts(times))])
    assert run(capsys, 'import', '--robot', 'arm7', '--output', tmp_path / 'a', '--goal', 'reached',
               tmp_path / 'bag')[0] == 0


@pytest.mark.parametrize('wrong', [
    ('--degrees',), ('--own-rewards',), ('--goal', 'reached'), ('--actor', 'human'),
    ('--joint-states', 'x'), ('--commands', 'x'), ('--gap', '2'), ('--seed', '1')])
def test_options_that_say_nothing_of_a_source_are_refused(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: tuple[str, ...]) -> None:
    write_journal(tmp_path / 'run', transitions(5))
    status, text = run(capsys, 'import', tmp_path / 'run', '--output', tmp_path / 'a', *wrong)
    assert status == 2 and text.startswith(f'error: {wrong[0]}: says nothing about {tmp_path}/run')
    assert not (tmp_path / 'a').exists()


def test_a_task_needs_its_robot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', transitions(10))
    for given in (('--task', 'reach'), ('--set', 'task.policy_rate_hz=20')):
        status, text = run(capsys, 'import', tmp_path / 'bag', '--output', tmp_path / 'a', *given)
        assert (status, text) == (2, 'error: robot: missing; give --robot beside --task and '
                                     '--set\n')


def test_damage_is_told_and_skipped_on_request(capsys: pytest.CaptureFixture[str],
                                               tmp_path: Path) -> None:
    write_dataset(tmp_path / 'a', transitions(20), shard_rows=5)
    damage(tmp_path / 'a' / 'part-00002.safetensors')
    status, text = run(capsys, 'check', tmp_path / 'a')
    assert status == 1 and 'part-00002.safetensors: damaged' in text
    status, text = run(capsys, 'info', tmp_path / 'a')
    assert status == 2 and 'SHA-256' in text and text.count('\n') == 1
    assert 'restore the file, or import the data again' in text     # merge knows no other remedy
    status, text = run(capsys, 'info', tmp_path / 'a', '--skip-damaged')
    assert status == 0 and 'its 5 transitions are left out' in text
    for shard in (tmp_path / 'a').glob('part-*'):
        shard.write_bytes(b'')
    status, text = run(capsys, 'info', tmp_path / 'a', '--skip-damaged')
    assert status == 0 and text.count('transitions are left out') == 4
    assert 'nothing more can be read of it' in text and 'actions by' not in text


@pytest.mark.parametrize('arguments', [
    ('info', 'nowhere'), ('check', 'nowhere'), ('merge', 'nowhere', '--output', 'x'),
    ('split', 'nowhere', 'x', 'y', '--share', '0.5'), ('import', 'nowhere', '--output', 'x'),
])
def test_what_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch,
                                       arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = run(capsys, *arguments)
    assert status == 2 and text.startswith('error: nowhere: ') and text.count('\n') == 1
    assert not list(tmp_path.iterdir())
