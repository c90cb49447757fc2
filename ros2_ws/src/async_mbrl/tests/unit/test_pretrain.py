"""From a dataset to a run that has learned from it, at the command line and emulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_rig
import pytest

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.folder import open_run, read_run
from async_mbrl.bringup.resources import share_folder
from async_mbrl.cli import main
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.learning.checkpoint import recorded_count, recorded_hash

SMALL = ('improvement.offline_updates=450', 'improvement.batch=32',
         'improvement.critic_hidden=[8]', 'network.hidden=[8]')


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Sixty transitions of the demo arm."""
    dataset_rig.write_dataset(tmp_path / 'data', dataset_rig.transitions(60))
    return tmp_path / 'data'


def pretrained(folder: Path, *more: str) -> int:
    return main(['pretrain', '--run-dir', str(folder), *more])


def begin(dataset: Path, *settings: str) -> list[str]:
    return ['--algorithm', 'awac', '--seed', '2', '--dataset', str(dataset),
            *(part for setting in (*SMALL, *settings) for part in ('--set', setting))]


def test_a_run_begins_with_what_was_learned_from_the_dataset(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / 'run'
    assert pretrained(run, *begin(dataset)) == 0
    told = capsys.readouterr().out
    assert '450 of 450 updates' in told and 'effective_share' in told
    assert f'async-mbrl up sim --run-dir {run}' in told
    composition = read_run(run)
    assert composition.run.dataset == str(dataset)
    learner = RunFolder(run).learner('policy_learner')
    assert recorded_count(learner, 'offline_updates') == 450
    assert recorded_count(learner, 'next_transition') == 0
    before = recorded_hash(learner)
    assert pretrained(run) == 0     # nothing is missing
    assert recorded_hash(learner) == before
    with pytest.raises(ConfigError, match='dataset .*data, but dataset .*other was asked for'):
        open_run(RunRequest(run_dir=str(run), dataset=str(tmp_path / 'other')), share_folder(),
                 tmp_path, None)  # type: ignore[arg-type]


def test_an_interrupted_start_goes_on_to_the_bit(dataset: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrained(tmp_path / 'whole', *begin(dataset)) == 0

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('async_mbrl.bringup.pretrain.LINE_S', 0.0)
        patched.setattr('builtins.print', lambda text, **_: interrupt() if '200 of' in text
                        else None)
        with pytest.raises(KeyboardInterrupt):
            from async_mbrl import cli
            cli._pretrain(cli._parser().parse_args(
                ['pretrain', '--run-dir', str(tmp_path / 'parts'), *begin(dataset)]))
    parts, whole = (RunFolder(tmp_path / name).learner('policy_learner')
                    for name in ('parts', 'whole'))
    assert recorded_count(parts, 'offline_updates') == 200
    assert pretrained(tmp_path / 'parts') == 0
    assert recorded_hash(parts) == recorded_hash(whole)


def test_data_of_another_task_are_refused_before_anything_is_learned(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (dataset / 'dataset.json').read_text()
    scale = json.loads(text)['robot']['action_scale']
    assert scale[0] != 99.0
    (dataset / 'dataset.json').write_text(json.dumps(
        {**json.loads(text), 'robot': {**json.loads(text)['robot'],
                                       'action_scale': [99.0, *scale[1:]]}}))
    assert pretrained(tmp_path / 'run', *begin(dataset)) == 2
    assert 'robot.action_scale' in capsys.readouterr().err
    assert not RunFolder(tmp_path / 'run').learner('policy_learner').exists()


@pytest.mark.parametrize(('request_', 'words'), [
    (RunRequest(algorithm='me_ppo', dataset='x'), 'dataset: MePpo learns in a model'),
    (RunRequest(algorithm='ppo', dataset='x'), 'dataset: Ppo learns only from'),
    (RunRequest(algorithm='awac', dataset='x', schedule='sync'), 'schedule.name: sync, but a')])
def test_what_cannot_learn_from_a_dataset_says_so(request_: RunRequest, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(request_, share_folder(), Path('/run'))


def test_a_command_without_a_dataset_says_so(tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(tmp_path / 'run', '--algorithm', 'awac') == 2
    assert 'dataset: none to learn from' in capsys.readouterr().err


def test_an_emulated_run_learns_from_the_dataset_first(dataset: Path, tmp_path: Path) -> None:
    results = []
    for settings in ((), ('improvement.offline_updates=0',)):
        file = tmp_path / f'{len(results)}.json'
        assert main(['emulate', '--samples', '35', '--output', str(file),
                     *begin(dataset, *settings)]) == 0
        results.append(json.loads(file.read_text()))
    assert results[0]['policy_sha256'] != results[1]['policy_sha256']
    assert results[0]['samples'] == results[1]['samples'] == 35
