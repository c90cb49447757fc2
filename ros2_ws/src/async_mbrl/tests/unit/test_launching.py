"""The launch file says the same as the command; with recording stand-ins where launch is not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from async_mbrl.bringup.arguments import ARGUMENTS, RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import describe
from async_mbrl.bringup.transport import PROFILES, RANGE

REAL = importlib.util.find_spec('launch_ros') is not None


class Recorded:
    """Remembers what it was made with, under the names that launch uses for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named = arguments, named


STAND_INS = {
    'launch': ('LaunchDescription',),
    'launch.actions': ('DeclareLaunchArgument', 'LogInfo', 'OpaqueFunction', 'Shutdown',
                       'TimerAction'),
    'launch.launch_context': ('LaunchContext',),
    'launch.substitutions': ('LaunchConfiguration',),
    'launch_ros': (),
    'launch_ros.actions': ('Node',),
}


@pytest.fixture
def launching() -> Iterator[Any]:
    """Give the module, on real launch or on stand-ins."""
    if not REAL:
        for name, classes in STAND_INS.items():
            module = types.ModuleType(name)
            for one in classes:
                setattr(module, one, type(one, (Recorded,), {}))
            sys.modules[name] = module
    yield importlib.import_module('async_mbrl.bringup.launching')
    for name in ('async_mbrl.bringup.launching', *(() if REAL else STAND_INS)):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(('file', 'first', 'missing', 'dry_run'), [
    ('sim', 'task', 'where', 'false'), ('real_arm', 'task', 'real_time_factor', 'true'),
    ('robot', 'where', '', ''), ('learners', 'where', '', '')])
def test_the_launch_files_declare_the_arguments_of_the_command(
        launching: Any, package_root: Path, file: str, first: str, missing: str,
        dry_run: str) -> None:
    content = runpy.run_path(str(package_root / f'launch/{file}.launch.py'))
    description = content['generate_launch_description']()
    declared = (description.get_launch_arguments() if REAL else
                [item for item in description.arguments[0] if 'description' in item.named])
    names = [item.name if REAL else item.arguments[0] for item in declared]
    expected = [argument.name for argument in ARGUMENTS]
    assert names[0] == first
    assert [name for name in names if name != 'where'] == [
        name for name in expected if name != missing]
    options = {name: {'choices': item.choices, 'default_value': item.default_value[0].text}
               if REAL else item.named for name, item in zip(names, declared, strict=True)}
    assert options['algorithm']['choices'] == (
        'awac', 'mb_mpo', 'mbpo', 'me_ppo', 'me_trpo', 'pets', 'ppo', 'sac', 'svg')
    assert options['seed']['choices'] is None
    assert options['dry_run']['default_value'] == dry_run
    if first == 'where':
        assert options['where']['default_value'] == 'real'


def test_every_node_becomes_an_action(launching: Any, package_root: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(launching, 'Node', lambda **named: made.append(named))
    descriptions = describe(compose(RunRequest(), package_root, Path('/run')))
    launching.actions(descriptions, {item.name: Path(f'/p/{item.name}.yaml')
                                     for item in descriptions}, Path('/run'))
    assert [named['executable'] for named in made] == [item.name for item in descriptions]
    for named, item in zip(made, descriptions, strict=True):
        assert named['parameters'] == [f'/p/{item.name}.yaml']
        assert 'respawn' not in named and callable(named['on_exit'])
        assert named['additional_env']['OMP_NUM_THREADS'] == '1'


def test_the_end_of_a_required_node_ends_the_launch(launching: Any, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    going = types.SimpleNamespace(is_shutdown=False)
    ended = launching.on_exit('robot_interface', tmp_path)
    assert [type(action).__name__ for action in
            ended(types.SimpleNamespace(returncode=0), going)] == ['LogInfo', 'Shutdown']
    said: list[str] = []
    monkeypatch.setattr(launching, 'LogInfo', lambda msg: said.append(msg))
    for phase, reason in (('done', ''), ('learning', 'interrupted')):
        (tmp_path / 'summary.json').write_text(json.dumps({'phase': phase, 'reason': reason}))
        ended(types.SimpleNamespace(returncode=0), going)
    assert [text.split()[0] for text in said] == ['run', 'stopped;']
    died = launching.on_exit('controller', Path('/run'))
    assert [type(action).__name__ for action in
            died(types.SimpleNamespace(returncode=-9), going)] == ['OpaqueFunction']
    assert died(types.SimpleNamespace(returncode=-9),
                types.SimpleNamespace(is_shutdown=True)) == []
    with pytest.raises(RuntimeError, match='controller ended with status -9'):
        launching.fail(going, 'controller', -9)


def test_a_learner_is_started_again_unless_it_is_done(launching: Any, package_root: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, 'Node', lambda **named: named)
    monkeypatch.setattr(launching, 'TimerAction', lambda **named: named)
    learner = next(item for item in describe(compose(RunRequest(), package_root, Path('/run')))
                   if item.respawn)
    ended = launching.again(learner, Path('/p.yaml'), Path('/run'))
    going = types.SimpleNamespace(is_shutdown=False)
    assert ended(types.SimpleNamespace(returncode=0), going) == []
    assert ended(types.SimpleNamespace(returncode=-9),
                 types.SimpleNamespace(is_shutdown=True)) == []
    _, later = ended(types.SimpleNamespace(returncode=-9), going)
    assert later['period'] == launching.RESPAWN_DELAY_S
    assert later['actions'][0]['name'] == learner.name
    assert [type(action).__name__ for action in
            ended(types.SimpleNamespace(returncode=2), going)] == ['OpaqueFunction']


@pytest.mark.skipif(REAL, reason='reads how the stand-ins were made')
def test_an_argument_that_is_given_counts_also_at_its_default(
        launching: Any, package_root: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunRequest] = []

    def open_run(request: RunRequest, *_others: Any) -> None:
        asked.append(request)
        raise launching.ConfigError('enough')

    monkeypatch.setattr(launching, 'open_run', open_run)
    values = {argument.name: argument.default for argument in ARGUMENTS}
    monkeypatch.setattr(launching, 'LaunchConfiguration', lambda name: types.SimpleNamespace(
        perform=lambda _context: values[name]))
    note, *_, start = launching.graph(launching.SIM, package_root)
    note.named['function'](types.SimpleNamespace(launch_configurations={'seed': '0'}))
    with pytest.raises(RuntimeError, match='enough'):
        start.named['function'](None, *start.named['args'])
    assert asked == [RunRequest(where='sim', seed=0)]


@pytest.mark.skipif(REAL, reason='reads how the stand-ins were made')
@pytest.mark.parametrize(('file', 'given', 'expected', 'seen'), [
    ('ROBOT_PC', {}, RunRequest(where='real'), 'SUBNET'),
    ('ROBOT_PC', {'where': 'sim'}, RunRequest(where='sim'), 'SUBNET'),
    ('ROBOT_PC', {'dry_run': 'false'}, RunRequest(where='real', dry_run=False), 'SUBNET'),
    ('SIM', {}, RunRequest(where='sim'), 'SYSTEM_DEFAULT'),
    ('REAL_ARM', {}, RunRequest(where='real'), None)])
def test_who_is_looked_for_and_moves_only_when_told(
        launching: Any, package_root: Path, monkeypatch: pytest.MonkeyPatch, file: str,
        given: dict[str, str], expected: RunRequest, seen: str | None) -> None:
    file = getattr(launching, file)
    asked: list[RunRequest] = []

    def open_run(request: RunRequest, *_others: Any) -> None:
        asked.append(request)
        raise launching.ConfigError('enough')

    monkeypatch.setattr(launching, 'open_run', open_run)
    for name in (RANGE, PROFILES):     # set first, so that what is set here is taken back
        monkeypatch.setenv(name, 'before')
        monkeypatch.delenv(name)
    values = {item.name: item.default for item in file.arguments} | given
    monkeypatch.setattr(launching, 'LaunchConfiguration', lambda name: types.SimpleNamespace(
        perform=lambda _context: values[name]))
    with pytest.raises(RuntimeError, match='enough'):
        launching.start(None, file, set(given))
    assert asked == [expected]
    assert os.environ.get(RANGE) == seen


@pytest.mark.skipif(REAL, reason='reads how the stand-ins were made')
def test_a_device_is_looked_for_where_learners_are_started(
        launching: Any, package_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The robot PC is given the same arguments, but learns nothing."""
    checks = []

    def open_run(*arguments: Any) -> None:
        checks.append(arguments[4])
        raise launching.ConfigError('enough')

    claimed: list[Any] = []
    monkeypatch.setattr(launching, 'open_run', open_run)
    monkeypatch.setattr(launching, 'DomainClaim', lambda _nodes: types.SimpleNamespace(
        claim_for=claimed.append))
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setenv(RANGE, 'SUBNET')
    values = {item.name: item.default for item in launching.ROBOT_PC.arguments}
    monkeypatch.setattr(launching, 'LaunchConfiguration', lambda name: types.SimpleNamespace(
        perform=lambda _context: values[name]))
    composition = compose(RunRequest(device='cuda'), package_root, Path('/run'))
    for file in (launching.ROBOT_PC, launching.WORKSTATION):
        with pytest.raises(RuntimeError, match='enough'):
            launching.start(None, file, set())
    on_robot, on_workstation = checks
    on_robot(composition)
    assert claimed == [composition]
    with pytest.raises(launching.ConfigError, match="device: 'cuda' is not there"):
        on_workstation(composition)
    assert claimed == [composition]
