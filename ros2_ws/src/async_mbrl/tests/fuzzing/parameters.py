"""Fuzzed snapshots: their bytes, and the parts in which they travel."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Any

import arm7
import collection_rig
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message

from async_mbrl.control.policy import PolicyLayout, PolicyParameters
from async_mbrl.core.network import policy_architecture
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version, checksum, decode, encode
from async_mbrl.ros import convert
from async_mbrl.ros.bounds import MessageError, unpack
from async_mbrl.ros.convert import PART_MESSAGE_BYTES, SnapshotAssembler
from fuzzing import Target, damage

ITEM_BYTES = {'F64': 8, 'F32': 4, 'F16': 2, 'I64': 8, 'U64': 8, 'I32': 4, 'U32': 4, 'I16': 2,
              'U16': 2, 'I8': 1, 'U8': 1, 'BOOL': 1, 'C64': 8, 'BF16': 2}


@functools.cache
def policy(counter: int = 1, hidden: tuple[int, ...] = (8,)) -> Snapshot:
    """Give a policy of the reach task with numbers of its own."""
    task, rng = collection_rig.task(), np.random.default_rng(counter)
    network = dataclasses.replace(arm7.NETWORK, hidden=hidden)
    sizes = [task.feature_size, *hidden, task.action_size]
    tensors = {'state_mean': rng.normal(size=task.state_size),
               'state_std': np.ones(task.state_size)}
    for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        tensors[f'layer{layer}.weight'] = rng.normal(size=(outputs, inputs))
        tensors[f'layer{layer}.bias'] = rng.normal(size=outputs)
    return Snapshot('policy', Version(1, counter), policy_architecture(network, task),
                    {name: value.astype(np.float32) for name, value in tensors.items()},
                    exploration_std=0.3, exploration_color=0.5 * (counter % 2),
                    parameter_noise_std=0.1, updates=3)


LARGE = (256, 256)
"""Hidden layers of a policy of two parts."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Snapshot bytes and the checksum that was announced for them, if one was."""

    data: bytes
    announced: str | None


def targets() -> list[Target]:
    """Give the targets of this module."""
    task = collection_rig.task()
    architecture = policy_architecture(arm7.NETWORK, task)
    layout = PolicyLayout(task, arm7.NETWORK)
    network = dataclasses.replace(arm7.NETWORK, hidden=LARGE)
    large, large_bytes = policy_architecture(network, task), PolicyLayout(task, network).size
    wanted = {name: list(value.shape) for name, value in policy().tensors.items()}
    judge = functools.partial(flaw_of, architecture, wanted)

    def take(given: Bytes) -> PolicyParameters:
        found = decode(given.data, maximum_bytes=layout.size + 65536,
                       expected_checksum=given.announced, expected_kind='policy',
                       expected_architecture=architecture)
        parameters = PolicyParameters.from_snapshot(found)
        return layout.unpack(layout.pack(parameters))

    def announced_wrongly(given: Bytes) -> bool:
        return given.announced not in (None, hashlib.sha256(given.data).hexdigest())

    def judge_bytes(given: Bytes, taken: PolicyParameters) -> str:
        if announced_wrongly(given):
            return 'damaged on the way'
        return judge(given.data, given.announced is None) or flaw_taken(given.data, taken)

    def take_parts(parts: list[bytes]) -> Snapshot | None:
        assembler = SnapshotAssembler('policy', large, large_bytes)
        for part in parts:
            found = assembler.add(unpack(part, convert.msg.ParameterSnapshot, PART_MESSAGE_BYTES))
            if found is not None:
                PolicyParameters.from_snapshot(found)
                return found
        return None

    def judge_parts(parts: list[bytes], taken: Snapshot | None) -> str:
        if taken is None:
            return ''
        known = {(1, counter): policy(counter, LARGE).tensors for counter in range(1, 4)}
        expected = known.get(tuple(taken.version))
        if expected is None or expected.keys() != taken.tensors.keys():
            return f'a snapshot {taken.version} that nobody sent'
        same = all(np.array_equal(expected[name], taken.tensors[name]) for name in expected)
        return '' if same else 'other numbers than were sent'

    return [
        Target('snapshots', _make_bytes([policy(1), policy(2)]), take, judge_bytes,
               (SnapshotError,), lambda given: not announced_wrongly(given)
               and not judge(given.data, given.announced is None)),
        Target('snapshot_parts', _make_parts(), take_parts, judge_parts,
               (SnapshotError, MessageError)),
    ]


# ---- the rules, from the format alone ----

def flaw_of(architecture: dict[str, Any], wanted: dict[str, list[int]], data: bytes,
            proven_within: bool) -> str:
    """Say why bytes are no policy for an architecture; empty if they are.

    ``proven_within``: only what they say themselves proves them.
    """
    try:
        size = int.from_bytes(data[:8], 'little')
        if len(data) < 8 or size > len(data) - 8 or size > 65536 - 8:
            return 'header'
        header = json.loads(data[8:8 + size].decode())
        about = json.loads(header['__metadata__']['async_mbrl'])
        body = data[8 + size:]
        tensors = {name: value for name, value in header.items() if name != '__metadata__'}
        digest = hashlib.sha256()
        covered = []
        for name, entry in sorted(tensors.items()):
            begin, end = entry['data_offsets']
            if entry['dtype'] != 'F32' or entry['shape'] != wanted.get(name):
                return f'tensor {name}'
            if not 0 <= begin <= end <= len(body) or end - begin != 4 * math.prod(entry['shape']):
                return f'place of tensor {name}'
            covered.append((begin, end))
            values = np.frombuffer(body[begin:end], '<f4')
            if not np.isfinite(values).all() or (name == 'state_std' and not (values > 0).all()):
                return f'numbers of tensor {name}'
            digest.update(f'{name} <f4 {tuple(entry["shape"])}\n'.encode() + body[begin:end])
        if tensors.keys() != wanted.keys():
            return 'tensors missing'
        covered.sort()
        if [begin for begin, _ in covered] != [0, *(end for _, end in covered[:-1])] \
                or covered[-1][1] != len(body):
            return 'gaps or overlaps'
        if not isinstance(about['tensors_sha256'], str) or about['kind'] != 'policy':
            return 'digest or kind'
        if proven_within and about['tensors_sha256'] != digest.hexdigest():
            return 'digest'
        if about['architecture'] != architecture:
            return 'architecture'
        numbers = [*about['version'], *about['model_version'], about['updates'],
                   about['trained_on_transitions']]
        if len(numbers) != 6 or any(type(value) is not int or value < 0 for value in numbers):
            return 'counts'
        if max(numbers[0], numbers[2]) >= 2**32 or max(numbers) >= 2**64:
            return 'counts too large'
        std, correlation, color, scale = exploration = [about[name] for name in (
            'exploration_std', 'exploration_correlation', 'exploration_color',
            'parameter_noise_std')]
        if any(type(value) not in (int, float) for value in exploration) or not (
                0 <= std <= 1 and 0 <= correlation < 1 and 0 <= color <= 2 and 0 <= scale <= 10
                and 0 in (correlation, color)):
            return 'exploration'
        if not isinstance(about['extra'], dict):
            return 'extra'
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError) as error:
        return f'no snapshot: {error!r}'
    return ''


def flaw_taken(data: bytes, taken: PolicyParameters) -> str:
    """Say what of the parameters in use is not what the bytes hold."""
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    named = {'state_mean': taken.state_mean, 'state_std': taken.state_std}
    for layer, (weight, bias) in enumerate(zip(taken.weights, taken.biases, strict=True)):
        named[f'layer{layer}.weight'], named[f'layer{layer}.bias'] = weight, bias
    for name, value in named.items():
        begin, end = header[name]['data_offsets']
        if value.tobytes() != body[begin:end]:
            return f'{name} is not what was sent'
    return ''


# ---- what is made ----

def _make_bytes(made: list[Snapshot]) -> Callable[[random.Random], tuple[Bytes, str]]:
    encoded = [encode(snapshot) for snapshot in made]

    def make(rng: random.Random) -> tuple[Bytes, str]:
        data = rng.choice(encoded)
        original = checksum(data)
        if rng.random() < 0.5:
            changed, kind = damage(rng, data, rng.choice(encoded))
            # On the way, or by somebody who announces what he sends.
            announced = rng.choice((original, None, hashlib.sha256(changed).hexdigest()))
            return Bytes(changed, announced), kind
        changed, kind = _rewrite(rng, data)
        announced = rng.choice((None, hashlib.sha256(changed).hexdigest()))
        return Bytes(changed, announced), kind
    return make


def _rewrite(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Forge a snapshot: a header that says something else, with the digest made to fit."""
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8:8 + size]), bytearray(data[8 + size:])
    about = json.loads(header['__metadata__']['async_mbrl'])
    names = [name for name in header if name != '__metadata__']
    kind = rng.choice(('offsets', 'shape', 'dtype', 'missing', 'extra', 'renamed', 'number',
                       'about', 'about', 'architecture', 'deep', 'digits', 'length', 'twice',
                       'metadata', 'empty'))
    name = rng.choice(names)
    entry = header[name]
    twice = ''
    if kind == 'offsets':
        entry['data_offsets'][rng.randrange(2)] += rng.choice((-4, 4, 1, 2**40, -2**40, 2**63))
    elif kind == 'shape':
        entry['shape'] = rng.choice(([*entry['shape'], 1], entry['shape'][::-1], [2**62, 4], [0],
                                     [-1, 4], [], [math.prod(entry['shape'])], ['a'], None))
    elif kind == 'dtype':
        entry['dtype'] = rng.choice((*ITEM_BYTES, 'F8_E4M3', 'object', 7))
    elif kind == 'missing':
        del header[name]
    elif kind == 'extra':
        header['more'] = {'dtype': 'F32', 'shape': [2],
                          'data_offsets': [len(body), len(body) + 8]}
        body += bytes(8)
    elif kind == 'renamed':
        header[rng.choice((name + ' ', name.upper(), '', '../x'))] = header.pop(name)
    elif kind == 'number':
        at = entry['data_offsets'][0] + 4 * rng.randrange(math.prod(entry['shape']))
        value = rng.choice((np.nan, np.inf, -np.inf, -1.0, 0.0, 3.0))
        body[at:at + 4] = np.float32(value).tobytes()
    elif kind == 'about':
        key = rng.choice(sorted(about))
        about[key] = rng.choice((None, -1, 1.5, 2**32, 2**64, 2**70, 'text', [1], [1, 2], [1, -2],
                                 [1.0, 2.0], [2**32, 0], [0, 2**64], [True, 1], {}, True,
                                 math.nan, math.inf, 1e308, [1, 2, 3], '\ud800', 0, 1))
    elif kind == 'architecture':
        key = rng.choice(sorted(about['architecture']))
        about['architecture'][key] = rng.choice((None, 0, [], [1, 2], 'x', 1e300, math.nan))
    elif kind == 'length':
        size = rng.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**63, 2**64 - 1))
        return size.to_bytes(8, 'little') + data[8:], kind
    elif kind == 'twice':
        twice = f', "{name}": {json.dumps(header[rng.choice(names)])}'
    elif kind == 'metadata':
        header['__metadata__'] = rng.choice(([], 'x', None, {'async_mbrl': 3}, {}))
    elif kind == 'empty':
        header, body = {'__metadata__': header['__metadata__']}, bytearray()
    if kind in ('number', 'extra') and rng.random() < 0.9:
        about['tensors_sha256'] = _digest(header, body)
    if kind != 'metadata':
        header['__metadata__']['async_mbrl'] = json.dumps(about)
    text = json.dumps(header)
    if kind == 'deep':
        depth = rng.choice((100, 900, 1500, 9000))
        nested = '[' * depth + ']' * depth
        about = json.dumps(about)[:-1] + f', "extra": {{"a": {nested}}}}}'
        if rng.random() < 0.5:
            about = about.replace('"architecture": {', f'"architecture": {{"a": {nested}, ')
        header['__metadata__']['async_mbrl'] = about
        text = json.dumps(header)
    elif kind == 'digits':
        text = text.replace('[0, ', '[' + '0' * rng.randrange(2) + '9' * rng.choice((20, 5000))
                            + ', ', 1)
    if twice:
        text = text[:-1] + twice + '}'
    return len(text).to_bytes(8, 'little') + text.encode() + body, kind


def _digest(header: dict[str, Any], body: bytes) -> str:
    digest = hashlib.sha256()
    for name, entry in sorted(header.items()):
        if name != '__metadata__':
            begin, end = entry['data_offsets']
            digest.update(f'{name} <f4 {tuple(entry["shape"])}\n'.encode() + body[begin:end])
    return digest.hexdigest()


def _make_parts() -> Callable[[random.Random], tuple[list[bytes], str]]:
    whole = [[serialize_message(message) for message in convert.snapshot_to_messages(
        policy(counter, LARGE), 'learner', Time())] for counter in range(1, 4)]
    assert len(whole[0]) == 2

    def make(rng: random.Random) -> tuple[list[bytes], str]:
        kind = rng.choice(('field', 'field', 'raw', 'raw', 'repeated', 'mixed', 'checksum',
                           'whole'))
        sent, other = list(rng.choice(whole)), list(rng.choice(whole))
        rng.shuffle(sent)
        if kind == 'repeated':
            return [rng.choice(sent) for _ in range(rng.randrange(1, 6))], kind
        if kind == 'mixed':
            mixed = [*sent, *other]
            rng.shuffle(mixed)
            return mixed[:rng.randrange(1, 5)], kind
        if kind == 'whole':
            return sent, kind
        if kind == 'raw':
            at = rng.randrange(2)
            # Where the description stands, or anywhere.
            head = rng.choice((400, len(sent[at])))
            changed, how = damage(rng, sent[at][:head], other[0][:head])
            sent[at] = changed + sent[at][head:]
            return sent, f'raw {how}'
        message = unpack(sent[0], convert.msg.ParameterSnapshot, PART_MESSAGE_BYTES)
        if kind == 'field':
            field = rng.choice(('part', 'parts', 'total_bytes', 'checksum', 'kind',
                                'architecture_hash', 'data', 'version'))
            if field in ('part', 'parts', 'total_bytes'):
                setattr(message, field, rng.choice((0, 1, 2, 5, 2**31, 2**32 - 1)))
            elif field == 'data':
                message.data = message.data[:rng.randrange(len(message.data))] * rng.randrange(3)
            elif field == 'version':
                message.version.counter = rng.choice((0, 2, 3, 2**64 - 1))
            else:
                setattr(message, field, rng.choice(('', 'model', 'policy', '0' * 64, 'x' * 3000)))
        else:
            message.checksum = rng.choice(('0' * 64, checksum(encode(policy(2, LARGE)))))
        return [serialize_message(message), *sent[1:]], kind
    return make
