"""Snapshots: whole ones come back as they were, and no kind of damage passes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.snapshot import (
    HEADER_BYTES,
    Snapshot,
    SnapshotError,
    Version,
    checksum,
    decode,
    encode,
)

ARCHITECTURE = {'type': 'mlp', 'sizes': [2, 3]}
SNAPSHOT = Snapshot(
    'policy', Version(2, 7), ARCHITECTURE,
    {'weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'bias': np.zeros(2, np.float32)},
    trained_on_transitions=40, updates=9, model_version=Version(2, 3), exploration_std=0.3,
    exploration_correlation=0.6, parameter_noise_std=0.02, extra={'note': 'text'})

versions = st.builds(Version, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
plain = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
snapshots_of_any_kind = st.builds(
    Snapshot, kind=st.sampled_from(['model', 'policy']), version=versions,
    architecture=st.dictionaries(st.text(), plain, max_size=3),
    tensors=st.dictionaries(
        st.text('abc.0', min_size=1, max_size=8),
        arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=4),
                      elements=st.floats(-1e3, 1e3, width=32)), max_size=3),
    trained_on_transitions=st.integers(0, 2**53), updates=st.integers(0, 2**53),
    model_version=versions, exploration_std=st.floats(0, 1),
    parameter_noise_std=st.floats(0, 10),
    extra=st.dictionaries(st.text(), plain, max_size=2))


process = st.one_of(
    st.fixed_dictionaries({'exploration_correlation': st.floats(0, 1, exclude_max=True)}),
    st.fixed_dictionaries({'exploration_color': st.floats(0, 2)}))


@given(snapshots_of_any_kind, process)
def test_a_snapshot_survives_the_round_trip(given_snapshot: Snapshot,
                                            process: dict[str, float]) -> None:
    given_snapshot = dataclasses.replace(given_snapshot, **process)
    data = encode(given_snapshot)
    found = decode(data, expected_checksum=checksum(data), expected_kind=given_snapshot.kind,
                   expected_architecture=given_snapshot.architecture)
    assert found.tensors.keys() == given_snapshot.tensors.keys()
    for name, tensor in given_snapshot.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    assert dataclasses.replace(found, tensors={}) == dataclasses.replace(given_snapshot,
                                                                         tensors={})


@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(encode(SNAPSHOT))
    announced = checksum(bytes(data))
    data[position % len(data)] ^= change
    with pytest.raises(SnapshotError, match='damaged'):
        decode(bytes(data), expected_checksum=announced)


@given(st.integers(min_value=0), st.integers(1, 255))
def test_changed_parameters_are_refused_without_an_announced_checksum(position: int,
                                                                      change: int) -> None:
    data = bytearray(encode(SNAPSHOT))
    begin = 8 + int.from_bytes(data[:8], 'little')
    data[begin + position % (len(data) - begin)] ^= change
    with pytest.raises(SnapshotError, match='damaged'):
        decode(bytes(data))


@given(st.integers(min_value=0))
def test_a_truncated_snapshot_is_refused(length: int) -> None:
    data = encode(SNAPSHOT)
    with pytest.raises(SnapshotError):
        decode(data[:length % len(data)])


@given(st.binary() | st.tuples(st.binary(), st.integers(0, 64)).map(
    lambda given_bytes: given_bytes[1].to_bytes(8, 'little') + given_bytes[0]))
def test_bytes_of_anything_else_are_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode(data)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_refused(value: float) -> None:
    data = encode(dataclasses.replace(
        SNAPSHOT, tensors={'weight': np.array([0.0, value], np.float32)}))
    with pytest.raises(SnapshotError, match=r'2\.7: tensor weight is not finite'):
        decode(data, expected_checksum=checksum(data))


@pytest.mark.parametrize('change', [
    {'exploration_std': float('nan')}, {'exploration_std': 1.5}, {'exploration_std': -0.1},
    {'exploration_correlation': 1.0}, {'exploration_correlation': float('nan')},
    {'exploration_color': 1.0}, {'exploration_color': 2.1, 'exploration_correlation': 0.0},
    {'exploration_color': float('nan'), 'exploration_correlation': 0.0}])
def test_exploration_outside_its_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(SnapshotError, match='exploration'):
        decode(encode(dataclasses.replace(SNAPSHOT, **change)))


@pytest.mark.parametrize('std', [-0.1, 10.1, float('nan'), float('inf')])
def test_a_scale_of_parameter_noise_outside_its_range_is_refused(std: float) -> None:
    with pytest.raises(SnapshotError, match='parameter_noise_std'):
        decode(encode(dataclasses.replace(SNAPSHOT, parameter_noise_std=std)))


def test_another_kind_or_architecture_is_refused() -> None:
    data = encode(SNAPSHOT)
    with pytest.raises(SnapshotError, match='is a policy, expected a model'):
        decode(data, expected_kind='model')
    with pytest.raises(SnapshotError, match='architecture'):
        decode(data, expected_architecture=ARCHITECTURE | {'sizes': [2, 4]})


def test_a_foreign_safetensors_file_is_refused() -> None:
    foreign = safetensors.numpy.save({'weight': np.zeros(3, np.float32)}, metadata={'made': 'x'})
    with pytest.raises(SnapshotError, match='not a snapshot of this project'):
        decode(foreign)


@pytest.mark.parametrize('change', [
    {'version': [1]}, {'version': ['x', 1]}, {'version': [-1, 0]}, {'version': None},
    {'version': [2, 7.5]}, {'version': [2**32, 7]}, {'version': [2, 7, 0]}, {'version': '27'},
    {'updates': 'many'}, {'updates': float('inf')}, {'updates': -1}, {'updates': True},
    {'trained_on_transitions': 2**64}, {'kind': ['policy']}, {'kind': 'pol\ud800'},
    {'architecture': 3}, {'extra': [1]}, {'exploration_std': '0.3'},
    {'exploration_color': None}, {'parameter_noise_std': True}, {'tensors_sha256': None}])
def test_a_description_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    data = encode(SNAPSHOT)
    header = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')])
    about = json.loads(header['__metadata__']['async_mbrl']) | change
    with pytest.raises(SnapshotError, match='not a snapshot of this project'):
        decode(safetensors.numpy.save(dict(SNAPSHOT.tensors),
                                      metadata={'async_mbrl': json.dumps(about)}))


def test_sizes_that_no_snapshot_has_are_refused_unread() -> None:
    with pytest.raises(SnapshotError, match='header is longer'):
        decode((2**62).to_bytes(8, 'little') + b'{}')
    with pytest.raises(SnapshotError, match='more than 100'):
        decode(encode(SNAPSHOT), maximum_bytes=100)
    long = b'{' + b' ' * HEADER_BYTES + b'}'
    with pytest.raises(SnapshotError, match='its header has'):
        decode(len(long).to_bytes(8, 'little') + long)
    with pytest.raises(SnapshotError, match='keep its extra short'):
        encode(dataclasses.replace(SNAPSHOT, extra={'note': 'x' * HEADER_BYTES}))


def test_a_restarted_learner_is_newer() -> None:
    assert Version(2, 0) > Version(1, 10**6) > Version(1, 0) > snapshots.NO_VERSION
