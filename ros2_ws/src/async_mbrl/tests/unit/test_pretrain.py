"""From a dataset to a run that has learned from it, at the command line and emulated."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import dataset_rig
import numpy as np
import pytest
from safetensors.numpy import load_file

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.folder import open_run, read_run
from async_mbrl.bringup.resources import share_folder
from async_mbrl.cli import main
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.learning.device import CPU
from async_mbrl.learning.learners import make_learners
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import read_offline
from async_mbrl.learning.recorded import recorded_count, recorded_hash
from async_mbrl.tasks import make_task

LEARNERS = ('model_learner', 'policy_learner')
SMALL = ('improvement.offline_updates=450', 'improvement.batch=32',
         'improvement.critic_hidden=[8]', 'network.hidden=[8]')


IMAGINED = ('improvement.offline_updates=10', 'improvement.rollouts=10', 'improvement.horizon=4',
            'improvement.value_hidden=[8]', 'network.hidden=[8]', 'model.offline_updates=30',
            'model.hidden=[8]', 'model.product=batched')
PLANNED = ('improvement.candidates=6', 'improvement.iterations=1', 'improvement.horizon=3',
           'improvement.handed_out=2', 'improvement.elites=2', 'improvement.kept=1',
           'model.hidden=[8]', 'model.offline_updates=5', 'network.hidden=[8]')


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
    assert told.endswith(f'async-mbrl up sim --run-dir {run}\n')
    composition = read_run(run)
    assert composition.run.dataset == str(dataset)
    learner = RunFolder(run).learner('policy_learner')
    assert recorded_count(learner, 'offline_updates') == 450
    assert recorded_count(learner, 'next_transition') == 0
    before = recorded_hash(learner)
    assert pretrained(run) == 0     # nothing is missing
    assert recorded_hash(learner) == before


def begin_imagined(dataset: Path, algorithm: str = 'me_ppo', *settings: str) -> list[str]:
    return ['--algorithm', algorithm, '--seed', '2', '--dataset', str(dataset),
            *(part for setting in settings or IMAGINED for part in ('--set', setting))]


def test_the_model_is_learned_first_and_what_was_interrupted_goes_on_to_the_bit(
        dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = RunFolder(tmp_path / 'whole'), RunFolder(tmp_path / 'parts')
    assert pretrained(whole.root, *begin_imagined(dataset)) == 0
    told = capsys.readouterr().out
    assert '0 of 30 updates of the model, 0 of 10 updates of the policy were made before' in told
    assert 'model: 30 of 30 updates' in told and 'policy: 10 of 10 updates' in told
    assert told.index('model: 30') < told.index('policy: 10')

    left = 0

    def interrupted(learner: ModelLearner | PolicyLearner) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        steps[type(learner)](learner)

    steps: dict[type, Any] = {each: each.learn_offline for each in (ModelLearner, PolicyLearner)}
    for begun, made in ((14, (12, 0)), (25, (30, 6))):      # in the one, then in the other
        left = begun
        with monkeypatch.context() as patched:
            for each in steps:
                patched.setattr(each, 'learn_offline', interrupted)
            assert pretrained(parts.root, *([] if parts.config.exists()
                                            else begin_imagined(dataset))) == 130
        assert tuple(recorded_count(parts.learner(name), 'offline_updates')
                     for name in LEARNERS) == made
    capsys.readouterr()
    assert pretrained(parts.root) == 0
    assert '30 of 30 updates of the model, 6 of 10 updates of the p' in capsys.readouterr().out
    for name in LEARNERS:
        assert recorded_hash(parts.learner(name)) == recorded_hash(whole.learner(name)) != ''
        assert recorded_count(parts.learner(name), 'next_transition') == 0
    assert pretrained(parts.root) == 0      # nothing is missing
    assert capsys.readouterr().out.startswith('judge it with')


def test_what_was_learned_offline_can_be_judged_before_it_goes_online(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / 'run')
    assert pretrained(run.root, *begin_imagined(dataset)) == 0
    assert f'judge it with: async-mbrl evaluate {run.root}' in capsys.readouterr().out
    assert main(['evaluate', str(run.root), '--episodes', '3']) in (0, 3)
    offline = json.loads(run.summary.read_text())['evaluation']['offline']
    assert offline['episodes'] == 3
    snapshot = snapshots.read(run.policy, expected_kind='policy')
    (checkpoint,) = run.learner('policy_learner').glob('checkpoint-*.safetensors')
    np.testing.assert_array_equal(snapshot.tensors['layer1.bias'], load_file(checkpoint)[
        'algorithm/policy.network.biases.1'])
    assert main(['figure', str(run.root)]) == 0      # without pictures: it has not begun yet
    assert 'no pictures of the arm' in capsys.readouterr().err
    # One that was learned but not kept, as after a crash in between, is made good.
    before = run.policy.read_bytes()
    run.policy.unlink()
    assert pretrained(run.root) == 0
    assert run.policy.read_bytes() == before


def test_a_policy_that_has_gone_online_is_left_alone(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / 'run')
    assert pretrained(run.root, *begin_imagined(dataset)) == 0
    composition = read_run(run.root)
    task = make_task(composition.task, composition.robot)
    _, policy = make_learners(composition, task, composition.run.seed, CPU)
    offline = read_offline(task, dataset)
    policy.use_offline(offline.buffer, offline.digest)
    policy.restore(run.learner('policy_learner'))
    policy.take(dataset_rig.transitions(5))
    policy.save(run.learner('policy_learner'))
    policy.close()
    run.policy.write_bytes(b'learned from the robot')
    (run.learner('model_learner') / 'checkpoint.json').unlink()     # which is learned anew
    assert pretrained(run.root) == 0
    assert run.policy.read_bytes() == b'learned from the robot'
    run.policy.unlink()
    capsys.readouterr()
    assert pretrained(run.root) == 0
    assert not run.policy.exists() and 'learning from' not in capsys.readouterr().out


def test_a_policy_that_learns_nothing_offline_is_not_kept(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / 'run')
    assert pretrained(run.root, *begin_imagined(dataset, 'pets', *PLANNED)) == 0
    assert not run.policy.exists() and 'judge it' not in capsys.readouterr().out
    assert recorded_count(run.learner('model_learner'), 'offline_updates') == 5


def test_learning_rates_that_are_too_great_are_named(dataset: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(tmp_path / 'run', *begin_imagined(
        dataset, 'me_ppo', *IMAGINED, 'model.learning_rate=1e30')) == 1
    told = capsys.readouterr().err
    assert told.startswith('error: model: ') and (
        'model.learning_rate, improvement.value_learning_rate, improvement.policy_lea') in told


def test_a_dataset_may_move_but_not_change(dataset: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / 'run'
    assert pretrained(run, *begin(dataset, 'improvement.offline_updates=200')) == 0
    # As if it had been interrupted: more updates are wanted than were made.
    config = RunFolder(run).config
    config.write_text(config.read_text().replace('offline_updates: 200', 'offline_updates: 400'))
    moved = dataset.rename(tmp_path / 'moved')
    assert pretrained(run) == 2
    assert 'one that has moved is named by --dataset' in capsys.readouterr().err
    dataset_rig.write_dataset(tmp_path / 'other', dataset_rig.transitions(60, seed=1))
    assert pretrained(run, '--dataset', str(tmp_path / 'other')) == 2
    assert 'was learned from a dataset of content' in capsys.readouterr().err
    assert read_run(run).run.dataset == str(dataset), 'what is refused is not kept'
    assert pretrained(run, '--dataset', str(moved)) == 0
    assert recorded_count(RunFolder(run).learner('policy_learner'), 'offline_updates') == 400
    assert read_run(run).run.dataset == str(moved)
    # Neither is another one taken for it when there is nothing left to learn from it.
    assert pretrained(run, '--dataset', str(tmp_path / 'other')) == 2
    assert read_run(run).run.dataset == str(moved)
    assert pretrained(run) == 0


def test_a_run_without_a_dataset_gets_none_later(dataset: Path, tmp_path: Path) -> None:
    open_run(RunRequest(algorithm='awac', run_dir='run'), share_folder(), tmp_path,
             datetime(2026, 1, 2)).lock.close()
    with pytest.raises(ConfigError, match='a run that began without one'):
        open_run(RunRequest(run_dir='run', dataset=str(dataset)), share_folder(), tmp_path,
                 datetime(2026, 1, 2))


@pytest.mark.parametrize('dry', ['--dry-run', '--no-dry-run'])
def test_a_run_on_a_real_arm_is_pretrained_as_it_was_begun(
        dry: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / 'run'
    few = begin(dataset, 'improvement.offline_updates=200')
    assert pretrained(run, '--where', 'real', dry, *few) == 0
    composition = read_run(run)
    assert (composition.where, composition.run.dry_run) == ('real', dry == '--dry-run')
    ending = '' if dry == '--dry-run' else ' --no-dry-run'
    assert capsys.readouterr().out.endswith(f'async-mbrl up real --run-dir {run}{ending}\n')
    # As the refusal of a node tells, after a launch file has made the folder.
    assert pretrained(run) == 0
    assert read_run(run) == composition


def test_parameters_that_become_infinite_are_told(dataset: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(tmp_path / 'run', *begin(
        dataset, 'improvement.critic_learning_rate=1e30')) == 1
    assert 'begin anew with lower learning rates' in capsys.readouterr().err


def test_an_interrupted_start_goes_on_to_the_bit(
        dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(tmp_path / 'whole', *begin(dataset)) == 0

    steps = 0

    def interrupted(learner: PolicyLearner) -> None:
        nonlocal steps
        steps += 1
        if steps == 333:        # not where a checkpoint is written
            raise KeyboardInterrupt
        learn_offline(learner)

    learn_offline = PolicyLearner.learn_offline
    with monkeypatch.context() as patched:
        patched.setattr(PolicyLearner, 'learn_offline', interrupted)
        assert pretrained(tmp_path / 'parts', *begin(dataset)) == 130
    assert f'async-mbrl pretrain --run-dir {tmp_path / "parts"}' in capsys.readouterr().err
    parts, whole = (RunFolder(tmp_path / name).learner('policy_learner')
                    for name in ('parts', 'whole'))
    assert recorded_count(parts, 'offline_updates') == 315
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
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('request_', 'words'), [
    (RunRequest(algorithm='ppo', dataset='x'), 'dataset: Ppo learns only from'),
    (RunRequest(algorithm='awac', dataset='x', schedule='sync'), 'schedule.name: sync, but a')])
def test_what_cannot_learn_from_a_dataset_says_so(request_: RunRequest, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(request_, share_folder(), Path('/run'))


def test_a_command_without_a_dataset_says_so(tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(tmp_path / 'run', '--algorithm', 'awac') == 2
    assert 'dataset: none to learn from' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_an_emulated_run_learns_from_the_dataset_first(dataset: Path, tmp_path: Path) -> None:
    results = []
    for settings in ((), ('improvement.offline_updates=0',)):
        file = tmp_path / f'{len(results)}.json'
        assert main(['emulate', '--samples', '35', '--output', str(file),
                     *begin(dataset, *settings)]) == 0
        results.append(json.loads(file.read_text()))
    assert results[0]['policy_sha256'] != results[1]['policy_sha256']
    assert results[0]['samples'] == results[1]['samples'] == 35
    assert [result['offline_updates'] for result in results] == [
        {'model': 0, 'policy': 450}, {'model': 0, 'policy': 0}]
    assert results[0]['dataset'] == str(dataset)


def test_an_emulated_run_imagines_from_the_dataset_first(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    results = []
    for _ in range(2):
        assert main(['emulate', '--samples', '31', '--output', str(file),
                     *begin_imagined(dataset)]) == 0
        results.append(json.loads(file.read_text()))
    assert results[0]['policy_sha256'] == results[1]['policy_sha256']
    assert results[0]['samples'] == 31
    assert results[0]['offline_updates'] == {'model': 30, 'policy': 10}


def test_a_planner_plans_at_once_in_a_model_of_the_dataset(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    assert main(['emulate', '--samples', '30', '--output', str(file),
                 *begin_imagined(dataset, 'pets', *PLANNED)]) == 0
    assert json.loads(file.read_text())['planned_steps'] == 29      # all but the first
