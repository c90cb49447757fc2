"""Whatever arrives is refused by its size before anything is made of it."""

from __future__ import annotations

import ast
import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import collection_rig
import numpy as np
import pytest
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message

from async_mbrl.collection import journal
from async_mbrl.core import config, snapshot
from async_mbrl.core.config import ConfigError, parse_yaml, read_yaml
from async_mbrl.core.snapshot import HEADER_BYTES, Snapshot, SnapshotError, Version, encode
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.ros import convert
from async_mbrl.ros.bounds import (
    REASON_CHARACTERS,
    STATUS_BYTES,
    MessageError,
    StreamBounds,
    subscribe,
    unpack,
)

PACKAGE = Path(__file__).resolve().parents[2] / 'async_mbrl'
TYPED = {'bounds.py': 'where it is done', 'lifecycle.py': 'passes on what it is given',
         'monitor.py': 'only looks on', 'played_control.py': 'a simulated driver',
         'emergency_stop.py': 'one bit', 'robot_description.py': 'read once, before motion'}
"""Where messages may be taken without a look at their size first, and why."""


def test_every_subscription_looks_at_sizes_first() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                    'create_subscription') and path.name not in TYPED):
                raw = [keyword for keyword in node.keywords if keyword.arg == 'raw']
                if not raw or ast.unparse(raw[0].value) != 'True':
                    found.add(f'{path.relative_to(PACKAGE)}:{node.lineno}')
    assert found == set(), 'use async_mbrl.ros.bounds.subscribe'


def test_serialised_messages_are_unpacked_by_their_bound_alone() -> None:
    """What lies in the journal, and what this process has serialised itself, aside."""
    users = {path.name for path in PACKAGE.rglob('*.py')
             if 'deserialize_message(' in path.read_text()}
    assert users == {'bounds.py', 'run_journal.py', 'streams.py'}


TASK = collection_rig.task()
BOUNDS = StreamBounds.of(TASK)


def largest() -> list[Any]:
    """The longest message of each stream that is right."""
    command = EpisodeCommand(CommandKind.RUN_EPISODE, 2**64 - 1, 7,
                             start_pose=np.zeros(TASK.joints),
                             goal=np.zeros(TASK.goal_size, np.float32), steps=4)
    step = dataclasses.replace(collection_rig.episode(TASK, command)[2],
                               reason='x' * REASON_CHARACTERS)
    transition = Transition(0, 0, 0, *(np.zeros(size, np.float32) for size in (
        BOUNDS.observation, BOUNDS.action, BOUNDS.action, BOUNDS.observation)), 0.0, False, False)
    return [convert.transition_to_message(transition, Time()), convert.step_to_message(step, 1, 2),
            convert.command_to_message(command, 3, Time())]


@pytest.mark.parametrize('message', largest(), ids=lambda message: type(message).__name__)
def test_the_longest_right_message_passes_and_a_longer_one_does_not(message: Any) -> None:
    kind, most = type(message), BOUNDS.most_bytes(type(message))
    data = serialize_message(message)
    assert BOUNDS.flaw(unpack(data, kind, most)) == ''
    assert most < 4 * len(data) + 2048
    message.header.frame_id = 'x' * most
    with pytest.raises(MessageError, match='at most'):
        unpack(serialize_message(message), kind, most)


@pytest.mark.parametrize(('change', 'says'), [
    ({'observation': [0.0]}, 'observation has 1 numbers'),
    ({'action_applied': []}, 'action_applied has 0 numbers'),
    ({'next_observation': [float('nan')] * BOUNDS.observation}, 'not finite'),
    ({'reward': float('inf')}, 'not finite')])
def test_transitions_of_another_shape_are_refused(change: dict[str, Any], says: str) -> None:
    message = largest()[0]
    for name, value in change.items():
        setattr(message, name, value)
    assert says in BOUNDS.flaw(message)


@pytest.mark.parametrize(('change', 'says'), [
    ({'kind': 9}, 'kind 9 is unknown'), ({'mode': 2}, 'mode 2 is unknown'),
    ({'observation': []}, 'observation has 0 numbers'),
    ({'action_requested': [0.0]}, 'action_requested has 1 numbers'),
    ({'reason': 'x' * (REASON_CHARACTERS + 1)}, 'characters')])
def test_control_steps_of_another_shape_are_refused(change: dict[str, Any], says: str) -> None:
    message = largest()[1]
    for name, value in change.items():
        setattr(message, name, value)
    assert says in BOUNDS.flaw(message)


class Stand:
    """Stands in for a node."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def create_subscription(self, _kind: type, _topic: str, callback: Any, _qos: Any,
                            **options: Any) -> Stand:
        assert options['raw']
        self.receive = callback
        return self

    def get_logger(self) -> Stand:
        return self

    def warning(self, text: str, **_more: Any) -> None:
        self.said.append(text)


def test_statuses_that_are_too_long_or_none_are_dropped_and_reported() -> None:
    stand, taken = Stand(), []
    subscribe(stand, msg.RunStatus, 'run_status', taken.append, None)
    stand.receive(serialize_message(msg.RunStatus(reason='x' * STATUS_BYTES)))
    stand.receive(b'\x00\x01\x00\x00nonsense')
    stand.receive(b'')
    assert taken == [] and len(stand.said) == 3 and 'at most' in stand.said[0]
    stand.receive(serialize_message(msg.RunStatus(reason='well')))
    assert [message.reason for message in taken] == ['well']


# ---- snapshots ----

ARCHITECTURE = {'sizes': [1, 1]}


def policy(floats: int) -> Snapshot:
    return Snapshot('policy', Version(1, 1), ARCHITECTURE,
                    {'weight': np.zeros(floats, np.float32)})


def test_a_snapshot_is_not_larger_than_its_architecture_allows() -> None:
    most = 4 * 1000
    right = convert.snapshot_to_messages(policy(1000), 'x', Time())[0]
    assert convert.SnapshotAssembler('policy', ARCHITECTURE, most).add(right) is not None
    larger = convert.snapshot_to_messages(policy(1000 + HEADER_BYTES // 4), 'x', Time())[0]
    with pytest.raises(SnapshotError, match='at most'):
        convert.SnapshotAssembler('policy', ARCHITECTURE, most).add(larger)


def test_what_announces_gigabytes_costs_nothing() -> None:
    assembler = convert.SnapshotAssembler('policy', ARCHITECTURE, 4000)
    part = convert.snapshot_to_messages(policy(1000), 'x', Time())[0]
    tracemalloc.start()
    try:
        for total in (2**33, 2**40, 2**63):
            part.total_bytes, part.parts = total, min(2**32 - 1, -(-total // convert.PART_BYTES))
            with pytest.raises(SnapshotError):
                assembler.add(part)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_snapshot_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / 'policy'
    path.write_bytes(encode(policy(10)))
    assert snapshot.read(path, expected_kind='policy').version == (1, 1)
    with pytest.raises(SnapshotError, match='more than 100'):
        snapshot.read(path, maximum_bytes=100)
    with open(path, 'wb') as file:
        file.truncate(snapshot.MAXIMUM_BYTES + 1)
    with pytest.raises(SnapshotError, match='more than'):
        snapshot.read(path)


# ---- files ----

def test_a_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / 'config.yaml'
    with open(path, 'wb') as file:
        file.truncate(config.MAXIMUM_BYTES + 1)
    with pytest.raises(ConfigError, match='not a configuration'):
        read_yaml(path)


def test_aliases_that_stand_for_an_endless_value_are_refused() -> None:
    bomb = 'a: &a [x, x]\n' + '\n'.join(
        f'{new}: &{new} [*{old}, *{old}]' for old, new in zip('abcdefg', 'bcdefgh', strict=True))
    with pytest.raises(ConfigError, match='aliases'):
        parse_yaml(bomb)


@pytest.mark.parametrize('text', ['a: 2020-99-99', 'a: ' + '9' * 5000, '[' * 5000, 'a: !!int ""',
                                  'a: !!timestamp x', b'a: \xff'])
def test_values_that_yaml_cannot_make_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match='not valid YAML'):
        parse_yaml(text)


def test_a_journal_takes_no_frame_or_segment_beyond_its_own_limits(tmp_path: Path) -> None:
    journal.Journal(tmp_path, {}).close()
    segment = tmp_path / '000000.log'
    with open(segment, 'ab') as file:
        file.write(b'\xff\xff\xff\x7f' * 4)
    assert list(journal.read_records(tmp_path)) == []
    with open(segment, 'r+b') as file:
        file.truncate(64 * 1024 * 1024)
    with pytest.raises(ConfigError, match='not part of a journal'):
        list(journal.read_records(tmp_path))
    with open(tmp_path / 'meta.json', 'w') as file:
        file.write(' ' * (journal.MAXIMUM_META_BYTES + 1))
    with pytest.raises(ConfigError, match='more than'):
        journal.read_meta(tmp_path)


def test_a_checkpoint_has_the_size_its_index_says(tmp_path: Path) -> None:
    import torch

    checkpoint.write(tmp_path, {'learner': 'x'}, {'weight': torch.ones(3)}, {})
    index = tmp_path / checkpoint.INDEX
    file = tmp_path / json.loads(index.read_text())['file']
    with open(file, 'r+b') as opened:
        opened.truncate(2**40)      # on paper: nothing of it is on the disk
    with pytest.raises(CheckpointError, match='is damaged: it has 1099511627776 bytes'):
        checkpoint.read(tmp_path, {'learner': 'x'})
    with open(index, 'w') as opened:
        opened.write(' ' * (checkpoint.MAXIMUM_INDEX_BYTES + 1))
    with pytest.raises(CheckpointError, match='more than'):
        checkpoint.read(tmp_path, {'learner': 'x'})
