"""Fuzzed files: configurations, the journal of a run, checkpoints."""

from __future__ import annotations

import atexit
import copy
import dataclasses
import functools
import json
import math
import random
import shutil
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arm7
import torch
import yaml

from async_mbrl.collection.journal import Journal, RecordKind, read_records
from async_mbrl.core.config import ConfigError, load, parse_yaml, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import ArmConfig, BenchmarkConfig, RobotConfig
from async_mbrl.learning import checkpoint
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.settings import IMPROVEMENTS
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.tasks import TaskConfig
from fuzzing import Target, damage

ODD = (0, -1, 1, 2, 1.5, -0.0, 1e300, -1e300, math.nan, math.inf, 10**400, 2**63, True, False, None,
       '', 'x', 'tanh', '1e-3', [], [1], [[1.0]], {}, {'a': 1}, 'a' * 5000)
ODD_TEXT = ('2020-99-99', '!!python/object/apply:os.system [true]', '!!timestamp x', '&a [*a]',
            '*a', '!!int ""', '!!binary x', '!!float []', '0x', '1' * 5000, '[' * 3000, '{' * 500,
            '"\\ud800"', '\x00', '\xff', '? [a]', '<<: 1', '<<: *x', '!!set {a}', '.inf', '-.nan',
            '!!bool maybe', '1:2:3', '0o9', '---\na: 1')


def targets() -> list[Target]:
    """Give the targets of this module; their files lie in a folder that goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix='async_mbrl_fuzz_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [_configs(), _journal(folder / 'journal'), _checkpoint(folder / 'checkpoint')]


# ---- configurations ----

def _sections() -> list[tuple[type, bytes, tuple[str, ...]]]:
    """Give the class, the shipped text and the place in it of each section."""
    found: list[tuple[type, bytes, tuple[str, ...]]] = []
    robots = sorted((arm7.CONFIG / 'robots').glob('*.yaml'))
    for path in robots:
        plant = path.name.endswith('.sim.yaml')
        found.append((PlantConfig if plant else RobotConfig, path.read_bytes(), ()))
    found += [(TaskConfig, path.read_bytes(), ())
              for path in sorted((arm7.CONFIG / 'tasks').glob('*.yaml'))
              if '.' not in path.stem]      # the others hold only what differs for a robot
    for name, improvement in IMPROVEMENTS.items():
        text = (arm7.CONFIG / 'algorithms' / f'{name}.yaml').read_bytes()
        found += [(cls, text, (section,)) for section, cls in (
            ('model', ModelConfig), ('network', PolicyNetworkConfig),
            ('exploration', ExplorationConfig), ('improvement', improvement))]
    return found


@dataclasses.dataclass(frozen=True)
class Config:
    """A text that is read as a section of a configuration."""

    cls: type
    text: bytes
    place: tuple[str, ...]
    untouched: bool


def _configs() -> Target:
    sections = _sections()
    read = [yaml.load(text, Loader=yaml.CSafeLoader) for _, text, _ in sections]
    def make(rng: random.Random) -> tuple[Config, str]:
        number = rng.randrange(len(sections))
        cls, text, place = sections[number]
        if rng.random() < 0.4:
            changed, kind = damage(rng, text)
            return Config(cls, changed, place, changed == text), f'bytes {kind}'
        if rng.random() < 0.3:
            lines = text.decode().splitlines()
            at = rng.randrange(len(lines))
            lines[at] = lines[at].split(':')[0] + ': ' + rng.choice(ODD_TEXT)
            return Config(cls, '\n'.join(lines).encode(), place, False), 'odd text'
        mapping = copy.deepcopy(read[number])
        kind = _change(rng, functools.reduce(lambda node, name: node[name], place, mapping))
        changed = yaml.dump(mapping, Dumper=yaml.CSafeDumper, allow_unicode=True).encode()
        return Config(cls, changed, place, False), kind

    def take(given: Config) -> Any:
        mapping = parse_yaml(given.text)
        for name in given.place:
            if not isinstance(mapping, dict) or name not in mapping:
                raise ConfigError(f'{name}: missing')
            mapping = mapping[name]
        if (given.cls is RobotConfig and isinstance(mapping, dict)
                and mapping.get('kind', 'arm') == 'arm'):
            mapping = {'kinematics': _kinematics(mapping.get('joint_names')), **mapping}
        return load(given.cls, mapping, 'section')

    def judge(given: Config, taken: Any) -> str:
        flaw = _field_flaw(taken) or (_robot_flaw(taken) if given.cls is RobotConfig else '')
        try:
            written = yaml.load(given.text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError as error:
            return f'taken, though it is no YAML: {error}'
        return flaw or _lost(written, given.place, to_mapping(taken))

    return Target('configs', make, take, judge, (ConfigError,), lambda given: given.untouched)


def _kinematics(names: Any) -> dict[str, Any]:
    """Give a chain of as many joints as there are names; what it looks like does not matter."""
    joints = len(names) if isinstance(names, list) else 1
    return {'joint_positions': [0.1] * 3 * joints,
            'joint_quaternions': [1.0, 0.0, 0.0, 0.0] * joints,
            'joint_axes': [0.0, 0.0, 1.0] * joints, 'tool_points': [0.1] * 9}


def _change(rng: random.Random, mapping: dict[str, Any]) -> str:
    """Change a mapping in place."""
    if not mapping:     # a section of which everything has its default
        mapping['more'] = 1.0
        return 'unknown'
    node, names = mapping, list(mapping)
    while True:
        name = rng.choice(names)
        if not isinstance(node[name], dict) or not node[name] or rng.random() < 0.1:
            break
        node = node[name]
        names = list(node)
    kind = rng.choice(('value', 'value', 'value', 'element', 'element', 'shorter', 'longer',
                       'missing', 'unknown', 'moved'))
    if kind == 'value':
        node[name] = copy.deepcopy(rng.choice(ODD))
    elif kind in ('element', 'shorter', 'longer') and isinstance(node[name], list) and node[name]:
        if kind == 'shorter':
            node[name].pop()
        elif kind == 'longer':
            node[name].append(copy.deepcopy(node[name][0]))
        else:
            node[name][rng.randrange(len(node[name]))] = copy.deepcopy(rng.choice(ODD))
    elif kind == 'missing':
        del node[name]
    elif kind == 'unknown':
        node[rng.choice((name + '_', 3, None, True, 'more'))] = 1.0
    else:
        node[name] = copy.deepcopy(node[rng.choice(names)])
    return kind


def _leaves(config: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, Any]]:
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield item, hints[item.name], value


def _field_flaw(config: Any) -> str:
    """Say which value is not of the declared type and range."""
    for item, hint, value in _leaves(config):
        many = typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if many else hint
        for one in value if many else (value,):
            low, high = item.metadata.get('minimum'), item.metadata.get('maximum')
            if type(one) is not kind or (isinstance(one, float) and not math.isfinite(one)):
                return f'{item.name} is {one!r}'
            if (low is not None and not one >= low) or (high is not None and not one <= high):
                return f'{item.name} is {one!r}, outside [{low}, {high}]'
            if item.metadata.get('choices') and one not in item.metadata['choices']:
                return f'{item.name} is {one!r}'
    return ''


def _robot_flaw(robot: RobotConfig) -> str:
    """Say why a robot must not be moved with such limits."""
    if isinstance(robot, BenchmarkConfig):
        return '' if (len(robot.action_scale) == len(robot.joint_names)
                      and min(robot.action_scale) > 0) else 'action_scale'
    assert isinstance(robot, ArmConfig)
    limits, count = robot.limits, len(robot.joint_names)
    for name in ('velocity', 'acceleration', 'jerk', 'effort', 'effort_rate',
                 'braking_acceleration', 'position_lower', 'position_upper'):
        values = getattr(limits, name)
        if len(values) != count or not name.startswith('position') and min(values) <= 0:
            return f'limits.{name} is {values}'
    for low, home, high in zip(limits.position_lower, robot.home, limits.position_upper,
                               strict=True):
        if not low <= home <= high or low == high:
            return 'home or position limits'
    space = robot.workspace
    if any(low >= high for low, high in zip(space.lower, space.upper, strict=True)) \
            or not space.braking_acceleration > 0:
        return 'workspace'
    timeout_s = robot.state_timeout_s
    return '' if 0.005 <= timeout_s <= 0.1 else f'state_timeout_s is {timeout_s}'


def _lost(given: Any, place: tuple[str, ...], taken: dict[str, Any]) -> str:
    """Say which value of a file is not the one that was taken."""
    for name in place:
        given = given[name]

    def differing(wanted: dict[str, Any], found: dict[str, Any]) -> str:
        for key, value in wanted.items():
            if isinstance(value, dict):
                flaw = differing(value, found[key])
                if flaw:
                    return flaw
            elif found[key] != value:
                return f'{key} is {found[key]!r}, not {value!r}'
        return ''
    return differing(given, taken)


# ---- the journal ----

class _JournalMaker:
    """Damages one segment of a journal of two."""

    def __init__(self, home: Path) -> None:
        self.home = home
        journal = Journal(home, {'task': 'x'}, segment_bytes=1500)
        for number in range(40):
            kind = RecordKind.TRANSITION if number % 2 else RecordKind.CONTROL_STEP
            journal.append(kind, number, random.Random(number).randbytes(40 + number))
        journal.close()
        self.segments = {path: path.read_bytes() for path in sorted(home.glob('*.log'))}
        self.meta = (home / 'meta.json').read_bytes()
        self.records = list(read_records(home))

    def __call__(self, rng: random.Random) -> tuple[tuple[Path, bytes], str]:
        if rng.random() < 0.1:
            changed, kind = damage(rng, self.meta)
            return (self.home / 'meta.json', changed), f'meta {kind}'
        path = rng.choice(list(self.segments))
        changed, kind = damage(rng, self.segments[path])
        return (path, changed), kind


def _journal(home: Path) -> Target:
    make = _JournalMaker(home)

    def take(given: tuple[Path, bytes]) -> tuple[list[Any], list[bytes]]:
        shutil.rmtree(home)
        home.mkdir()
        for path, data in {**make.segments, home / 'meta.json': make.meta,
                           given[0]: given[1]}.items():
            path.write_bytes(data)
        before = list(read_records(home))
        journal = Journal(home, {'task': 'x'})
        try:
            read = journal.read_transitions(0, 100)
            journal.append(RecordKind.TRANSITION, 7, b'new')
        finally:
            journal.close()
        after = list(read_records(home))
        if after[:-1] != before or after[-1].payload != b'new':
            raise AssertionError('what was appended does not follow what was there')
        return before, read

    def judge(_given: Any, taken: tuple[list[Any], list[bytes]]) -> str:
        records, transitions = taken
        # A segment cut off between two records cannot be told from a whole one; the numbers of
        # transitions tell, one layer up.
        left = iter(make.records)
        if not all(record in left for record in records):
            return 'records that were never written, or out of order'
        wanted = [record.payload for record in records if record.kind == RecordKind.TRANSITION]
        return '' if transitions == wanted else 'other transitions'

    return Target('journal', make, take, judge, (ConfigError,),
                  lambda given: given[0].suffix == '.log')


# ---- checkpoints ----

class _CheckpointMaker:
    """Damages a checkpoint or its index."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tensors = {'weight': torch.arange(600, dtype=torch.float32)}
        checkpoint.write(home, {'learner': 'x'}, self.tensors, {'updates': 3})
        self.files = {path: path.read_bytes() for path in sorted(home.iterdir())}

    def __call__(self, rng: random.Random) -> tuple[tuple[Path, bytes], str]:
        path = rng.choice(list(self.files))
        if path.suffix == '.json' and rng.random() < 0.5:
            index = json.loads(self.files[path])
            index[rng.choice(sorted(index))] = copy.deepcopy(rng.choice(ODD))
            return (path, json.dumps(index).encode()), 'index'
        changed, kind = damage(rng, self.files[path])
        return (path, changed), kind


def _checkpoint(home: Path) -> Target:
    make = _CheckpointMaker(home)

    def take(given: tuple[Path, bytes]) -> Any:
        for path, data in {**make.files, given[0]: given[1]}.items():
            path.write_bytes(data)
        return checkpoint.read(home, {'learner': 'x'})

    def judge(_given: Any, taken: Any) -> str:
        tensors, about = taken
        same = tensors.keys() == make.tensors.keys() and torch.equal(
            tensors['weight'], make.tensors['weight'])
        return '' if same and about == {'updates': 3} else 'not what was saved'

    return Target('checkpoints', make, take, judge, (CheckpointError,),
                  lambda given: make.files[given[0]] == given[1])


