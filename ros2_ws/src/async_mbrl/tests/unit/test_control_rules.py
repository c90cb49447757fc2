"""Who may hand over policies, when guard acts, and how deadlines are kept."""

from __future__ import annotations

import pytest

from async_mbrl.control import pacer as pacing
from async_mbrl.control.acceptance import PUBLISHER_TIMEOUT_S, SnapshotAcceptance, Verdict
from async_mbrl.control.pacer import MOST_LEFT_OUT, Pacer
from async_mbrl.control.watchdog import Heartbeat, Watchdog
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.snapshot import Version

TIMEOUT_S = 0.08


def test_only_newer_policies_are_accepted():
    acceptance = SnapshotAcceptance()
    assert acceptance.consider(Version(1, 5), 'a', 0.0) is Verdict.ACCEPT
    assert acceptance.consider(Version(1, 5), 'a', 0.1) is Verdict.REFUSE
    assert acceptance.consider(Version(1, 4), 'a', 0.2) is Verdict.REFUSE
    assert 'not newer' in acceptance.last_reason
    assert acceptance.consider(Version(1, 6), 'a', 0.3) is Verdict.ACCEPT
    assert acceptance.refused == 2
    assert acceptance.version == Version(1, 6)


def test_a_second_publisher_is_refused_while_the_first_lives():
    acceptance = SnapshotAcceptance()
    acceptance.consider(Version(1, 0), 'a', 0.0)
    assert acceptance.consider(Version(2, 0), 'b', 0.5) is Verdict.WAIT
    assert 'still lives' in acceptance.last_reason
    acceptance.heard('a', 1.5)
    acceptance.heard('b', 3.0)
    assert not acceptance.would_accept('b', 1.5 + 0.9 * PUBLISHER_TIMEOUT_S)
    assert acceptance.would_accept('b', 1.5 + PUBLISHER_TIMEOUT_S)
    assert acceptance.consider(Version(2, 0), 'b', 1.5 + PUBLISHER_TIMEOUT_S) is Verdict.ACCEPT
    assert acceptance.consider(Version(1, 9), 'a', 9.0) is Verdict.REFUSE


def test_a_restarted_publisher_is_accepted_once_the_first_has_been_silent():
    acceptance = SnapshotAcceptance()
    acceptance.consider(Version(1, 7), 'a', 0.0)
    assert acceptance.consider(Version(2, 0), 'b', 0.1) is Verdict.WAIT
    assert acceptance.consider(Version(2, 0), 'b', PUBLISHER_TIMEOUT_S) is Verdict.ACCEPT


def test_a_foreign_publisher_without_a_higher_incarnation_is_never_accepted():
    acceptance = SnapshotAcceptance()
    acceptance.consider(Version(1, 7), 'a', 0.0)
    assert acceptance.consider(Version(1, 8), 'b', 100.0) is Verdict.REFUSE
    assert acceptance.refused == 1


def test_guard_acts_only_on_the_silence_of_an_active_controller():
    clock, watchdog = FakeClock(10.0), Watchdog(TIMEOUT_S)
    watchdog.heartbeat(Heartbeat.IDLE, clock.now())
    clock.sleep_until(20.0)
    assert not watchdog.check(clock.now())
    watchdog.heartbeat(Heartbeat.ACTIVE, clock.now())
    clock.sleep_until(20.0 + 0.99 * TIMEOUT_S)
    assert not watchdog.check(clock.now())
    clock.sleep_until(20.0 + 1.01 * TIMEOUT_S)
    assert watchdog.check(clock.now())
    clock.sleep_until(30.0)
    assert watchdog.check(clock.now())
    assert watchdog.trips == 1
    assert watchdog.silence_s(clock.now()) == pytest.approx(10.0)


def test_guard_lets_go_when_heartbeats_return_and_when_the_controller_ends():
    watchdog = Watchdog(TIMEOUT_S)
    watchdog.heartbeat(Heartbeat.ACTIVE, 0.0)
    assert watchdog.check(1.0)
    watchdog.heartbeat(Heartbeat.FAULT, 1.1)
    assert not watchdog.check(1.1)
    assert watchdog.check(1.3), 'a fault does not disarm'
    for end in (Heartbeat.SHUTDOWN, Heartbeat.IDLE):
        watchdog.heartbeat(Heartbeat.ACTIVE, 1.4)
        watchdog.heartbeat(end, 1.4)
        assert not watchdog.check(99.0)
    watchdog.heartbeat(Heartbeat.ACTIVE, 100.0)
    assert watchdog.check(100.1)


def test_guard_acts_at_once_on_a_death_whatever_heartbeats_are_still_on_their_way():
    watchdog = Watchdog(TIMEOUT_S)
    watchdog.heartbeat(Heartbeat.IDLE, 0.0)
    assert not watchdog.check(0.001, dead=True), 'nothing was sent yet'
    watchdog.heartbeat(Heartbeat.ACTIVE, 1.0)
    assert watchdog.check(1.001, dead=True)
    watchdog.heartbeat(Heartbeat.ACTIVE, 1.002)
    assert watchdog.check(1.002, dead=True)
    assert watchdog.trips == 1
    watchdog.heartbeat(Heartbeat.ESTOP, 2.0)        # of a successor
    assert not watchdog.check(2.0)
    assert watchdog.check(2.1)
    assert watchdog.trips == 2


def test_missed_deadlines_are_left_out_and_the_grid_stays(monkeypatch):
    period_ns, now_ns = 2_000_000, [1_000_000_123]

    class FakeTime:
        @staticmethod
        def monotonic_ns() -> int:
            return now_ns[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            now_ns[0] += round(seconds * 1e9) + 5_000

    monkeypatch.setattr(pacing, 'time', FakeTime)
    pacer = Pacer(period_ns)
    assert pacer.wait() == 5_000
    first_ns = pacer.deadline_ns
    assert first_ns % period_ns == 0
    now_ns[0] += 2 * period_ns + 700_000       # a tick that took 2.35 periods
    late_ns = pacer.wait()
    assert late_ns == period_ns + 705_000
    assert pacer.deadline_ns == first_ns + 2 * period_ns
    assert pacer.missed == 1
    assert pacer.lateness_ns == [period_ns + 705_000, 705_000]
    assert pacer.wait() == 5_000
    assert pacer.lateness_ns == [5_000]
    assert pacer.deadline_ns == first_ns + 3 * period_ns
    now_ns[0] += 10 * MOST_LEFT_OUT * period_ns
    pacer.wait()
    assert pacer.missed > 9 * MOST_LEFT_OUT
    assert len(pacer.lateness_ns) == 1 + MOST_LEFT_OUT


def test_another_controller_neither_disarms_guard_nor_stands_in_for_a_silence() -> None:
    watchdog = Watchdog(TIMEOUT_S)
    watchdog.heartbeat(Heartbeat.ACTIVE, 0.0, 'a')
    for state in (Heartbeat.IDLE, Heartbeat.SHUTDOWN, Heartbeat.FAULT):
        assert not watchdog.heeds(state, 'b')
    assert watchdog.heeds(Heartbeat.FAULT, 'a') and watchdog.heeds(Heartbeat.ACTIVE, 'b')
    assert watchdog.check(0.01, dead=True)
    assert watchdog.heeds(Heartbeat.IDLE, 'b')      # a is gone: b is its successor
    watchdog.heartbeat(Heartbeat.IDLE, 0.02, 'b')
    assert not watchdog.check(1.0)
    watchdog.heartbeat(Heartbeat.ACTIVE, 1.0, 'b')
    watchdog.heartbeat(Heartbeat.IDLE, 1.01, 'b')
    assert watchdog.heeds(Heartbeat.IDLE, 'a')
