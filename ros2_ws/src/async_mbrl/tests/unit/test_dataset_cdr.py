"""The fast reader of messages reads what every other reader reads, or refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.collection.recording import typestore
from async_mbrl.datasets.cdr import (
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    TRANSITION,
    CdrError,
    Decoder,
    Schema,
)

STORE = typestore()
TYPES = STORE.types
NUMBERS = st.floats(width=64)
VECTORS = st.lists(NUMBERS, max_size=4).map(lambda values: np.array(values, np.float64))
TEXTS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=9)


def header(draw: st.DrawFn) -> Any:
    return TYPES['std_msgs/msg/Header'](
        stamp=TYPES['builtin_interfaces/msg/Time'](
            sec=draw(st.integers(-2**31, 2**31 - 1)), nanosec=draw(st.integers(0, 2**32 - 1))),
        frame_id=draw(TEXTS))


@st.composite
def joint_states(draw: st.DrawFn) -> Any:
    return TYPES['sensor_msgs/msg/JointState'](
        header=header(draw), name=draw(st.lists(TEXTS, max_size=3)), position=draw(VECTORS),
        velocity=draw(VECTORS), effort=draw(VECTORS))


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dimension = TYPES['std_msgs/msg/MultiArrayDimension']
    return TYPES['std_msgs/msg/Float64MultiArray'](
        layout=TYPES['std_msgs/msg/MultiArrayLayout'](
            dim=[dimension(label=draw(TEXTS), size=draw(st.integers(0, 9)), stride=1)
                 for _ in range(draw(st.integers(0, 2)))], data_offset=draw(st.integers(0, 9))),
        data=draw(VECTORS))


@st.composite
def trajectories(draw: st.DrawFn) -> Any:
    return TYPES['trajectory_msgs/msg/JointTrajectory'](
        header=header(draw), joint_names=draw(st.lists(TEXTS, max_size=3)),
        points=[TYPES['trajectory_msgs/msg/JointTrajectoryPoint'](
            positions=draw(VECTORS), velocities=draw(VECTORS), accelerations=draw(VECTORS),
            effort=draw(VECTORS), time_from_start=TYPES['builtin_interfaces/msg/Duration'](
                sec=draw(st.integers(0, 9)), nanosec=3)) for _ in range(draw(st.integers(0, 2)))])


def flat(message: Any, prefix: str = '') -> dict[str, Any]:
    """Numbers and names of a message under the names that the fast reader gives them."""
    found: dict[str, Any] = {}
    for name, value in vars(message).items():
        if name == '__msgtype__':
            continue
        if isinstance(value, list) and value and hasattr(value[0], '__msgtype__'):
            for place, item in enumerate(value):
                found.update(flat(item, f'{prefix}{name}.{place}.'))
        elif hasattr(value, '__msgtype__'):
            # Headers, stamps and layouts are not set off in a schema.
            found.update(flat(value, prefix))
        else:
            found[prefix + name] = value
    return found


def agree(schema: Schema, messages: list[Any], order: bool) -> None:
    data = [bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=order))
            for message in messages]
    seen = []
    for rows, layout, values in Decoder(schema).decode(data):
        for row, value in zip(rows.tolist(), values, strict=True):
            seen.append(row)
            for name, wanted in flat(messages[row]).items():
                if name in layout.texts:
                    assert layout.texts[name] == tuple(wanted)
                elif name in values.dtype.names:
                    np.testing.assert_array_equal(value[name], wanted)
                elif not isinstance(wanted, str):
                    assert layout.lengths[name] == len(wanted) == 0
    assert sorted(seen) == list(range(len(messages)))


@st.composite
def transitions(draw: st.DrawFn) -> Any:
    def numbers() -> np.ndarray:
        return np.array(draw(st.lists(st.floats(width=32), max_size=4)), np.float32)

    whole = st.integers(0, 2**32 - 1)
    long = st.integers(0, 2**64 - 1)
    return TYPES['async_mbrl_interfaces/msg/Transition'](
        header=header(draw), number=draw(long), episode=draw(whole), step=draw(whole),
        observation=numbers(), action_requested=numbers(), action_applied=numbers(),
        next_observation=numbers(), reward=draw(NUMBERS), terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        policy_version=TYPES['async_mbrl_interfaces/msg/SnapshotVersion'](
            incarnation=draw(whole), counter=draw(long)),
        log_probability=draw(st.floats(width=32)), intervened=draw(st.booleans()),
        takeover=draw(st.booleans()),
        publish_time_ns=draw(st.integers(-2**63, 2**63 - 1)))


@given(messages=st.lists(transitions(), max_size=6), repeat=st.integers(1, 2), order=st.booleans())
def test_transitions_are_read_as_by_rosbags(messages: list[Any], repeat: int, order: bool) -> None:
    agree(TRANSITION, messages * repeat, order)


@given(messages=st.lists(joint_states(), max_size=6), repeat=st.integers(1, 2), order=st.booleans())
def test_joint_states_are_read_as_by_rosbags(messages: list[Any], repeat: int,
                                             order: bool) -> None:
    agree(JOINT_STATE, messages * repeat, order)


@given(messages=st.lists(arrays(), max_size=6), order=st.booleans())
def test_arrays_are_read_as_by_rosbags(messages: list[Any], order: bool) -> None:
    agree(FLOAT64_MULTI_ARRAY, messages, order)


@given(messages=st.lists(trajectories(), max_size=6), order=st.booleans())
def test_trajectories_are_read_as_by_rosbags(messages: list[Any], order: bool) -> None:
    agree(JOINT_TRAJECTORY, messages, order)


@given(st.binary(max_size=120), st.sampled_from([TRANSITION, JOINT_STATE, JOINT_TRAJECTORY]))
def test_no_bytes_do_anything_but_be_read_or_refused(data: bytes, schema: Schema) -> None:
    for start in (b'', b'\0\1\0\0'):
        try:
            list(Decoder(schema).decode([start + data]))
        except CdrError as error:
            assert error.index == 0


@given(message=joint_states(), cut=st.integers(1, 60))
def test_what_is_cut_short_is_refused_with_its_place(message: Any, cut: int) -> None:
    whole = bytes(STORE.serialize_cdr(message, message.__msgtype__))
    with pytest.raises(CdrError) as caught:
        list(Decoder(JOINT_STATE).decode([whole, whole, whole[:max(0, len(whole) - cut)]]))
    assert caught.value.index == 2


def test_other_encodings_are_refused() -> None:
    with pytest.raises(CdrError, match='encoded as 0006, not as plain CDR'):
        list(Decoder(FLOAT64_MULTI_ARRAY).decode([b'\0\6\0\0' + bytes(12)]))


def test_a_sequence_that_would_not_end_is_refused() -> None:
    with pytest.raises(CdrError, match='elements of dim, more than 1024'):
        list(Decoder(FLOAT64_MULTI_ARRAY).decode([b'\0\1\0\0' + b'\xff' * 12]))
