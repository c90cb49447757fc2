"""From arguments and YAML files to the checked configuration of a whole run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import SCHEDULES, RunRequest, default
from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.control.settings import ControllerSettings
from async_mbrl.control.watchdog import GuardSettings
from async_mbrl.core.config import ConfigError, load, read_yaml, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
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


@dataclass(frozen=True)
class Composition:
    """Configuration of every part of a run, each checked, and together found to fit."""

    run: RunSettings
    robot: RobotConfig
    plant: PlantConfig
    task: TaskConfig
    collection: CollectionConfig
    controller: ControllerSettings
    guard: GuardSettings
    model: ModelConfig
    network: PolicyNetworkConfig
    exploration: ExplorationConfig
    improvement: Any
    schedule: str = 'async'

    def to_mapping(self) -> dict[str, Any]:
        """Give nested dicts and lists, as they stand in the ``config.yaml`` of a run."""
        mapping: dict[str, Any] = {'schedule': self.schedule}
        for section in SECTIONS:
            mapping[section] = to_mapping(getattr(self, section))
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
    robot = _choose('robot', request.robot, resources.robots(share))
    task = _choose('task', request.task, resources.tasks(share))
    algorithm = _choose('algorithm', request.algorithm, resources.algorithms(share))
    schedule = _choose('schedule', request.schedule, SCHEDULES)
    motion_time = request.motion_time
    files = {
        'robot': share / 'config' / 'robots' / f'{robot}.yaml',
        'plant': share / 'config' / 'robots' / f'{robot}.sim.yaml',
        'task': share / 'config' / 'tasks' / f'{task}.yaml',
    }
    algorithm_file = share / 'config' / 'algorithms' / f'{algorithm}.yaml'
    mapping: dict[str, Any] = {
        'run': {
            'run_dir': str(run_dir), 'seed': int(default('seed')) if request.seed is None
            else request.seed, 'algorithm': algorithm,
            'real_time_factor': float(default('real_time_factor'))
            if request.real_time_factor is None else request.real_time_factor},
        'collection': {'motion_time_s': float(default('motion_time')) if motion_time is None
                       else motion_time},
        'controller': {},
        'guard': {},
    }
    for section, file in files.items():
        mapping[section] = read_yaml(file)
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
    return _checked(mapping, schedule, origin)


def recompose(mapping: Mapping[str, Any], source: Path) -> Composition:
    """Check again the configuration that a run folder holds.

    Args:
        mapping: what :meth:`Composition.to_mapping` gave.
        source: file it comes from, for error messages.

    Raises:
        ConfigError: it does not fit.
    """
    for section in mapping:
        if section not in (*SECTIONS, 'schedule'):
            raise ConfigError(f'{section}: unknown key (in {source}); known here: '
                              f'{", ".join(SECTIONS)}')
    for section in SECTIONS:
        if section not in mapping:
            raise ConfigError(f'{section}: missing (in {source}); this is not the configuration '
                              'of a run of this version')
    schedule = _choose('schedule', mapping.get('schedule'), SCHEDULES)
    return _checked(mapping, schedule, dict.fromkeys(SECTIONS, str(source)))


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
        if section not in SECTIONS:
            raise ConfigError(f'{key.strip()}: unknown key; keys begin with one of: '
                              f'{", ".join(SECTIONS)}')
        try:
            value = _plain(yaml.safe_load(text))
        except yaml.YAMLError:
            raise ConfigError(f'{key.strip()}: {text!r} is not a value') from None
        node = mapping[section]
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
        where = f' (in {origin[section]})' if section in origin else ''
        raise ConfigError(f'{error}{where}') from None


def _add_kinematics(mapping: dict[str, Any], origin: Mapping[str, str]) -> None:
    """Fill in the kinematics of the robot from the model of the simulation."""
    from async_mbrl.simulation.model import find_model, kinematics_from_model, load_model

    robot = mapping['robot']
    names = robot.get('joint_names')
    if 'kinematics' in robot or not isinstance(names, list):
        return
    model = load_model(find_model(robot['model']))
    robot['kinematics'] = to_mapping(
        kinematics_from_model(model, tuple(names), tuple(robot.get('tool_sites', ()))))


def _checked(mapping: Mapping[str, Any], schedule: str, origin: Mapping[str, str]) -> Composition:
    from async_mbrl.simulation.model import check_model, find_model, load_model

    run = _load(RunSettings, mapping, 'run', origin)
    if run.algorithm not in IMPROVEMENTS:
        raise ConfigError(f'run.algorithm: no algorithm {run.algorithm!r}; this version has: '
                          f'{", ".join(IMPROVEMENTS)}')
    composition = Composition(
        run=run,
        robot=_load(RobotConfig, mapping, 'robot', origin),
        plant=_load(PlantConfig, mapping, 'plant', origin),
        task=_load(TaskConfig, mapping, 'task', origin),
        collection=_load(CollectionConfig, mapping, 'collection', origin),
        controller=_load(ControllerSettings, mapping, 'controller', origin),
        guard=_load(GuardSettings, mapping, 'guard', origin),
        model=_load(ModelConfig, mapping, 'model', origin),
        network=_load(PolicyNetworkConfig, mapping, 'network', origin),
        exploration=_load(ExplorationConfig, mapping, 'exploration', origin),
        improvement=_load(IMPROVEMENTS[run.algorithm], mapping, 'improvement', origin),
        schedule=schedule)
    make_task(composition.task, composition.robot)
    try:
        check_network(composition.improvement, composition.network)
    except ConfigError as error:
        where = f' (in {origin["network"]})' if 'network' in origin else ''
        raise ConfigError(f'{error}{where}') from None
    model = load_model(find_model(composition.robot.model))
    try:
        check_model(model, composition.robot)
    except ConfigError as error:
        where = f' (in {origin["robot"]})' if 'robot' in origin else ''
        raise ConfigError(f'robot.{error}{where}') from None
    return composition


def with_run(composition: Composition, run_dir: Path, motion_time_s: float) -> Composition:
    """Give the configuration with another folder and motion time."""
    return dataclasses.replace(
        composition,
        run=dataclasses.replace(composition.run, run_dir=str(run_dir)),
        collection=dataclasses.replace(composition.collection, motion_time_s=motion_time_s))
