"""What does not fit is found before anything starts, and said in one line."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from async_mbrl.bringup.arguments import ARGUMENTS, RunRequest, parse_request
from async_mbrl.bringup.compose import compose, recompose
from async_mbrl.bringup.folder import open_run, read_run
from async_mbrl.bringup.graph import NODES, describe, parameters_yaml, write_parameters
from async_mbrl.core.config import ConfigError, read_yaml

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def share(package_root: Path, tmp_path: Path) -> Path:
    """Give a copy of the YAML files that a test may spoil."""
    shutil.copytree(package_root / 'config', tmp_path / 'share' / 'config')
    return tmp_path / 'share'


def edit(path: Path, change: object) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)   # type: ignore[operator]
    path.write_text(yaml.safe_dump(content))


def refused(request: RunRequest, share: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        compose(request, share, Path('/nowhere'))
    message = str(raised.value)
    assert '\n' not in message
    return message


def test_defaults_fit_and_survive_a_round_trip(share: Path) -> None:
    composition = compose(RunRequest(), share, Path('/somewhere'))
    again = recompose(yaml.safe_load(composition.to_yaml()), Path('config.yaml'))
    assert again == composition
    assert composition.robot.kinematics.joints == composition.robot.joints == 7


@pytest.mark.parametrize(('change', 'words'), [
    ('task.sucess_rate=0.9', ['task.sucess_rate', 'unknown key', 'success_rate']),
    ('task.success_rate=high', ['task.success_rate', 'expected float', "'high'"]),
    ('task.success_rate=1.5', ['task.success_rate', '1.5', 'maximum 1.0']),
    ('model.members=2.5', ['model.members', 'expected int', '2.5']),
    ('exploration.start_std=.nan', ['exploration.start_std', 'not a finite number']),
    ('robot.limits.effort=[1.0, 2.0]', ['limits.effort', '2 numbers for 7 joints']),
    ('task.goal_half_range=[0.1, 0.1]', ['goal_half_range']),
    ('robot.joint_names=[a, b, c, d, e, f, g]', ['joint', "'a'"]),
    ('nothing.here=1', ['nothing.here', 'unknown key', 'task']),
    ('task=1', ['key.path=value']),
    ('plant.model=no.xml', ['no.xml']),
    ('network.squash=tanh', ['network.squash', 'me_ppo', "'clip'", "'tanh'"]),
])
def test_a_change_that_does_not_fit_is_refused(share: Path, change: str,
                                               words: list[str]) -> None:
    message = refused(RunRequest(set=(change,)), share)
    for word in words:
        assert word in message


def test_a_missing_limit_is_refused_with_the_file(share: Path) -> None:
    file = share / 'config/robots/arm7.yaml'
    edit(file, lambda robot: robot['limits'].pop('velocity'))
    message = refused(RunRequest(), share)
    assert 'robot.limits.velocity: missing' in message and str(file) in message


def test_a_limit_beyond_the_model_is_refused(share: Path) -> None:
    edit(share / 'config/robots/arm7.yaml',
         lambda robot: robot['limits']['position_upper'].__setitem__(0, 9.0))
    message = refused(RunRequest(), share)
    assert 'robot.limits' in message and '9.0' in message and '2.2' in message


@pytest.mark.parametrize(('request_', 'exists'), [
    (RunRequest(robot='ur5e'), 'arm7'), (RunRequest(task='stack'), 'reach'),
    (RunRequest(algorithm='sac'), 'me_ppo, svg'), (RunRequest(schedule='sync'), 'async'),
])
def test_what_does_not_exist_is_refused_with_what_does(share: Path, request_: RunRequest,
                                                       exists: str) -> None:
    message = refused(request_, share)
    assert exists in message and 'this version has' in message


def test_texts_of_arguments_are_typed() -> None:
    request = parse_request({'seed': '3', 'motion_time': '20', 'set': 'a.b=1; c.d=2',
                             'task': None})
    assert request == RunRequest(seed=3, motion_time=20.0, set=('a.b=1', 'c.d=2'))
    with pytest.raises(ConfigError, match="seed: expected a whole number, got 'x'"):
        parse_request({'seed': 'x'})
    assert len({argument.name for argument in ARGUMENTS}) == len(ARGUMENTS)


def test_numbers_that_yaml_takes_for_text_are_read(share: Path) -> None:
    composition = compose(RunRequest(set=('model.learning_rate=1e-4',)), share, Path('/x'))
    assert composition.model.learning_rate == 1e-4


def test_a_new_run_gets_a_folder_and_latest_points_to_it(share: Path, tmp_path: Path) -> None:
    (tmp_path / 'runs').mkdir()
    runs = [open_run(RunRequest(), share, tmp_path, NOW) for _ in range(2)]
    names = [run.folder.root.name for run in runs]
    assert names == ['20260102-030405-reach', '20260102-030405-reach-2']
    assert (tmp_path / 'runs/latest').resolve() == runs[1].folder.root
    assert read_yaml(runs[0].folder.config)['run']['run_dir'] == str(runs[0].folder.root)
    assert not runs[0].resumed
    for run in runs:
        run.lock.close()


def test_an_existing_run_is_resumed_with_its_own_configuration(share: Path,
                                                               tmp_path: Path) -> None:
    first = open_run(RunRequest(seed=4, run_dir='mine', motion_time=10.0,
                                set=('task.success_rate=0.5',)), share, tmp_path, NOW)
    with pytest.raises(ConfigError, match='in use'):
        open_run(RunRequest(run_dir='mine'), share, tmp_path, NOW)
    first.lock.close()
    again = open_run(RunRequest(run_dir='mine', motion_time=20.0), share, tmp_path, NOW)
    again.lock.close()
    assert again.resumed and again.composition.run.seed == 4
    assert again.composition.task.success_rate == 0.5
    assert again.composition.collection.motion_time_s == 20.0
    assert read_run(tmp_path / 'mine') == again.composition
    for request, words in ((RunRequest(algorithm='svg'), 'algorithm me_ppo'),
                           (RunRequest(seed=5), 'seed 4'),
                           (RunRequest(motion_time=5.0), 'only be extended'),
                           (RunRequest(set=('task.success_rate=0.1',)), 'has begun')):
        before = again.folder.config.read_text()
        with pytest.raises(ConfigError, match=words):
            open_run(RunRequest(**{**vars(request), 'run_dir': 'mine'}), share, tmp_path, NOW)
        assert again.folder.config.read_text() == before


def test_a_folder_of_another_task_or_of_no_run_is_refused(share: Path, tmp_path: Path) -> None:
    open_run(RunRequest(run_dir='mine'), share, tmp_path, NOW).lock.close()
    config = tmp_path / 'mine/config.yaml'
    edit(config, lambda content: content['task'].__setitem__('name', 'stack'))
    with pytest.raises(ConfigError, match='a run with task stack'):
        open_run(RunRequest(run_dir='mine', task='reach'), share, tmp_path, NOW)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/letter.txt').write_text('dear')
    with pytest.raises(ConfigError, match='not the folder of a run'):
        open_run(RunRequest(run_dir='other'), share, tmp_path, NOW)
    assert [path.name for path in (tmp_path / 'other').iterdir()] == ['letter.txt']


def test_the_graph_is_described_once(share: Path, tmp_path: Path) -> None:
    composition = compose(RunRequest(), share, tmp_path)
    nodes = {node.name: node for node in describe(composition)}
    assert tuple(nodes) == NODES
    assert {name for name, node in nodes.items() if node.required} == {
        'sim_bridge', 'guard', 'controller', 'robot_interface'}
    assert all(node.respawn != node.required for node in nodes.values())
    stages = [nodes[name].stop_stage for name in ('policy_learner', 'robot_interface',
                                                  'controller', 'guard', 'sim_bridge')]
    assert stages == [0, 0, 1, 2, 3]
    assert 'use_sim_time' not in nodes['controller'].parameters
    faster = describe(compose(RunRequest(real_time_factor=2.0), share, tmp_path))
    assert all(node.parameters['use_sim_time'] is True for node in faster)
    text = yaml.safe_load(parameters_yaml(nodes['controller']))
    assert text['/**']['ros__parameters']['network']['hidden']
    files = write_parameters(describe(composition), tmp_path / 'params')
    assert set(files) == set(nodes)
