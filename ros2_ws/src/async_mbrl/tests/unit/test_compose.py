"""What does not fit is found before anything starts, and said in one line."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from async_mbrl.bringup.arguments import ARGUMENTS, RunRequest, parse_request
from async_mbrl.bringup.compose import FAULT_PATIENCE_S, compose, compose_use, recompose
from async_mbrl.bringup.folder import open_run, open_use, read_run, start_lines
from async_mbrl.bringup.graph import (
    LEARNERS,
    NODES,
    ROBOT,
    describe,
    parameters_yaml,
    write_parameters,
)
from async_mbrl.core.config import ConfigError, read_yaml
from async_mbrl.core.network import policy_architecture
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import Snapshot, Version, encode
from async_mbrl.simulation.collision import CollisionChecker
from async_mbrl.tasks import make_task

NOW = datetime(2026, 1, 2, 3, 4, 5)
SELDOM = ('planner', 'teleop')
"""Nodes that take part only where they are asked for."""


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


def test_a_loop_too_slow_for_guard_is_refused(share: Path) -> None:
    slow = ('robot.control_rate_hz=40', )
    message = refused(RunRequest(set=slow), share)
    assert 'guard.timeout_s' in message and '0.100 s are needed' in message
    assert compose(RunRequest(set=(*slow, 'guard.timeout_s=0.1')), share, Path('/nowhere'))


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
    ('run.dry_run=false', ['run.dry_run', 'arguments', 'seed', 'dry_run']),
    ('run.run_dir=/elsewhere', ['run.run_dir', 'arguments']),
    ('task=1', ['key.path=value']),
    ('robot.model=no.xml', ['no.xml']),
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
    (RunRequest(robot='panda'), 'arm7, fr3, half_cheetah'),
    (RunRequest(task='stack'), 'reach'),
    (RunRequest(algorithm='dreamer'), 'awac, mb_mpo, mbpo, me_ppo, me_trpo, pets, ppo, sac, svg'),
    (RunRequest(schedule='never'), 'async, sync, interleaved'),
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


def test_a_run_goes_on_on_the_device_that_is_asked_for(share: Path, tmp_path: Path) -> None:
    def device(asked: str | None) -> str:
        with (run := open_run(RunRequest(device=asked, run_dir='mine'), share, tmp_path, NOW)).lock:
            return run.composition.run.device

    assert [device(asked) for asked in (None, 'cuda:1', None, 'cpu')] == [
        'cpu', 'cuda:1', 'cuda:1', 'cpu']
    with pytest.raises(ConfigError, match="device: no device 'gpu'; expected cpu, cuda or cuda:N"):
        device('gpu')


def test_what_uses_a_policy_asks_for_no_device(share: Path, tmp_path: Path) -> None:
    learned = compose(RunRequest(device='cuda'), share, tmp_path / 'learned')
    assert compose_use(learned, tmp_path, RunRequest(), tmp_path).run.device == 'cpu'


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


def test_a_joystick_takes_part_only_where_it_may_take_over(share: Path, tmp_path: Path) -> None:
    composition = compose(RunRequest(takeover='joy', set=('takeover.deadman_button=5',)), share,
                          tmp_path)
    nodes = {node.name: node for node in describe(composition)}
    teleop = nodes['teleop']
    assert teleop.respawn and not teleop.heartbeats and teleop.nice == 0
    assert teleop.parameters['takeover']['deadman_button'] == 5
    assert nodes['controller'].parameters['takeover']['node'] == 'teleop'
    assert nodes['policy_learner'].heartbeats
    own = compose(RunRequest(takeover='my_pedal'), share, tmp_path)
    assert own.takeover.node == 'my_pedal'
    assert 'teleop' not in {node.name for node in describe(own)}
    nobody = compose(RunRequest(where='real'), share, tmp_path)
    assert nobody.takeover.node == ''


@pytest.mark.parametrize(('request_', 'words'), [
    (RunRequest(takeover='no name'), "takeover.node: 'no name' is not the name"),
    (RunRequest(takeover='joy', robot='hopper'), 'robot hopper is no arm'),
    (RunRequest(takeover='joy', set=('takeover.axes=[0, 1]',)), '2 of them, but a tool'),
    (RunRequest(takeover='joy', set=('takeover.scale=[1.0, 1.0]',)), '2 numbers for 3 axes'),
    (RunRequest(takeover='joy', robot='hopper', set=(
        'takeover.mode=joints', 'takeover.axes=[0, 1, 2, 3]')), '4 axes for the 3 joints')])
def test_a_takeover_that_cannot_be_is_refused(share: Path, tmp_path: Path, request_: RunRequest,
                                              words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(request_, share, tmp_path)


def test_who_may_take_over_is_said_anew_when_a_run_is_resumed(share: Path,
                                                              tmp_path: Path) -> None:
    request_ = RunRequest(takeover='joy', run_dir='mine')
    with open_run(request_, share, tmp_path, NOW).lock:
        pass
    for asked, node in ((None, ''), ('joy', 'teleop'), ('my_pedal', 'my_pedal')):
        run = open_run(RunRequest(takeover=asked, run_dir='mine'), share, tmp_path, NOW)
        with run.lock:
            assert run.resumed and run.composition.takeover.node == node


def test_the_graph_is_described_once(share: Path, tmp_path: Path) -> None:
    composition = compose(RunRequest(), share, tmp_path)
    nodes = {node.name: node for node in describe(composition)}
    assert tuple(nodes) == tuple(name for name in NODES if name not in SELDOM)
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


def test_a_part_of_the_graph_is_a_part_of_the_list(share: Path, tmp_path: Path) -> None:
    composition = compose(RunRequest(where='real'), share, tmp_path)
    assert tuple(node.name for node in describe(composition)) == tuple(
        name for name in NODES[1:] if name not in SELDOM)
    assert tuple(node.name for node in describe(composition, ROBOT)) == ROBOT[1:-1]
    simulated = compose(RunRequest(), share, tmp_path)
    assert tuple(node.name for node in describe(simulated, ROBOT)) == ROBOT[:-1]
    assert tuple(node.name for node in describe(simulated, LEARNERS)) == tuple(
        name for name in LEARNERS if name != 'planner')


def test_a_real_arm_is_dry_latched_and_patient_unless_told_otherwise(share: Path,
                                                                     tmp_path: Path) -> None:
    simulated, real = (compose(RunRequest(where=where), share, tmp_path)
                       for where in ('sim', 'real'))
    assert not simulated.run.dry_run and not simulated.guard.latch
    assert simulated.collection.fault_patience_s == 0.0
    assert real.run.dry_run and real.guard.latch
    assert real.collection.fault_patience_s == FAULT_PATIENCE_S
    assert recompose(yaml.safe_load(real.to_yaml()), Path('config.yaml')) == real
    moving = compose(RunRequest(where='real', dry_run=False, set=(
        'guard.latch=false', 'collection.fault_patience_s=5.0')), share, tmp_path)
    assert not moving.run.dry_run and not moving.guard.latch
    assert moving.collection.fault_patience_s == 5.0
    assert 'keeps to the clock' in refused(RunRequest(where='real', real_time_factor=2.0), share)


def test_a_robot_that_cannot_be_simulated_is_for_real_only(share: Path, tmp_path: Path) -> None:
    (share / 'config/robots/arm7.sim.yaml').unlink()
    real = compose(RunRequest(where='real'), share, tmp_path)
    assert real.plant is None
    assert recompose(yaml.safe_load(real.to_yaml()), Path('config.yaml')) == real
    assert 'there is no ' in refused(RunRequest(), share)
    assert 'no plant' in refused(RunRequest(where='real', set=('plant.friction_ratio=0.0',)), share)


@pytest.mark.parametrize('missing', ['limits', 'workspace'])
def test_a_robot_without_limits_is_refused(share: Path, missing: str) -> None:
    edit(share / 'config/robots/arm7.yaml', lambda robot: robot.pop(missing))
    message = refused(RunRequest(where='real'), share)
    assert f'robot.{missing}.' in message and 'missing' in message


def test_speeds_and_torque_rates_of_the_fr3_are_those_of_its_interface(share: Path) -> None:
    composition = compose(RunRequest(robot='fr3'), share, Path('/nowhere'))
    robot, task = composition.robot, composition.task
    # libfranka, rate_limiting.h: ends of the joints, and speeds that fall towards them
    ends = np.array([[-2.7501, 2.7501], [-1.7918, 1.7918], [-2.9065, 2.9065], [-3.0481, -0.1458],
                     [-2.8101, 2.8101], [0.54092, 4.5205], [-3.0196, 3.0196]])
    offset = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
    slope = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])
    reach = np.maximum(task.start_half_range, task.goal_half_range)
    left = np.abs(ends - np.array(robot.home)[:, None]).min(1) - reach
    assert (np.array(robot.limits.velocity) <= np.sqrt(slope * left) - offset).all()
    # What changes from one command to the next arrives in one step of 1 ms, of 1 N m at most.
    assert max(robot.limits.effort_rate) / robot.control_rate_hz < 1.0


@pytest.mark.parametrize('robot', ['arm7', 'fr3', 'ur5e', 'ur5e_jtc'])
def test_every_robot_fits_its_model_its_task_and_its_workspace(share: Path, robot: str) -> None:
    composition = compose(RunRequest(robot=robot), share, Path('/x'))
    assert composition.robot.name == robot
    task = make_task(composition.task, composition.robot)
    goals = task.sample_goals(np.random.default_rng(0), 500).reshape(-1, 3)
    box = composition.robot.workspace
    assert (goals >= box.lower).all() and (goals <= box.upper).all()
    assert goals[:, 2].min() > box.minimum_height_m
    assert CollisionChecker(composition.robot, 0.02).flaw(np.array(composition.robot.home)) == ''


def test_a_robot_of_the_user_needs_no_place_in_the_package(share: Path, tmp_path: Path,
                                                           package_root: Path) -> None:
    own = tmp_path / 'mine'
    own.mkdir()
    shutil.copy(package_root / 'sim/arm7.xml', own / 'model.xml')
    shutil.copy(share / 'config/robots/arm7.sim.yaml', own / 'my_arm.sim.yaml')
    shutil.copy(share / 'config/robots/arm7.yaml', own / 'my_arm.yaml')
    request = RunRequest(robot=str(own / 'my_arm.yaml'), run_dir='run')
    edit(own / 'my_arm.yaml', lambda robot: robot.update(model='model.xml'))
    assert "'arm7', but its file is" in refused(request, share)
    edit(own / 'my_arm.yaml', lambda robot: robot.update(name='my_arm'))
    (own / 'reach.my_arm.yaml').write_text('success_rate: 0.5\n')
    run = open_run(request, share, tmp_path, NOW)
    run.lock.close()
    assert run.composition.robot.model == str(own / 'model.xml')
    assert run.composition.task.success_rate == 0.5
    open_run(request, share, tmp_path, NOW).lock.close()
    with pytest.raises(ConfigError, match='a run with robot my_arm'):
        open_run(RunRequest(robot='arm7', run_dir='run'), share, tmp_path, NOW)
    assert 'path of a YAML file' in refused(RunRequest(robot=str(own / 'none.yaml')), share)


def test_limits_of_the_description_tighten_and_are_said(share: Path, tmp_path: Path) -> None:
    urdf = ('<robot name="a"><joint name="elbow_flex" type="revolute"><limit lower="-9" upper="9" '
            'velocity="1.5" effort="99"/></joint></robot>')
    request = RunRequest(where='real', run_dir='mine')
    run = open_run(request, share, tmp_path, NOW, description=lambda: urdf)
    run.lock.close()
    assert run.composition.robot.limits.velocity[3] == 1.5
    assert run.composition.robot.limits.effort[3] == 15.0
    lines = start_lines(run)
    assert 'limits tightened by robot_description: velocity of elbow_flex 3 -> 1.5' in lines
    assert 'DRY RUN: nothing is sent to the arm' in lines
    again = open_run(request, share, tmp_path, NOW, description=lambda: None)
    again.lock.close()
    assert 'no robot_description was heard: it tightens no limits' in start_lines(again)
    other = open_run(request, share, tmp_path, NOW,
                     description=lambda: urdf.replace('elbow_flex', 'left_elbow_flex'))
    other.lock.close()
    assert ('robot_description limits none of the joints: it tightens nothing'
            in start_lines(other))
    assert again.composition.robot.limits.velocity[3] == 1.5
    with pytest.raises(ConfigError, match='elbow_flex .*robot_description'):
        open_run(RunRequest(where='real'), share, tmp_path, NOW,
                 description=lambda: urdf.replace('"-9"', '"5"'))
    simulated = open_run(RunRequest(), share, tmp_path, NOW, description=lambda: 'not asked')
    simulated.lock.close()


def test_a_run_that_goes_on_takes_up_narrower_limits_of_its_robot(share: Path,
                                                                  tmp_path: Path) -> None:
    source = learned(share, tmp_path, where='real', dry_run=False)
    file = share / 'config/robots/arm7.yaml'
    before = read_run(source).robot

    def narrow(robot: dict[str, Any]) -> None:
        robot['limits']['velocity'][0] = 0.5
        robot['limits']['effort'][1] = 1000.0       # wider: not taken
        robot['workspace']['minimum_height_m'] = 0.33

    edit(file, narrow)
    said = (f'limits tightened by {file}: velocity of shoulder_pan '
            f'{before.limits.velocity[0]:g} -> 0.5; minimum_height_m '
            f'{before.workspace.minimum_height_m:g} -> 0.33')
    for run in (open_use(RunRequest(where='real'), source, share, tmp_path, NOW),
                open_run(RunRequest(where='real', dry_run=False, run_dir='mine'), share, tmp_path,
                         NOW)):
        run.lock.close()
        assert said in start_lines(run)
        robot = run.composition.robot
        assert robot.limits.velocity[0] == 0.5 and robot.workspace.minimum_height_m == 0.33
        assert robot.limits.effort == before.limits.effort
    simulated = open_use(RunRequest(), source, share, tmp_path, NOW)
    simulated.lock.close()
    assert 'tightened' not in ' '.join(start_lines(simulated))
    edit(file, lambda robot: robot['joint_names'].reverse())
    with pytest.raises(ConfigError, match='joint_names are not those of the run.*arm7.yaml'):
        open_use(RunRequest(where='real'), source, share, tmp_path, NOW)


def test_a_run_knows_the_file_of_a_robot_of_the_user(share: Path, tmp_path: Path,
                                                     package_root: Path) -> None:
    file = tmp_path / 'my_arm.yaml'
    shutil.copy(share / 'config/robots/arm7.yaml', file)
    edit(file, lambda robot: robot.update(name='my_arm'))
    (tmp_path / 'reach.my_arm.yaml').write_text('success_rate: 0.5\n')
    request = RunRequest(where='real', robot=str(file), run_dir='run')
    open_run(request, share, tmp_path, NOW).lock.close()
    edit(file, lambda robot: robot['limits']['velocity'].__setitem__(0, 0.5))
    moved = tmp_path / 'elsewhere' / 'my_arm.yaml'
    moved.parent.mkdir()
    for where, robot, words in ((file, None, f'limits tightened by {file}: velocity'),
                                (moved, None, f'{file} is not there any more'),
                                (moved, str(moved), 'no robot_description')):
        if where is moved and file.exists():
            file.rename(moved)
        run = open_run(RunRequest(where='real', robot=robot, run_dir='run'), share, tmp_path, NOW)
        run.lock.close()
        assert words in ' '.join(start_lines(run))
        assert 'not there' not in ' '.join(start_lines(run)) or robot is None


def test_a_dry_run_is_never_resumed_with_motion_nor_the_other_way_round(share: Path,
                                                                        tmp_path: Path) -> None:
    for name, dry_run in (('dry', None), ('moving', False)):
        run = open_run(RunRequest(where='real', dry_run=dry_run, run_dir=name), share, tmp_path,
                       NOW)
        assert ('THE ARM WILL MOVE' in ' '.join(start_lines(run))) is (name == 'moving')
        elsewhere = ' '.join(start_lines(run, commands=False))
        assert 'MOVE' not in elsewhere and 'DRY' not in elsewhere
        run.lock.close()
    for request, words in (
            (RunRequest(where='real', dry_run=False, run_dir='dry'), 'dry_run True'),
            (RunRequest(where='real', run_dir='moving'), 'dry_run False'),
            (RunRequest(run_dir='moving', dry_run=False), 'where real')):
        with pytest.raises(ConfigError, match=words):
            open_run(request, share, tmp_path, NOW)
    open_run(RunRequest(where='real', dry_run=False, run_dir='moving'), share, tmp_path,
             NOW).lock.close()


def learned(share: Path, working: Path, name: str = 'mine', **request: object) -> Path:
    """Make the folder of a run that has saved a policy."""
    run = open_run(RunRequest(run_dir=name, **request), share, working, NOW)  # type: ignore[arg-type]
    run.lock.close()
    composition = run.composition
    architecture = policy_architecture(
        composition.network, make_task(composition.task, composition.robot))
    run.folder.policy.parent.mkdir(parents=True)
    run.folder.policy.write_bytes(encode(Snapshot(
        'policy', Version(1, 0), architecture, {'any': np.zeros(1, np.float32)})))
    return run.folder.root


def test_what_was_learned_is_used_in_a_folder_of_its_own(share: Path, tmp_path: Path) -> None:
    source = learned(share, tmp_path)
    (tmp_path / 'runs').mkdir()
    newest = learned(share, tmp_path, 'runs/newest')
    run = open_use(RunRequest(where='real', dry_run=False), source, share, tmp_path, NOW)
    run.lock.close()
    settings = run.composition.run
    assert (settings.mode, settings.policy_from, settings.dry_run) == ('use', str(source), False)
    assert run.folder.root.name == '20260102-030405-reach-use'
    assert run.composition.guard.latch
    assert tuple(node.name for node in describe(run.composition)) == (
        'guard', 'controller', 'robot_interface', 'policy_learner')
    assert (tmp_path / 'runs/latest').resolve() == newest.resolve()     # to be used again
    with pytest.raises(ConfigError, match='async-mbrl run'):
        open_run(RunRequest(run_dir=str(run.folder.root)), share, tmp_path, NOW)
    with pytest.raises(ConfigError, match=f'it uses {source}; name that one'):
        open_use(RunRequest(), run.folder.root, share, tmp_path, NOW)


def test_what_cannot_be_used_is_refused_with_the_remedy(share: Path, tmp_path: Path) -> None:
    dry = learned(share, tmp_path, 'dry', dry_run=True)
    with pytest.raises(ConfigError, match='dry run, .*--no-dry-run'):
        open_use(RunRequest(), dry, share, tmp_path, NOW)
    source = learned(share, tmp_path)
    policy = RunFolder(source).policy
    whole = policy.read_bytes()
    policy.write_bytes(whole[:-4])
    with pytest.raises(ConfigError, match='policy.safetensors'):
        open_use(RunRequest(), source, share, tmp_path, NOW)
    policy.write_bytes(whole)
    edit(source / 'config.yaml', lambda content: content['network'].__setitem__('hidden', [9]))
    with pytest.raises(ConfigError, match='not a policy for the robot, task and network'):
        open_use(RunRequest(), source, share, tmp_path, NOW)
    policy.unlink()
    with pytest.raises(ConfigError, match='has not saved it yet'):
        open_use(RunRequest(), source, share, tmp_path, NOW)
    assert not list(tmp_path.glob('runs/*-use'))
