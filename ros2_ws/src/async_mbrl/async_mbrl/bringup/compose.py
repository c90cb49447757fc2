"""From arguments and YAML files to the checked configuration of a whole run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import PLACES, SCHEDULES, RunRequest, default
from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.control.settings import ControllerSettings
from async_mbrl.control.watchdog import GuardSettings
from async_mbrl.core.config import ConfigError, load, parse_yaml, read_yaml, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import JointLimits, RobotConfig, WorkspaceLimits, tighten
from async_mbrl.core.run import RunSettings
from async_mbrl.learning.config import (
    IMPROVEMENTS,
    ExplorationConfig,
    ModelConfig,
    check_network,
)
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.tasks import TaskConfig, make_task

SECTIONS = ('run', 'robot', 'plant', 'task', 'collection', 'controller', 'guard', 'model',
            'network', 'exploration', 'improvement')

FAULT_PATIENCE_S = 600.0
"""Time that a run on a real arm waits for somebody to clear a fault, if nothing else is said."""

HEARTBEATS_IN_TIMEOUT = 4
"""Control ticks, and so heartbeats at the most, that guard must wait for before it acts."""


@dataclass(frozen=True)
class Composition:
    """Configuration of every part of a run, each checked, and together found to fit.

    Without ``plant`` the robot cannot be simulated. ``robot_file`` is the path of the robot's file
    where the robot is not one of the package. ``notes`` are lines to be said at the start: what
    has tightened which limits.
    """

    run: RunSettings
    robot: RobotConfig
    plant: PlantConfig | None
    task: TaskConfig
    collection: CollectionConfig
    controller: ControllerSettings
    guard: GuardSettings
    model: ModelConfig
    network: PolicyNetworkConfig
    exploration: ExplorationConfig
    improvement: Any
    schedule: str = 'async'
    where: str = 'sim'
    robot_file: str = ''
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def to_mapping(self) -> dict[str, Any]:
        """Give nested dicts and lists, as they stand in the ``config.yaml`` of a run."""
        mapping: dict[str, Any] = {'schedule': self.schedule, 'where': self.where,
                                   'robot_file': self.robot_file}
        for section in SECTIONS:
            part = getattr(self, section)
            mapping[section] = None if part is None else to_mapping(part)
        return mapping

    def to_yaml(self) -> str:
        """Give the text of ``config.yaml``."""
        return '# Configuration as used; a resumed run reads it again.\n' + yaml.safe_dump(
            self.to_mapping(), sort_keys=False, default_flow_style=None, width=100)


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
    task = _choose('task', request.task, resources.tasks(share))
    algorithm = _choose('algorithm', request.algorithm, resources.algorithms(share))
    schedule = _choose('schedule', request.schedule, SCHEDULES)
    where = _choose('where', request.where, PLACES)
    files = {
        'robot': robot_file,
        'plant': robot_file.with_suffix('.sim.yaml'),
        'task': share / 'config' / 'tasks' / f'{task}.yaml',
    }
    algorithm_file = share / 'config' / 'algorithms' / f'{algorithm}.yaml'
    mapping: dict[str, Any] = {
        'run': {
            'run_dir': str(run_dir), 'seed': int(default('seed')) if request.seed is None
            else request.seed, 'algorithm': algorithm,
            'real_time_factor': float(default('real_time_factor'))
            if request.real_time_factor is None else request.real_time_factor},
        'collection': {'motion_time_s': float(default('motion_time'))
                       if request.motion_time is None else request.motion_time},
        'controller': {},
        'guard': {},
    }
    _place(mapping, where, request.dry_run)
    if where == 'real' and not files['plant'].exists():
        mapping['plant'] = None
        del files['plant']
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
    parts = read_yaml(algorithm_file)
    known = ('model', 'network', 'exploration', 'improvement')
    for section in parts:
        if section not in known:
            raise ConfigError(f'{section}: unknown key (in {algorithm_file}); known here: '
                              f'{", ".join(known)}')
    for section in known:
        if section not in parts:
            raise ConfigError(f'{section}: missing (in {algorithm_file}); give it its settings')
        mapping[section] = parts[section]
        files[section] = algorithm_file
    overridden = override(mapping, request.set)
    origin = {section: str(file) for section, file in files.items() if section not in overridden}
    _add_kinematics(mapping, origin)
    return dataclasses.replace(_checked(mapping, schedule, where, origin),
                               robot_file=str(robot_file) if own else '')


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
    mapping['run'].update(mode='use', policy_from=str(root), run_dir=str(run_dir))
    mapping['collection']['learners'] = ['policy_learner']
    if where == 'real':
        mapping['run']['real_time_factor'] = 1.0
    _place(mapping, where, request.dry_run)
    return dataclasses.replace(_checked(mapping, source.schedule, where, {}),
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
        if section not in (*SECTIONS, 'schedule', 'where', 'robot_file'):
            raise ConfigError(f'{section}: unknown key (in {source}); known here: '
                              f'{", ".join(SECTIONS)}')
    for section in (*SECTIONS, 'where', 'robot_file'):
        if section not in mapping:
            raise ConfigError(f'{section}: missing (in {source}); this is not the configuration '
                              'of a run of this version')
    schedule = _choose('schedule', mapping.get('schedule'), SCHEDULES)
    where = _choose('where', mapping['where'], PLACES)
    return dataclasses.replace(
        _checked(mapping, schedule, where, dict.fromkeys(SECTIONS, str(source))),
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
        raise ConfigError(f'{error}{_origin(section, origin)}') from None


def _add_kinematics(mapping: dict[str, Any], origin: Mapping[str, str]) -> None:
    """Fill in the kinematics of the robot from its model.

    Raises:
        ConfigError: the model does not exist, or is not that of the robot.
    """
    from async_mbrl.simulation.model import robot_kinematics

    robot = mapping['robot']
    # What is missing or of the wrong type is told when the section is loaded.
    if 'kinematics' in robot or not (isinstance(robot.get('joint_names'), list)
                                     and isinstance(robot.get('model'), str)):
        return
    try:
        robot['kinematics'] = to_mapping(robot_kinematics(robot))
    except ConfigError as error:
        raise ConfigError(f'robot.{error}{_origin("robot", origin)}') from None


def _checked(mapping: Mapping[str, Any], schedule: str, where: str,
             origin: Mapping[str, str]) -> Composition:
    from async_mbrl.simulation.model import find_model, is_urdf, load_plant

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
        schedule=schedule, where=where)
    if where == 'sim' and composition.plant is None:
        raise ConfigError('plant: missing; a robot without it cannot be simulated')
    if where == 'real' and run.real_time_factor != 1.0:
        raise ConfigError(f'real_time_factor: {run.real_time_factor}, but a real arm keeps to the '
                          'clock; leave it 1')
    _check_guard(composition)
    make_task(composition.task, composition.robot)
    try:
        check_network(composition.improvement, composition.network)
    except ConfigError as error:
        raise ConfigError(f'{error}{_origin("network", origin)}') from None
    path = find_model(composition.robot.model)
    if is_urdf(path):
        composition = with_urdf(composition, path.read_text(), str(path))
    if composition.plant is not None:
        try:
            load_plant(composition.robot)
        except ConfigError as error:
            raise ConfigError(f'robot.{error}{_origin("robot", origin)}') from None
    return composition


def _check_guard(composition: Composition) -> None:
    """See to it that guard does not take a slow control loop for a silent one.

    Raises:
        ConfigError: heartbeats, of which there is one a control tick at most, come too seldom.
    """
    rate_hz = composition.robot.control_rate_hz * composition.run.real_time_factor
    least_s = HEARTBEATS_IN_TIMEOUT / rate_hz
    if composition.guard.timeout_s < least_s - 1e-9:
        raise ConfigError(f'guard.timeout_s: {composition.guard.timeout_s}, but the controller '
                          f'shows life {rate_hz:g} times a second of wall time (control_rate_hz '
                          f'times real_time_factor); at least {least_s:.3f} s are needed: raise '
                          'control_rate_hz, or guard.timeout_s')


def _origin(section: str, origin: Mapping[str, str]) -> str:
    return f' (in {origin[section]})' if section in origin else ''


def with_run(composition: Composition, run_dir: Path, motion_time_s: float) -> Composition:
    """Give the configuration with another folder and motion time."""
    return dataclasses.replace(
        composition,
        run=dataclasses.replace(composition.run, run_dir=str(run_dir)),
        collection=dataclasses.replace(composition.collection, motion_time_s=motion_time_s))


def with_urdf(composition: Composition, description: str, source: str) -> Composition:
    """Tighten the limits of the robot by those of a URDF; they are never loosened.

    Args:
        composition: the configuration.
        description: text of the URDF.
        source: where it comes from, for error messages.

    Raises:
        ConfigError: it is no URDF, or what is left does not fit the robot or the task.
    """
    from async_mbrl.core import urdf

    robot = composition.robot
    try:
        given = urdf.joint_limits(urdf.parse(description))
        if not set(given) & set(robot.joint_names):
            return noted(composition, f'{source} limits none of the joints: it tightens nothing')
        limits, changes = urdf.tighten(robot.limits, robot.joint_names, given)
        return _tightened(composition, limits, robot.workspace, changes, source)
    except ConfigError as error:
        raise ConfigError(f'robot: {error} (limits of {source})') from None


def with_robot_file(composition: Composition, share: Path) -> Composition:
    """Tighten limits and workspace of an earlier run by what the robot's file says now.

    They are never loosened: what was learned within narrower ones stays there.

    Args:
        composition: configuration of the run.
        share: folder that holds ``config/``.

    Raises:
        ConfigError: the file is not one of a robot, or what is left does not fit.
    """
    robot = composition.robot
    file = resources.robot_file(share, composition.robot_file or robot.name)
    if file is None:
        return noted(composition, f'{composition.robot_file or robot.name} is not there any more: '
                      'limits are those that the run had')
    present = read_yaml(file)
    try:
        if tuple(present.get('joint_names') or ()) != robot.joint_names:
            raise ConfigError('joint_names are not those of the run; give the robot a new name')
        limits, changes = tighten(robot.limits, load(
            JointLimits, present.get('limits') or {}, 'limits'), robot.joint_names)
        workspace, more = tighten(robot.workspace, load(
            WorkspaceLimits, present.get('workspace') or {}, 'workspace'), 'xyz')
        return _tightened(composition, limits, workspace, (*changes, *more), str(file))
    except ConfigError as error:
        raise ConfigError(f'robot: {error} (in {file})') from None


def noted(composition: Composition, line: str) -> Composition:
    """Give the configuration with one more line to be said at the start."""
    return dataclasses.replace(composition, notes=(*composition.notes, line))


def _tightened(composition: Composition, limits: JointLimits, workspace: WorkspaceLimits,
               changes: Sequence[str], source: str) -> Composition:
    """Put in limits; a ConfigError says what does not fit."""
    if not changes:
        return composition
    robot = dataclasses.replace(composition.robot, limits=limits, workspace=workspace)
    make_task(composition.task, robot)
    return noted(dataclasses.replace(composition, robot=robot),
                 f'limits tightened by {source}: {"; ".join(changes)}')
