"""The simulated driver judges commands and keeps time."""

from __future__ import annotations

import array

import arm7
import numpy as np
import pytest

from async_mbrl.core.clock import FakeClock
from async_mbrl.simulation.driver import CatchUpPacer, SimulatedDriver

ROBOT = arm7.robot()
EFFORT = np.array(ROBOT.limits.effort)
NEUTRAL = np.zeros(7)


def _driver(robot=ROBOT, **plant):
    return SimulatedDriver(robot, arm7.plant(**plant))


def test_a_good_command_stays_in_force():
    driver = _driver()
    assert driver.command(0.0, NEUTRAL) is NEUTRAL
    assert driver.receive(array.array('d', EFFORT), 0.0, 0) is None
    assert driver.command(100.0, NEUTRAL) == pytest.approx(EFFORT)
    assert (driver.received, driver.refused, driver.violations) == (1, 0, 0)


@pytest.mark.parametrize(('values', 'message'), [
    ([0.0] * 6, '6 numbers for 7 joints'),
    ([0.0] * 6 + [float('nan')], 'not finite'),
    ([float('inf')] + [0.0] * 6, 'not finite'),
])
def test_a_bad_command_is_refused_and_the_one_before_stays(values, message):
    driver = _driver()
    driver.receive([1.0] * 7, 0.0, 0)
    assert message in driver.receive(values, 0.1, 1)
    assert driver.command(0.1, NEUTRAL) == pytest.approx(np.ones(7))
    assert (driver.received, driver.refused, driver.violations) == (2, 1, 0)


@pytest.mark.parametrize(('interface', 'inside', 'beyond'), [
    ('effort', EFFORT * (1 + 1e-10), EFFORT * (1 + 1e-6)),
    ('velocity', -np.array(ROBOT.limits.velocity), np.array(ROBOT.limits.velocity) * 1.01),
    ('position', np.array(ROBOT.limits.position_lower),
     np.array(ROBOT.limits.position_lower) - 0.01),
])
def test_commands_beyond_the_limits_are_counted(interface, inside, beyond):
    driver = _driver(arm7.robot(command_interface=interface))
    assert driver.receive(inside, 0.0, 0) is None
    assert 'beyond the limits' in driver.receive(beyond, 0.0, 1)
    assert (driver.refused, driver.violations) == (0, 1)


def test_a_driver_with_a_timeout_holds_until_the_next_command():
    driver = _driver(driver_timeout='hold', driver_timeout_s=0.1)
    assert driver.command(5.0, NEUTRAL) is NEUTRAL
    driver.receive([1.0] * 7, 5.0, 0)
    assert driver.command(5.09, NEUTRAL) is not None
    assert driver.command(5.11, NEUTRAL) is None
    driver.receive([0.5] * 7, 6.0, 1)
    assert driver.command(6.0, NEUTRAL) == pytest.approx(np.full(7, 0.5))
    driver.forget()
    assert driver.command(9.0, NEUTRAL) is NEUTRAL


def test_pacer_keeps_to_the_clock():
    clock = FakeClock(10.0)
    pacer = CatchUpPacer(clock, 0.002, limit=100)
    assert [pacer.wait() for _ in range(1000)] == [1] * 1000
    assert clock.now() == pytest.approx(12.0)


def test_pacer_catches_up_after_a_gap_but_never_without_bound():
    clock = FakeClock()
    pacer = CatchUpPacer(clock, 0.002, limit=100)
    pacer.wait()
    clock.time_s = 0.0301
    assert pacer.wait() == 14
    assert pacer.given_up == 0
    clock.time_s += 10.0
    assert pacer.wait() == 100
    assert pacer.given_up == 4900
    assert pacer.wait() == 1


def test_pacer_says_how_late_a_step_is_whatever_was_given_up():
    clock = FakeClock(10.0)
    pacer = CatchUpPacer(clock, 0.002, limit=100)
    pacer.wait()
    assert pacer.late_s == pytest.approx(0.0, abs=1e-9)
    clock.time_s += 0.7     # stopped with a step in hand: that one is late, the next ones are not
    assert pacer.late_s == pytest.approx(0.7)
    pacer.wait()
    assert pacer.late_s == pytest.approx(0.0, abs=1e-9)
