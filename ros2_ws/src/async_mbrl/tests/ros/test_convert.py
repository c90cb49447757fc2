"""Messages carry everything, and an assembled snapshot is whole or refused."""

from __future__ import annotations

import dataclasses
from array import array as buffer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from async_mbrl.core.snapshot import (
    HEADER_BYTES,
    Snapshot,
    SnapshotError,
    Version,
    checksum,
    encode,
)
from async_mbrl.core.transition import (
    CommandKind,
    ControlStep,
    EpisodeCommand,
    Mode,
    StepKind,
    Transition,
)
from async_mbrl.ros import convert

ARCHITECTURE = {'type': 'net', 'sizes': [1, 1]}

numbers = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**32 - 1)
single = st.floats(-1e6, 1e6, width=32)
versions = st.builds(Version, counts, numbers)


def array(dtype: type, length: int = 5) -> st.SearchStrategy[np.ndarray]:
    return st.lists(single, max_size=length).map(lambda values: np.array(values, dtype))


transitions = st.builds(
    Transition, number=numbers, episode=counts, step=counts, observation=array(np.float32),
    action_requested=array(np.float32), action_applied=array(np.float32),
    next_observation=array(np.float32), reward=st.floats(-1e9, 1e9), terminated=st.booleans(),
    truncated=st.booleans(), policy_version=versions, log_probability=single,
    intervened=st.booleans(), takeover=st.booleans())
commands = st.builds(
    EpisodeCommand, kind=st.sampled_from(CommandKind), number=numbers, episode=counts,
    mode=st.sampled_from(Mode), start_pose=array(np.float64), move_duration_s=st.floats(0, 100),
    goal=array(np.float32), steps=counts, policy_version=versions, seed=numbers)
steps = st.builds(
    ControlStep, kind=st.sampled_from(StepKind), command_number=numbers, episode=counts,
    time_s=st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1000), step=counts,
    mode=st.sampled_from(Mode), observation=array(np.float32),
    action_requested=array(np.float32), previous_action_applied=array(np.float32),
    previous_intervened=st.booleans(), policy_version=versions, log_probability=single,
    exploration_std=st.floats(0, 1, width=32), takeover=st.booleans(),
    reason=st.text('abc ', max_size=20))


def assert_same(found: Any, expected: Any) -> None:
    for field in dataclasses.fields(expected):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(wanted, np.ndarray):
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)
        else:
            assert value == pytest.approx(wanted) if field.name == 'time_s' else value == wanted


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


@given(transitions)
def test_transitions_survive_the_wire(transition: Transition) -> None:
    message = convert.transition_to_message(transition, convert.to_time(1.5))
    assert_same(convert.transition_from_message(over_the_wire(message)), transition)


@given(commands, numbers)
def test_episode_commands_survive_the_wire(command: EpisodeCommand, session: int) -> None:
    message = convert.command_to_message(command, session, convert.to_time(1.5))
    received = over_the_wire(message)
    assert received.session == session
    assert_same(convert.command_from_message(received), command)


@given(steps, numbers, numbers)
def test_control_steps_survive_the_wire(step: ControlStep, number: int, session: int) -> None:
    received = over_the_wire(convert.step_to_message(step, number, session))
    assert (received.number, received.session) == (number, session)
    assert_same(convert.step_from_message(received), step)


@pytest.mark.parametrize('seconds', [0.0, 0.25, 1.9999999999, 12345.678901234])
def test_stamps_are_exact_to_a_nanosecond(seconds: float) -> None:
    stamp = convert.to_time(seconds)
    assert 0 <= stamp.nanosec < 10**9
    assert convert.to_seconds(stamp) == pytest.approx(seconds, abs=1e-9)


def snapshot(counter: int = 1, size: int = 400_000, value: float | None = None) -> Snapshot:
    """A snapshot whose bytes need several parts."""
    weight = np.random.default_rng(counter).normal(size=size).astype(np.float32)
    if value is not None:
        weight[size // 2] = value
    return Snapshot('policy', Version(1, counter), ARCHITECTURE, {'weight': weight},
                    trained_on_transitions=10, updates=3, model_version=Version(1, 5),
                    exploration_std=0.25, exploration_color=0.5, parameter_noise_std=0.125)


def messages(made: Snapshot) -> list[Any]:
    return [over_the_wire(message) for message in
            convert.snapshot_to_messages(made, 'learner', convert.to_time(2.0))]


def assembler() -> convert.SnapshotAssembler:
    return convert.SnapshotAssembler('policy', ARCHITECTURE, 7 * convert.PART_BYTES)


@given(st.randoms(use_true_random=False))
def test_parts_make_the_snapshot_in_any_order(random: Any) -> None:
    made = snapshot()
    parts = messages(made)
    assert len(parts) == parts[0].parts == 7
    assert sum(len(part.data) for part in parts) == parts[0].total_bytes == len(encode(made))
    random.shuffle(parts)
    putting = assembler()
    *unfinished, found = [putting.add(part) for part in parts]
    assert unfinished == [None] * 6
    assert found is not None
    np.testing.assert_array_equal(found.tensors['weight'], made.tensors['weight'])
    assert dataclasses.replace(found, tensors={}) == dataclasses.replace(made, tensors={})
    for part in parts:
        assert (part.exploration_std, part.exploration_correlation, part.exploration_color,
                part.parameter_noise_std) == (0.25, 0.0, 0.5, 0.125)


def test_a_small_snapshot_is_one_message() -> None:
    found = assembler().add(messages(snapshot(size=3))[0])
    assert found is not None
    assert found.version == Version(1, 1)


def test_a_newer_snapshot_takes_the_place_of_an_unfinished_one() -> None:
    putting = assembler()
    for part in messages(snapshot(1))[:-1]:
        assert putting.add(part) is None
    found = [putting.add(part) for part in messages(snapshot(2))][-1]
    assert found is not None
    assert found.version == Version(1, 2)


def test_a_part_that_comes_twice_counts_once() -> None:
    putting = assembler()
    parts = messages(snapshot())
    assert [putting.add(part) for part in (parts[0], *parts[:-1])] == [None] * 7
    assert putting.add(parts[-1]) is not None


def test_a_damaged_part_makes_the_snapshot_refused_and_the_next_is_taken() -> None:
    putting = assembler()
    parts = messages(snapshot())
    parts[3].data[1000] ^= 1
    with pytest.raises(SnapshotError, match='damaged'):
        for part in parts:
            putting.add(part)
    assert [putting.add(part) for part in messages(snapshot(2))][-1] is not None


@pytest.mark.parametrize(('field', 'value', 'says'), [
    ('total_bytes', 2**40, 'at most'),
    ('total_bytes', 7 * convert.PART_BYTES + HEADER_BYTES + 1, 'at most'),
    ('total_bytes', 10, 'outside the limits'),
    ('total_bytes', 0, 'outside the limits'),
    ('parts', 2**31, 'outside the limits'),
    ('parts', 0, 'outside the limits'),
    ('parts', 8, 'outside the limits'),
    ('checksum', 'abc', 'outside the limits'),
    ('data', buffer('B', bytes(convert.PART_BYTES - 1)), 'outside the limits'),
    ('kind', 'model', 'expected a policy'),
    ('architecture_hash', '0' * 64, 'architecture'),
    ('part', 7, 'outside the limits'),
])
def test_parts_beyond_all_limits_are_refused_at_once(field: str, value: int, says: str) -> None:
    part = messages(snapshot())[0]
    setattr(part, field, value)
    with pytest.raises(SnapshotError, match=says):
        assembler().add(part)


def test_parts_that_contradict_each_other_are_refused() -> None:
    putting = assembler()
    first, second, *_ = messages(snapshot())
    putting.add(first)
    second.total_bytes += 1
    with pytest.raises(SnapshotError, match='contradict'):
        putting.add(second)


def test_a_part_that_is_larger_than_parts_are_is_refused() -> None:
    part = messages(snapshot())[0]
    part.data = part.data * 3
    with pytest.raises(SnapshotError, match='outside the limits'):
        assembler().add(part)


@pytest.mark.parametrize(('made', 'says'), [
    (dataclasses.replace(snapshot(size=3), kind='model'), 'is a model, expected a policy'),
    (dataclasses.replace(snapshot(size=3), architecture={'type': 'other'}), 'architecture'),
    (snapshot(size=3, value=float('nan')), 'not finite'),
    (dataclasses.replace(snapshot(size=3), exploration_std=7.0), 'exploration'),
    (dataclasses.replace(snapshot(size=3), parameter_noise_std=-1.0), 'parameter_noise_std'),
])
def test_a_foreign_or_unusable_snapshot_is_refused(made: Snapshot, says: str) -> None:
    with pytest.raises(SnapshotError, match=says):
        assembler().add(messages(made)[0])


def test_what_stands_outside_must_stand_inside() -> None:
    part = messages(snapshot(size=3))[0]
    part.version.counter = 99
    with pytest.raises(SnapshotError, match=r'says 1\.1 inside, 1\.99 outside'):
        assembler().add(part)
    data = encode(snapshot(size=3))
    assert part.checksum == checksum(data)
