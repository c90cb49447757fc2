"""Joint states that cannot be are dropped, and trusted again only after a while."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.control.plausibility import (
    MOST_IN_A_ROW,
    RECOVERY_S,
    SLACK_RAD,
    SPEED_FACTOR,
    Plausibility,
    Standstill,
)

SPEEDS = np.array([1.0, 2.0, 0.5])
HOME = np.array([0.3, -0.2, 1.0])
PERIOD_S = 0.002


def judge(joints: Plausibility, tick: int, offset: float = 0.0, stamp_ns: int | None = None) -> str:
    stamp_ns = 1 + round(tick * PERIOD_S * 1e9) if stamp_ns is None else stamp_ns
    return joints.flaw(tick * PERIOD_S, stamp_ns, HOME + [0.0, offset, 0.0])


@given(st.lists(st.tuples(st.floats(1e-4, 0.5), st.lists(st.floats(-0.99, 0.99), min_size=3,
                                                         max_size=3)), max_size=30))
def test_whatever_moves_within_twice_the_speed_limits_is_plausible(steps):
    joints, now_s, position = Plausibility(SPEEDS), 0.0, HOME.copy()
    assert not joints.flaw(now_s, 0, position)
    for elapsed_s, share in steps:
        now_s += elapsed_s
        position = position + np.array(share) * (SPEED_FACTOR * SPEEDS * elapsed_s + SLACK_RAD)
        assert not joints.flaw(now_s, 0, position)
    assert not joints.reason


@given(st.floats(1e-4, 0.5), st.integers(0, 2), st.floats(1.01, 100.0))
def test_any_joint_that_is_faster_has_jumped(elapsed_s, joint, times):
    joints, position = Plausibility(SPEEDS), HOME.copy()
    joints.flaw(1.0, 0, position)
    position[joint] += times * (SPEED_FACTOR * SPEEDS[joint] * elapsed_s + SLACK_RAD)
    assert f'joint {joint} jumped' in joints.flaw(1.0 + elapsed_s, 0, position)
    assert not joints.reason


def test_single_jumps_are_dropped_and_several_in_a_row_are_a_fault_until_trust_is_back():
    joints = Plausibility(SPEEDS)
    assert not judge(joints, 0)
    for tick in range(1, 3 * MOST_IN_A_ROW):
        assert bool(judge(joints, tick, 0.5 * (tick % 2))) is bool(tick % 2)
    assert not joints.reason
    tick = 100
    for _ in range(MOST_IN_A_ROW):
        assert not joints.reason
        assert judge(joints, tick, 1.0)
        tick += 1
    assert 'joint 1 jumped' in joints.reason
    # The new place is where it goes on from, if it stays there.
    recovery = round(RECOVERY_S / PERIOD_S)
    for _ in range(recovery // 2):
        assert not judge(joints, tick, 1.0)
        tick += 1
    assert judge(joints, tick, 0.0), 'the wait begins anew'
    for _ in range(recovery):
        tick += 1
        assert not judge(joints, tick, 0.0)
        assert joints.reason
    assert not judge(joints, tick + 1, 0.0)
    assert not joints.reason


def test_one_that_was_held_up_on_its_way_makes_no_jumps_of_those_on_time():
    def late(stamped: bool) -> Plausibility:
        joints = Plausibility(SPEEDS)
        for tick in range(100, 200):
            received = tick if tick > 120 else tick + (20 if tick == 120 else 0)
            if 120 < tick < 140:
                continue        # nothing but the newest is kept, and this one came late
            joints.flaw(received * PERIOD_S, tick * 2_000_000 if stamped else 0,
                        HOME + [0.0, 1.8 * tick * PERIOD_S, 0.0])
        return joints

    assert not late(stamped=True).reason


def test_stamps_that_are_far_apart_excuse_no_more_than_a_second():
    joints = Plausibility(SPEEDS)
    joints.flaw(1.0, 1_000_000_000, HOME)
    assert 'jumped' in joints.flaw(1.002, 10_000_000_000, HOME + [0.0, 0.0, 1.2])


def test_joint_states_of_the_past_are_dropped_unless_the_clock_itself_went_back():
    joints = Plausibility(SPEEDS)
    judge(joints, 0, stamp_ns=5_000_000_000)
    assert not judge(joints, 1, stamp_ns=5_000_000_000), 'a clock may be coarse'
    assert 'before the last one' in judge(joints, 2, stamp_ns=4_900_000_000)
    assert not judge(joints, 3, stamp_ns=5_000_000_001)
    for tick in range(4, 4 + round(RECOVERY_S / PERIOD_S)):
        assert judge(joints, tick, stamp_ns=1_000_000_000 + tick)
    assert not judge(joints, tick + 1, stamp_ns=1_000_000_000 + tick + 1)
    assert not judge(joints, tick + 2, stamp_ns=1_000_000_000 + tick + 2)
    assert judge(joints, tick + 3, stamp_ns=1_000_000_000)
    assert not joints.reason


def test_joint_states_without_stamps_are_judged_by_where_they_are():
    joints = Plausibility(SPEEDS)
    for tick in range(10):
        assert not judge(joints, tick, stamp_ns=0)


@pytest.mark.parametrize(('slope', 'speed', 'stands'), [
    (0.0, 0.0, True), (0.02, 0.02, True), (0.5, 0.0, False), (0.0, 0.3, False)])
def test_joints_that_drift_or_are_fast_do_not_stand_still(slope, speed, stands):
    still = Standstill(0.3, 0.01, 0.1)
    found = False
    for tick in range(200):
        now_s = tick * PERIOD_S
        before = found
        found = still.stands(now_s, HOME + slope * now_s, np.full(3, speed))
        assert found or not before or not stands
        assert not found or now_s >= 0.3 - 1e-9
    assert found is stands
    assert bool(still.worst) is not stands
