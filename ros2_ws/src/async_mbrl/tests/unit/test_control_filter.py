"""The filter: whatever is asked, what is sent is finite, within limits, and stops in time."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import JOINTS, InertiaPlant, make_robot
from hypothesis import given, settings
from hypothesis import strategies as st

from async_mbrl.control.filter import MARGIN_RAD, NON_FINITE_LIMIT, RAMP_TIME_S, CommandFilter

ANY = st.floats(width=64)
SEEDS = st.integers(0, 2**32 - 1)
OVERSHOOT_RAD = 0.005


def rows(elements: st.SearchStrategy[float], least: int = 1,
         most: int = 20) -> st.SearchStrategy[np.ndarray]:
    row = st.lists(elements, min_size=JOINTS, max_size=JOINTS)
    return st.lists(row, min_size=least, max_size=most).map(lambda table: np.array(table, float))


def bound(robot) -> np.ndarray:
    limits = robot.limits
    return np.array(limits.effort if robot.command_interface == 'effort' else limits.velocity)


@pytest.mark.parametrize('interface', ['effort', 'velocity'])
@given(commands=rows(ANY), positions=rows(st.floats(-10, 10), 20),
       velocities=rows(st.floats(-100, 100), 20))
def test_what_is_sent_is_finite_and_within_limits(interface, commands, positions, velocities):
    robot = make_robot(command_interface=interface)
    command_filter = CommandFilter(robot)
    for command, position, velocity in zip(commands, positions, velocities, strict=False):
        sent = command_filter.apply(command, position, velocity)
        assert np.isfinite(sent).all()
        assert (np.abs(sent) <= bound(robot)).all()


@given(commands=rows(ANY), seed=SEEDS)
def test_positions_sent_stay_within_limits_and_move_no_faster_than_allowed(commands, seed):
    robot = make_robot(command_interface='position')
    limits = robot.limits
    command_filter = CommandFilter(robot)
    position = np.random.default_rng(seed).uniform(limits.position_lower, limits.position_upper)
    previous = position
    for command in commands:
        sent = command_filter.apply(command, position, np.zeros(JOINTS)).copy()
        assert (sent >= limits.position_lower).all()
        assert (sent <= limits.position_upper).all()
        step = np.array(limits.velocity) / robot.control_rate_hz
        assert (np.abs(sent - previous) <= step + 1e-12).all()
        previous = sent


@given(seed=SEEDS, hold=st.integers(1, 400), wild=st.booleans())
@settings(max_examples=25)
def test_joints_stop_before_their_limits(seed, hold, wild):
    """On joints without friction that brake no better than the configuration says."""
    robot = make_robot()
    limits, effort = robot.limits, np.array(robot.limits.effort)
    rng = np.random.default_rng(seed)
    lower, upper = np.array(limits.position_lower), np.array(limits.position_upper)
    plant = InertiaPlant(robot, rng.uniform(lower + MARGIN_RAD, upper - MARGIN_RAD))
    plant.friction = np.zeros(JOINTS)
    command_filter = CommandFilter(robot)
    for tick in range(1000):
        if tick % hold == 0:
            command = rng.choice([-1.0, 1.0], JOINTS) * effort
            if wild and rng.random() < 0.5:
                command[rng.integers(JOINTS)] = rng.choice([np.nan, np.inf, -1e300])
        plant.step(command_filter.apply(command, plant.position, plant.velocity), 0.002)
        assert (plant.position >= lower - OVERSHOOT_RAD).all()
        assert (plant.position <= upper + OVERSHOOT_RAD).all()
        width = RAMP_TIME_S * np.array(limits.braking_acceleration)
        assert (np.abs(plant.velocity) <= np.array(limits.velocity) + width).all()


def test_commands_within_limits_pass_unchanged():
    robot = make_robot()
    command_filter = CommandFilter(robot)
    command = np.array(robot.action_scale)
    sent = command_filter.apply(command, np.array(robot.home), np.zeros(JOINTS))
    assert np.array_equal(sent, command)
    assert not command_filter.intervened
    assert command_filter.interventions == 0


def test_a_fast_joint_is_braked_whatever_is_asked():
    robot = make_robot()
    velocity = np.zeros(JOINTS)
    velocity[2] = 2.0 * robot.limits.velocity[2]
    sent = CommandFilter(robot).apply(np.full(JOINTS, np.nan), np.array(robot.home), velocity)
    assert sent[2] == -robot.limits.effort[2]
    assert not sent[[0, 1, 3, 4, 5, 6]].any()


def test_commands_in_a_row_that_are_not_finite_make_a_fault():
    robot = make_robot()
    command_filter = CommandFilter(robot)
    home, rest = np.array(robot.home), np.zeros(JOINTS)
    bad = np.full(JOINTS, np.inf)
    for _ in range(NON_FINITE_LIMIT - 1):
        assert not command_filter.apply(bad, home, rest).any()
    command_filter.apply(rest, home, rest)
    assert not command_filter.faulted
    for _ in range(NON_FINITE_LIMIT):
        command_filter.apply(bad, home, rest)
    assert command_filter.faulted
    assert command_filter.interventions == 2 * NON_FINITE_LIMIT - 1


@pytest.mark.parametrize('interface', ['effort', 'velocity'])
def test_what_is_sent_is_finite_even_if_measurements_are_not(interface):
    robot = make_robot(command_interface=interface)
    command_filter = CommandFilter(robot)
    bad = np.full(JOINTS, np.nan)
    for _ in range(NON_FINITE_LIMIT):
        assert not command_filter.apply(np.full(JOINTS, 0.1), bad, bad).any()
    assert command_filter.interventions == NON_FINITE_LIMIT
    assert command_filter.faulted
