"""Joint states are read by name, from bytes, whatever else they carry."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from async_mbrl.ros.joint_states import JointStateError, JointStateReader

NAMES = ['lift', 'elbow', 'wrist_1']


def serialised(names, position, velocity, *, frame_id='base', effort=(), second=3) -> bytes:
    message = JointState(name=list(names), position=list(position), velocity=list(velocity),
                         effort=list(effort))
    message.header.frame_id = frame_id
    message.header.stamp.sec = second
    return serialize_message(message)


@pytest.mark.parametrize('frame_id', ['', 'b', 'base', 'base_link'])
@pytest.mark.parametrize('names', [NAMES, NAMES[::-1], ['gripper', *NAMES, 'camera_pan']])
def test_every_joint_state_is_read_by_name(names, frame_id):
    reader, rng = JointStateReader(NAMES), np.random.default_rng(0)
    for second in range(4):      # the first decoded, the others read in place
        position, velocity = rng.normal(size=(2, len(names)))
        taken = reader.take(serialised(names, position, velocity, frame_id=frame_id,
                                       effort=position, second=second))
        assert taken is not None
        assert reader.stamp_ns == second * 1_000_000_000
        for found, given in zip(taken, (position, velocity), strict=True):
            assert found.tolist() == [given[names.index(name)] for name in NAMES]


def test_a_change_of_order_in_between_is_noticed():
    reader = JointStateReader(NAMES)
    reader.take(serialised(NAMES, [1, 2, 3], [4, 5, 6]))
    taken = reader.take(serialised(NAMES[::-1], [1, 2, 3], [4, 5, 6]))
    assert taken is not None
    assert taken[0].tolist() == [3, 2, 1]


def test_numbers_that_are_not_finite_are_not_given():
    reader = JointStateReader(NAMES)
    assert reader.take(serialised(NAMES, [1, 2, 3], [4, 5, 6])) is not None
    assert reader.take(serialised(NAMES, [1, np.nan, 3], [4, 5, 6])) is None
    assert reader.take(serialised(NAMES, [1, 2, 3], [4, np.inf, 6])) is None


@pytest.mark.parametrize(('names', 'position', 'velocity', 'word'), [
    (['lift', 'elbow', 'other'], [1, 2, 3], [4, 5, 6], 'wrist_1'),
    (NAMES, [1, 2, 3], [], '0 velocities'),
    ([], [], [], 'missing'),
    ([*NAMES, 'lift'], [1, 2, 3, 4], [4, 5, 6, 7], 'twice'),
])
def test_joint_states_of_something_else_are_refused(names, position, velocity, word):
    with pytest.raises(JointStateError, match=word):
        JointStateReader(NAMES).take(serialised(names, position, velocity))


@pytest.mark.parametrize('damaged', [
    b'', b'\x00\x01\x00\x00', serialised(NAMES, [1, 2, 3], [4, 5, 6])[:-20],
    serialised(NAMES, [1, 2, 3], [4, 5, 6], effort=[0.0] * 9000)])
def test_bytes_that_are_no_joint_state_are_refused(damaged):
    with pytest.raises(JointStateError, match='refused'):
        JointStateReader(NAMES).take(damaged)


def test_efforts_are_not_taken_for_velocities():
    """Of the same size, and alike up to the positions."""
    reader = JointStateReader(NAMES)
    assert reader.take(serialised(NAMES, [1, 2, 3], [4, 5, 6])) is not None
    other = serialised(NAMES, [1, 2, 3], [], effort=[4, 5, 6])
    with pytest.raises(JointStateError, match='0 velocities'):
        reader.take(other)
