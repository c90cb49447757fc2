"""The filter: whatever is asked, what is sent is finite, within limits, and stops in time."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import JOINTS, make_robot
from filter_rig import (
    BROKEN,
    INTERFACES,
    Checks,
    SimpleArm,
    random_robot,
    torment,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from async_mbrl.control.braking import MARGIN_RAD, JointLimiter
from async_mbrl.control.filter import (
    BRAKING,
    FINITE,
    MAGNITUDE,
    NON_FINITE_LIMIT,
    SMOOTHED,
    WORKSPACE,
    CommandFilter,
)
from async_mbrl.control.tool_velocity import ToolVelocities
from async_mbrl.core.kinematics import ToolKinematics

ANY = st.floats(width=64)
SEEDS = st.integers(0, 2**32 - 1)
OVERSHOOT_RAD = 0.005
OVERSHOOT_M = 0.01


def rows(elements: st.SearchStrategy[float], least: int = 1,
         most: int = 12) -> st.SearchStrategy[np.ndarray]:
    row = st.lists(elements, min_size=JOINTS, max_size=JOINTS)
    return st.lists(row, min_size=least, max_size=most).map(lambda table: np.array(table, float))


@pytest.mark.parametrize('interface', INTERFACES)
@given(commands=rows(ANY), positions=rows(ANY, 12), velocities=rows(ANY, 12), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_any_numbers_whatever_are_sent_within_limits(interface, commands, positions, velocities,
                                                     seed):
    robot = make_robot(command_interface=interface)
    limits = robot.limits
    start = np.random.default_rng(seed).uniform(limits.position_lower, limits.position_upper)
    command_filter, checks = CommandFilter(robot), Checks(robot)
    command_filter.start(start, np.zeros(JOINTS))
    checks.begin(start if interface == 'position' else np.zeros(JOINTS))
    for command, position, velocity in zip(commands, positions, velocities, strict=False):
        checks.take(command_filter.apply(command, position, velocity))
    assert not checks.counts


@pytest.mark.parametrize('interface', INTERFACES)
@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_any_robot_under_any_stream_is_sent_commands_within_limits(interface, seed):
    rng = np.random.default_rng(seed)
    robot = random_robot(rng, interface)
    command_filter, checks = CommandFilter(robot), Checks(robot)
    for _ in range(2):
        torment(rng, robot, command_filter, checks, 30)
    assert not checks.counts
    assert command_filter.failures == 0


@pytest.mark.parametrize('interface', INTERFACES)
@pytest.mark.parametrize(('broken', 'kinds'), [
    ('rate', {'first'}), ('everything', {'first', 'magnitude', 'non_finite'})])
def test_the_checks_see_a_broken_filter(interface, broken, kinds):
    rng = np.random.default_rng(1)
    robot = random_robot(rng, interface)
    checks = Checks(robot)
    for _ in range(5):
        torment(rng, robot, BROKEN[broken](robot), checks, 40)
    assert kinds <= checks.counts.keys()


@pytest.mark.parametrize('interface', INTERFACES)
@given(seed=SEEDS, hold=st.integers(1, 400), wild=st.booleans())
@settings(max_examples=5, deadline=None)
def test_joints_stop_before_their_limits(interface, seed, hold, wild):
    """On joints without friction that brake no better than the configuration says."""
    robot = make_robot(command_interface=interface)
    limits, limiter = robot.limits, JointLimiter(robot)
    rng = np.random.default_rng(seed)
    lower, upper = np.array(limits.position_lower), np.array(limits.position_upper)
    arm = SimpleArm(robot, rng.uniform(lower + MARGIN_RAD, upper - MARGIN_RAD), np.zeros(JOINTS))
    command_filter = CommandFilter(robot)
    command_filter.start(arm.position, arm.velocity)
    scale = {'effort': np.array(limits.effort), 'velocity': np.array(limits.velocity),
             'position': 2.0 * upper}[interface]
    for tick in range(500):
        if tick % hold == 0:
            command = rng.choice([-1.0, 1.0], JOINTS) * scale
            if wild and rng.random() < 0.5:
                command[rng.integers(JOINTS)] = rng.choice([np.nan, np.inf, -1e300])
        arm.step(command_filter.apply(command, arm.position, arm.velocity))
        assert (arm.position >= lower - OVERSHOOT_RAD).all()
        assert (arm.position <= upper + OVERSHOOT_RAD).all()
        width = limiter.ramp_s * np.array(limits.braking_acceleration)
        assert (np.abs(arm.velocity) <= np.array(limits.velocity) + width).all()


def planar_robot(interface: str):
    """Two links in the horizontal plane, whose tool easily leaves a box through its x face."""
    return make_robot(
        joint_names=['a', 'b'], command_interface=interface, action_scale=[1.0, 1.0],
        home=[1.2, 0.5], limits={
            'position_lower': [-3.0, -2.5], 'position_upper': [3.0, 2.5],
            'velocity': [2.0, 2.0], 'acceleration': [20.0, 20.0], 'jerk': [5000.0, 5000.0],
            'effort': [20.0, 10.0], 'effort_rate': [2000.0, 1000.0],
            'braking_acceleration': [15.0, 15.0]},
        workspace={'lower': [-0.2, -0.9, 0.0], 'upper': [0.5, 0.9, 1.0], 'minimum_height_m': 0.0,
                   'braking_acceleration': 3.0},
        move={'stiffness': [20.0, 10.0], 'damping': [4.0, 2.0], 'velocity': [1.0, 1.0]},
        kinematics={
            'joint_positions': [0.0, 0.0, 0.3, 0.4, 0.0, 0.0],
            'joint_quaternions': [1.0, 0.0, 0.0, 0.0] * 2,
            'joint_axes': [0.0, 0.0, 1.0] * 2, 'tool_points': [0.3, 0.0, 0.0, 0.35, 0.05, 0.0]})


@pytest.mark.parametrize('interface', INTERFACES)
@given(seed=SEEDS, hold=st.integers(5, 300))
@settings(max_examples=5, deadline=None)
def test_the_tool_stays_in_its_box(interface, seed, hold):
    robot = planar_robot(interface)
    rng = np.random.default_rng(seed)
    arm = SimpleArm(robot, np.array(robot.home), np.zeros(2))
    kinematics = ToolKinematics(robot.kinematics)
    command_filter = CommandFilter(robot)
    command_filter.start(arm.position, arm.velocity)
    scale = {'effort': np.array([20.0, 10.0]), 'velocity': np.full(2, 2.0),
             'position': np.full(2, 2.5)}[interface]
    lower, upper = np.array(robot.workspace.lower), np.array(robot.workspace.upper)
    for tick in range(500):
        if tick % hold == 0:
            command = rng.uniform(-1.0, 1.0, 2) * scale
        arm.step(command_filter.apply(command, arm.position, arm.velocity))
        points = kinematics.points(arm.position).reshape(-1, 3)
        assert (points >= lower - OVERSHOOT_M).all()
        assert (points <= upper + OVERSHOOT_M).all()


@pytest.mark.parametrize('interface', INTERFACES)
def test_outside_the_box_inward_commands_pass_and_outward_ones_do_not(interface):
    robot = planar_robot(interface)
    outside = np.array([0.0, 0.3])
    kinematics = ToolKinematics(robot.kinematics)
    away = kinematics.points(outside)[0]
    assert away > robot.workspace.upper[0]
    ends = {}
    for name, towards in (('in', 1.0), ('out', -1.0)):
        arm = SimpleArm(robot, outside, np.zeros(2))
        command_filter = CommandFilter(robot)
        command_filter.start(arm.position, arm.velocity)
        # Turning the second joint on brings the tool in, turning it back brings it out.
        for _ in range(300):
            command = np.array([0.0, towards])
            if interface == 'position':
                command = arm.position + 0.3 * command
            arm.step(command_filter.apply(command, arm.position, arm.velocity))
        ends[name] = kinematics.points(arm.position)[0]
        assert (command_filter.counts[WORKSPACE] > 0) == (name == 'out')
    assert ends['in'] < away - 0.005
    assert ends['out'] < away + 1e-3


@given(seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_tool_velocities_are_the_differences_of_tool_points(seed):
    rng = np.random.default_rng(seed)
    chain = random_robot(rng, 'effort').kinematics
    position = rng.uniform(-3.0, 3.0, chain.joints)
    motion = rng.normal(size=chain.joints)
    world = ToolVelocities(chain).at(position, motion)
    kinematics = ToolKinematics(chain)
    assert world[:3].T.ravel() == pytest.approx(kinematics.points(position), abs=1e-12)
    assert (world[3] == 1.0).all()
    differences = (kinematics.points(position + 1e-6 * motion)
                   - kinematics.points(position - 1e-6 * motion)) / 2e-6
    assert world[4:].T.ravel() == pytest.approx(differences, abs=1e-7)


def test_commands_within_limits_pass_unchanged_after_a_ramp_that_is_no_intervention():
    robot = make_robot()
    command_filter = CommandFilter(robot)
    home, rest = np.array(robot.home), np.zeros(JOINTS)
    command_filter.start(home, rest)
    for sign in (1.0, -1.0):
        command = sign * np.array(robot.action_scale)
        for _ in range(3):       # a new action is reached within three ticks
            sent = command_filter.apply(command, home, rest)
            assert not command_filter.intervened
        assert np.array_equal(sent, command)
    counts = command_filter.counts
    assert counts['interventions'] == 0
    assert 0 < counts[SMOOTHED] <= 4


def test_a_fast_joint_is_braked_whatever_is_asked():
    robot = make_robot()
    velocity = np.zeros(JOINTS)
    velocity[2] = 2.0 * robot.limits.velocity[2]
    command_filter = CommandFilter(robot)
    command_filter.start(np.array(robot.home), velocity)
    for _ in range(20):
        sent = command_filter.apply(np.full(JOINTS, np.nan), np.array(robot.home), velocity)
    assert sent[2] == -robot.limits.effort[2]
    assert command_filter.counts[FINITE] == command_filter.counts[BRAKING] == 20


@pytest.mark.parametrize('interface', INTERFACES)
def test_the_first_command_begins_where_the_arm_is(interface):
    robot = make_robot(command_interface=interface)
    home, speed = np.array(robot.home), np.full(JOINTS, 0.2)
    command_filter = CommandFilter(robot)
    command_filter.start(home, speed)
    limits, period_s = robot.limits, 0.002
    sent = command_filter.apply(home + 0.5, home, speed)
    if interface == 'position':
        assert sent == pytest.approx(home, abs=1e-4)
    elif interface == 'velocity':
        assert (np.abs(sent - speed) <= np.array(limits.acceleration) * period_s).all()
    else:
        assert (np.abs(sent) <= np.array(limits.effort_rate) * period_s).all()


@pytest.mark.parametrize('interface', INTERFACES)
def test_the_way_to_the_safe_command_begins_at_once_and_ends(interface):
    robot = make_robot(command_interface=interface)
    home, rest = np.array(robot.home), np.zeros(JOINTS)
    command_filter = CommandFilter(robot)
    command_filter.start(home, rest)
    target = home - 0.3 if interface == 'position' else np.full(JOINTS, 0.3)
    for _ in range(50):
        before = command_filter.apply(target, home, rest).copy()
    after = command_filter.safe().copy()
    if interface == 'position':
        ticks = 200
        assert (np.abs(after - before) < 0.01).all()
    else:
        ticks = 5 if interface == 'effort' else 200
        assert (np.abs(after) <= np.abs(before)).all()
        assert np.abs(after).sum() < np.abs(before).sum()
    for _ in range(ticks):
        last = command_filter.safe().copy()
    assert command_filter.at_safe
    if interface != 'position':
        assert not last.any()
    assert np.array_equal(command_filter.safe(), last)


def test_changes_are_counted_by_kind():
    robot = make_robot()
    home, rest = np.array(robot.home), np.zeros(JOINTS)
    command_filter = CommandFilter(robot)
    command_filter.start(home, rest)
    command_filter.apply(np.full(JOINTS, 1e3), home, rest)
    assert command_filter.intervened
    assert command_filter.counts[MAGNITUDE] == 1
    command_filter.apply(np.full(JOINTS, np.nan), home, rest)
    assert command_filter.counts[FINITE] == 1
    at_limit = np.array(robot.limits.position_upper) - 0.5 * MARGIN_RAD
    at_limit[1:] = home[1:]
    command_filter.apply(np.full(JOINTS, 0.1), at_limit, rest)
    assert command_filter.counts[BRAKING] == 1
    assert command_filter.counts['interventions'] == 3


def test_commands_in_a_row_that_are_not_finite_are_counted():
    robot = make_robot()
    command_filter = CommandFilter(robot)
    home, rest = np.array(robot.home), np.zeros(JOINTS)
    bad = np.full(JOINTS, np.inf)
    for _ in range(NON_FINITE_LIMIT - 1):
        assert not command_filter.apply(bad, home, rest).any()
    command_filter.apply(rest, home, rest)
    assert command_filter.non_finite == 0
    for _ in range(NON_FINITE_LIMIT):
        command_filter.apply(bad, home, rest)
    assert command_filter.non_finite == NON_FINITE_LIMIT
    assert command_filter.counts[FINITE] == 2 * NON_FINITE_LIMIT - 1


@pytest.mark.parametrize('interface', INTERFACES)
def test_measurements_that_are_not_finite_lead_to_the_safe_command(interface):
    robot = make_robot(command_interface=interface)
    home, bad = np.array(robot.home), np.full(JOINTS, np.nan)
    command_filter = CommandFilter(robot)
    command_filter.start(home, np.zeros(JOINTS))
    for _ in range(NON_FINITE_LIMIT):
        sent = command_filter.apply(np.full(JOINTS, 0.1), bad, bad)
        assert np.array_equal(sent, home if interface == 'position' else np.zeros(JOINTS))
    assert command_filter.counts['interventions'] == NON_FINITE_LIMIT
    assert command_filter.non_finite == NON_FINITE_LIMIT


@pytest.mark.parametrize('beyond', [-0.7, 0.7])
def test_positions_begin_where_a_joint_is_beyond_its_limits_and_come_back(beyond):
    robot = make_robot(command_interface='position')
    limits = robot.limits
    start = np.zeros(JOINTS)
    start[0] = beyond + (limits.position_upper[0] if beyond > 0 else limits.position_lower[0])
    command_filter, checks = CommandFilter(robot), Checks(robot)
    command_filter.start(start, np.zeros(JOINTS))
    checks.begin(start)
    for tick in range(3000):
        sent = command_filter.apply(start * (1.0 if tick < 500 else 0.0), start, np.zeros(JOINTS))
        if tick == 0:
            assert sent == pytest.approx(start, abs=1e-4)
        checks.take(sent)
    assert not checks.counts
    assert limits.position_lower[0] <= sent[0] <= limits.position_upper[0]
