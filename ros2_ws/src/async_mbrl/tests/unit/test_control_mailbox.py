"""Shared memory between two processes: nothing torn, nothing lost unseen."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from control_rig import JOINTS, episode, make_robot

from async_mbrl.control.histogram import BINS, Histogram, percentiles, record
from async_mbrl.control.mailbox import Ring, RingOverrun, SharedBlock, StepRecord
from async_mbrl.control.takeover import Takeover
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import ControlStep, Mode, StepKind

HAMMER_S = 0.5
WORDS = 64


def make_ring(slots: int, payload: int) -> tuple[Ring, Ring]:
    memory = memoryview(bytearray(Ring.bytes_needed(slots, payload)))
    return Ring(memory, slots, payload), Ring(memory, slots, payload)


def make_block(descriptor: int) -> SharedBlock:
    return SharedBlock(descriptor, joints=JOINTS, states=JOINTS, start_size=JOINTS,
                       observation_size=39, goal_size=9,
                       policy_bytes=8 * WORDS, histogram_bins=BINS)


def test_newest_record_is_given_once():
    writer, reader = make_ring(4, 16)
    assert reader.latest() is None
    for value in range(10):
        writer.write(b'%d' % value)
    assert reader.latest() == b'9'
    assert reader.latest() is None


def test_stream_is_given_in_order_and_an_overrun_is_seen():
    writer, reader = make_ring(4, 16)
    for value in range(3):
        writer.write(b'%d' % value)
    assert [reader.next() for _ in range(4)] == [b'0', b'1', b'2', None]
    for value in range(9):
        writer.write(b'%d' % value)
    with pytest.raises(RingOverrun):
        reader.next()


def test_damaged_record_is_not_given():
    memory = memoryview(bytearray(Ring.bytes_needed(4, 16)))
    writer, reader = Ring(memory, 4, 16), Ring(memory, 4, 16)
    writer.write(b'0123456789')
    place = bytes(memory).index(b'0123')
    memory[place] ^= 1
    assert reader.latest() is None
    assert reader.next() is None


def test_record_larger_than_a_slot_is_refused():
    writer, _ = make_ring(4, 16)
    with pytest.raises(ValueError, match='17 bytes'):
        writer.write(bytes(17))


def test_two_processes_hammering_never_see_a_torn_record():
    descriptor = os.memfd_create('test')
    block = make_block(descriptor)
    child = os.fork()
    if child == 0:
        written, deadline = 0, time.monotonic() + HAMMER_S
        while time.monotonic() < deadline:
            written += 1
            block.policies.write(np.full(WORDS, written).tobytes())
            block.counters[0] = written
        os._exit(0)
    seen, last = 0, 0
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        payload = block.policies.latest()
        if payload is None:
            continue
        values = np.frombuffer(payload, np.int64)
        assert (values == values[0]).all()
        assert values[0] > last
        seen, last = seen + 1, int(values[0])
    payload = block.policies.latest()
    if payload is not None:
        last = int(np.frombuffer(payload, np.int64)[0])
    assert seen > 5
    assert last == block.counters[0]


def test_of_takeovers_the_newest_counts():
    block = make_block(os.memfd_create('test'))
    assert block.newest_takeover() is None
    for value in (0.1, 0.2):
        block.put_takeover(Takeover(1.5, np.full(JOINTS, value, np.float32)))
    found = block.newest_takeover()
    assert found is not None and found.received_s == 1.5
    np.testing.assert_array_equal(found.action, np.full(JOINTS, 0.2, np.float32))
    assert block.newest_takeover() is None
    block.put_takeover(Takeover(2.0, None))
    found = block.newest_takeover()
    assert found is not None and found.action is None


def test_orders_and_steps_survive():
    block = make_block(os.memfd_create('test'))
    order = episode(make_robot(), 7, mode=Mode.EVALUATION, policy_version=Version(2, 5),
                    seed=2**64 - 1)
    block.put_order(order)
    again = block.get_request()
    assert again is not None
    for name, value in vars(order).items():
        assert np.array_equal(getattr(again, name), value), name
    step = ControlStep(
        StepKind.STEP, 12.5, 7, 3, 2, Mode.LEARNING, np.arange(39, dtype=np.float32),
        np.ones(JOINTS, np.float32), np.zeros(JOINTS, np.float32), True, Version(1, 2), -3.5, 0.25,
        True, 'because ' * 40)
    block.put_step(step)
    same = block.get_step()
    assert same is not None
    for name, value in vars(step).items():
        if name == 'reason':
            assert value.startswith(same.reason)
            assert len(same.reason) > 100
        else:
            assert np.array_equal(getattr(same, name), value), name


def test_step_of_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match='observation'):
        StepRecord(3, 7).pack(ControlStep(StepKind.STEP, 0.0, 0, 0, 0, Mode.LEARNING,
                                          np.zeros(4, np.float32)))


def test_histogram_gives_percentiles_to_its_resolution():
    bins = [0] * BINS
    durations = np.random.default_rng(0).lognormal(-8.0, 1.0, 20_000)
    for duration in durations:
        record(bins, float(duration))
    for share, found in zip((0.5, 0.99, 0.999), percentiles(bins, (0.5, 0.99, 0.999)),
                            strict=True):
        assert found == pytest.approx(np.quantile(durations, share), rel=0.05)
    assert percentiles([0] * BINS, (0.5,)) == [0.0]


def test_histogram_knows_the_longest_duration_exactly():
    durations = np.random.default_rng(0).lognormal(np.log(0.002), 0.5, 20_000)
    histogram, shares = Histogram(), (0.5, 0.99, 0.999)
    assert histogram.percentiles_s((0.5,)) == [0.0]
    for duration in durations:
        histogram.add(float(duration))
    for share, found in zip(shares, histogram.percentiles_s(shares), strict=True):
        true = np.quantile(durations, share, method='inverted_cdf')
        assert true <= found <= 1.024 * true, 'never understated'
    assert histogram.percentiles_s((1.0,)) == [histogram.maximum_s] == [durations.max()]
    for extreme in (0.0, 1e9):
        histogram.add(extreme)
    assert histogram.percentiles_s((1e-9, 1.0)) == pytest.approx([1e-6, 1e3])
    assert histogram.maximum_s == 1e9


def test_a_head_that_is_just_being_written_is_no_record():
    memory = memoryview(bytearray(Ring.bytes_needed(4, 16)))
    writer, reader = Ring(memory, 4, 16), Ring(memory, 4, 16)
    writer.write(b'one')
    assert reader.latest() == b'one'
    head = bytes(memory[:8])
    memory[:8] = bytes(8)       # as it is for a moment
    assert reader.latest() is None and reader.next() is None
    memory[:8] = head
    assert reader.latest() is None
    writer.write(b'two')
    assert reader.latest() == b'two'
