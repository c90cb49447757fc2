"""From arguments and YAML files to the checked configuration of a whole run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import PLACES, RunRequest, default
from async_mbrl.bringup.checks import check, stands_in
from async_mbrl.bringup.composition import SECTIONS, Composition
from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.control.settings import ControllerSettings, TakeoverSettings
from async_mbrl.control.watchdog import GuardSettings
from async_mbrl.core.config import ConfigError, load, parse_yaml, read_yaml, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.core.schedule import SCHEDULES, ScheduleConfig
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.settings import IMPROVEMENTS
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.tasks import TaskConfig

ALGORITHM_SECTIONS = ('model', 'network', 'exploration', 'improvement')
"""Sections that the file of an algorithm has."""

FAULT_PATIENCE_S = 600.0
"""Time that a run on a real arm waits for somebody to clear a fault, if nothing else is said."""


def compose(request: RunRequest, share: Path, run_dir: Path) -> Composition:
    """Build the configuration of a new run.

    Args:
        request: what was asked for.
        share: folder that holds ``config/``.
        run_dir: folder that the run will have.

    Raises:
        ConfigError: anything that does not exist, is not known, is missing, is of the wrong type
            or range, or does not fit together.
    """
    robot = default('robot') if request.robot is None else request.robot
    robot_file = resources.robot_file(share, robot)
    if robot_file is None:
        raise ConfigError(f'robot: no robot {robot!r}; this version has: '
                          f'{", ".join(resources.robots(share))}; or give the path of a YAML file')
    task = _choose('task', request.task or resources.own_task(robot_file),
                   resources.tasks(share))
    algorithm = _choose('algorithm', request.algorithm, resources.algorithms(share))
    schedule = _choose('schedule', request.schedule, SCHEDULES)
    where = _choose('where', request.where, PLACES)
    files = {
        'robot': robot_file,
        'plant': robot_file.with_suffix('.sim.yaml'),
        'task': share / 'config' / 'tasks' / f'{task}.yaml',
    }
    mapping: dict[str, Any] = {
        'run': {
            'run_dir': str(run_dir), 'seed': int(default('seed')) if request.seed is None
            else request.seed, 'algorithm': algorithm,
            'real_time_factor': float(default('real_time_factor'))
            if request.real_time_factor is None else request.real_time_factor,
            'dataset': absolute(request.dataset), 'init_from': absolute(request.init_from),
            'device': default('device') if request.device is None else request.device},
        'collection': {'motion_time_s': float(default('motion_time'))
                       if request.motion_time is None else request.motion_time},
        'controller': {},
        'guard': {},
        'schedule': {'name': schedule},
        'takeover': {'node': request.takeover_node},
    }
    _place(mapping, where, request.dry_run)
    if where == 'real' and not files['plant'].exists():
        mapping['plant'] = None
        del files['plant']
    elif not files['plant'].exists():
        raise ConfigError(f'robot: {robot} cannot be simulated: there is no {files["plant"]}; '
                          'begin with a copy of one of those in config/robots of the package')
    for section, file in files.items():
        mapping[section] = read_yaml(file)
    own = robot_file.parent != share / 'config' / 'robots'
    if own:
        _find_own_model(mapping['robot'], robot_file)
    ranges = (robot_file.parent if own else share / 'config' / 'tasks') / (
        f'{task}.{robot_file.stem}.yaml')
    if ranges.exists():
        mapping['task'].update(read_yaml(ranges))
        files['task'] = ranges
    _add_algorithm(mapping, files, share / 'config' / 'algorithms', algorithm, robot_file)
    overridden = override(mapping, request.set)
    origin = {section: str(file) for section, file in files.items() if section not in overridden}
    _add_kinematics(mapping, origin)
    return dataclasses.replace(_with_learners(_checked(mapping, where, origin)),
                               robot_file=str(robot_file) if own else '')


def _add_algorithm(mapping: dict[str, Any], files: dict[str, Path], folder: Path, algorithm: str,
                   robot_file: Path) -> None:
    """Put in the settings of an algorithm, in place, with what differs for a kind or a robot.

    ``<algorithm>.yaml`` says everything. ``<algorithm>.<kind>.yaml``, then
    ``<algorithm>.<robot>.yaml``, change what they name. The latter lies beside the file of a robot
    that is not one of the package.

    Raises:
        ConfigError: a section is missing, or is none.
    """
    file, kind = folder / f'{algorithm}.yaml', mapping['robot'].get('kind')
    parts = read_yaml(file)
    for section in ALGORITHM_SECTIONS:
        if section not in parts:
            raise ConfigError(f'{section}: missing (in {file}); give it its settings')
    own = folder if robot_file.parent.parent == folder.parent else robot_file.parent
    changes = {file: parts}
    if kind == 'benchmark':     # nothing is known of how such a body is built
        changes[robot_file] = {'model': {'kind': 'plain'}}
    for path in (folder / f'{algorithm}.{kind}.yaml', own / f'{algorithm}.{robot_file.stem}.yaml'):
        if path.exists():
            changes[path] = read_yaml(path)
    for path, content in changes.items():
        for section, values in content.items():
            if section not in ALGORITHM_SECTIONS:
                raise ConfigError(f'{section}: unknown key (in {path}); known here: '
                                  f'{", ".join(ALGORITHM_SECTIONS)}')
            before = mapping.get(section)
            if isinstance(before, dict) and isinstance(values, dict):
                before.update(values)
            else:       # what is no mapping is told when the section is loaded
                mapping[section] = values
            files[section] = path


def _with_learners(composition: Composition) -> Composition:
    """Say which learners take part: that of the model only where it is a process of its own."""
    if composition.improvement.NEEDS_MODEL and not composition.schedule.sequential:
        return composition
    return dataclasses.replace(composition, collection=dataclasses.replace(
        composition.collection, learners=('policy_learner',)))


def compose_use(source: Composition, root: Path, request: RunRequest,
                run_dir: Path) -> Composition:
    """Build the configuration of a run that uses what another one has learned.

    Args:
        source: configuration of the other run.
        root: its folder.
        request: where to use it, and whether to send commands.
        run_dir: folder that the run will have.

    Raises:
        ConfigError: the other run has nothing to be used there.
    """
    where = _choose('where', request.where, PLACES)
    if source.run.mode == 'use':
        raise ConfigError(f'{root}: this run has learned nothing, it uses '
                          f'{source.run.policy_from}; name that one')
    if source.run.dry_run:
        raise ConfigError(f'{root}: this was a dry run, its policy comes from an arm that did not '
                          'move; learn with --no-dry-run, or in simulation, and name that run')
    if where == 'sim' and source.plant is None:
        raise ConfigError(f'{root}: robot {source.robot.name} cannot be simulated, it has no '
                          f'{source.robot.name}.sim.yaml; use it with --where real')
    mapping = source.to_mapping()
    mapping['run'].update(mode='use', policy_from=str(root), run_dir=str(run_dir), dataset='',
                          init_from='', device=default('device'))
    mapping['collection']['learners'] = ['policy_learner']
    mapping['takeover']['node'] = ''
    if where == 'real':
        mapping['run']['real_time_factor'] = 1.0
    _place(mapping, where, request.dry_run)
    return dataclasses.replace(_checked(mapping, where, {}),
                               robot_file=source.robot_file)


def _find_own_model(robot: dict[str, Any], file: Path) -> None:
    """Let the model and the name of a robot outside the package go by its file, in place.

    Raises:
        ConfigError: the robot has another name than its file.
    """
    if robot.get('name') != file.stem:
        raise ConfigError(f'robot.name: {robot.get("name")!r}, but its file is {file}; give both '
                          'the same name')
    beside = file.parent / str(robot.get('model', ''))
    if beside.is_file():
        robot['model'] = str(beside)


def _place(mapping: dict[str, Any], where: str, dry_run: bool | None) -> None:
    """Put in what differs between simulation and a real arm, in place."""
    real = where == 'real'
    mapping['run']['dry_run'] = real if dry_run is None else dry_run
    mapping['guard']['latch'] = real
    if real:
        mapping['collection']['fault_patience_s'] = FAULT_PATIENCE_S


def recompose(mapping: Mapping[str, Any], source: Path) -> Composition:
    """Check again the configuration that a run folder holds.

    Args:
        mapping: what :meth:`Composition.to_mapping` gave.
        source: file it comes from, for error messages.

    Raises:
        ConfigError: it does not fit.
    """
    for section in mapping:
        if section not in (*SECTIONS, 'where', 'robot_file'):
            raise ConfigError(f'{section}: unknown key (in {source}); known here: '
                              f'{", ".join(SECTIONS)}')
    for section in (*SECTIONS, 'where', 'robot_file'):
        if section not in mapping:
            raise ConfigError(f'{section}: missing (in {source}); this is not the configuration '
                              'of a run of this version')
    where = _choose('where', mapping['where'], PLACES)
    return dataclasses.replace(
        _checked(mapping, where, dict.fromkeys(SECTIONS, str(source))),
        robot_file=str(mapping['robot_file']))


def override(mapping: dict[str, Any], changes: Sequence[str]) -> set[str]:
    """Put ``key.path=value`` into a nested mapping, in place; give the sections touched.

    Values are read as YAML. Whether a key exists is found when the section is loaded.

    Raises:
        ConfigError: not of the form ``key.path=value``, or no such section.
    """
    touched = set()
    for change in changes:
        key, equals, text = change.partition('=')
        section, *path = key.strip().split('.')
        if not equals or not path or not all(path):
            raise ConfigError(f'set: expected key.path=value, got {change!r}')
        if section == 'run':
            raise ConfigError(f'{key.strip()}: not to be set; for settings of the run there are '
                              'arguments, such as seed, run_dir or dry_run')
        if section not in SECTIONS:
            raise ConfigError(f'{key.strip()}: unknown key; keys begin with one of: '
                              f'{", ".join(SECTIONS[1:])}')
        try:
            value = _plain(parse_yaml(text))
        except ConfigError:
            raise ConfigError(f'{key.strip()}: {text!r} is not a value') from None
        node = mapping[section]
        if node is None:
            raise ConfigError(f'{key.strip()}: this robot has no {section}; there is no file for '
                              'it')
        for name in path[:-1]:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ConfigError(f'{key.strip()}: unknown key; {name} holds {node!r}, not keys')
        node[path[-1]] = value
        touched.add(section)
    return touched


def absolute(given: str | None) -> str:
    """Give a path that holds wherever a node is started; empty for none."""
    return str(Path(given).expanduser().resolve()) if given else ''


def _plain(value: Any) -> Any:
    """Read what YAML 1.1 takes for text although it is a number, such as 1e-3."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value[:1] in '+-.0123456789' and value:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _choose(name: str, given: str | None, existing: Sequence[str]) -> str:
    value = default(name) if given is None else given
    if value not in existing:
        raise ConfigError(f'{name}: no {name} {value!r}; this version has: {", ".join(existing)}')
    return value


def _load(cls: type[Any], mapping: Mapping[str, Any], section: str,
          origin: Mapping[str, str]) -> Any:
    try:
        return load(cls, mapping[section], section)
    except ConfigError as error:
        raise ConfigError(f'{error}{stands_in(section, origin)}') from None


def _add_kinematics(mapping: dict[str, Any], origin: Mapping[str, str]) -> None:
    """Fill in the kinematics of the robot from its model.

    Raises:
        ConfigError: the model does not exist, or is not that of the robot.
    """
    from async_mbrl.simulation.model import robot_kinematics

    robot = mapping['robot']
    # What is missing or of the wrong type is told when the section is loaded.
    if 'kinematics' in robot or robot.get('kind', 'arm') != 'arm' or not (
            isinstance(robot.get('joint_names'), list) and isinstance(robot.get('model'), str)):
        return
    try:
        robot['kinematics'] = to_mapping(robot_kinematics(robot))
    except ConfigError as error:
        raise ConfigError(f'robot.{error}{stands_in("robot", origin)}') from None


def _checked(mapping: Mapping[str, Any], where: str, origin: Mapping[str, str]) -> Composition:
    """Load every section, and see to it that they fit together; ``origin``: their files."""
    run = _load(RunSettings, mapping, 'run', origin)
    if run.algorithm not in IMPROVEMENTS:
        raise ConfigError(f'run.algorithm: no algorithm {run.algorithm!r}; this version has: '
                          f'{", ".join(IMPROVEMENTS)}')
    composition = Composition(
        run=run,
        robot=_load(RobotConfig, mapping, 'robot', origin),
        plant=None if mapping['plant'] is None else _load(PlantConfig, mapping, 'plant', origin),
        task=_load(TaskConfig, mapping, 'task', origin),
        collection=_load(CollectionConfig, mapping, 'collection', origin),
        controller=_load(ControllerSettings, mapping, 'controller', origin),
        guard=_load(GuardSettings, mapping, 'guard', origin),
        model=_load(ModelConfig, mapping, 'model', origin),
        network=_load(PolicyNetworkConfig, mapping, 'network', origin),
        exploration=_load(ExplorationConfig, mapping, 'exploration', origin),
        improvement=_load(IMPROVEMENTS[run.algorithm], mapping, 'improvement', origin),
        schedule=_load(ScheduleConfig, mapping, 'schedule', origin),
        takeover=_load(TakeoverSettings, mapping, 'takeover', origin), where=where)
    return check(composition, origin)
