"""A joystick: which button counts when, and where its axes move an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import arm7
import bodies
import control_rig
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.control.settings import TakeoverSettings
from async_mbrl.control.takeover import SILENT_S
from async_mbrl.control.teleop import END_EVERY_S, Hand, Teleop, ToolInverse, deflections
from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.robot import ArmConfig

ROBOT = arm7.robot()
HOME = np.array(ROBOT.home)
RATE_HZ = 10.0
JOINTS = TakeoverSettings('teleop', deadman_button=1, mode='joints', axes=(2, -1, 0),
                          scale=(1.0, 1.0, -0.5), deadzone=0.2)
TOOL = TakeoverSettings('teleop', deadman_button=1, axes=(0, 1, 2), scale=(0.1,), deadzone=0.0)


def teleop(settings: TakeoverSettings = JOINTS, robot: Any = ROBOT) -> Teleop:
    return Teleop(settings, robot, RATE_HZ)


def joy(subject: Teleop, pressed: bool, now_s: float,
        axes: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
    subject.joy(axes, [0, int(pressed)], now_s)


def test_axes_go_to_joints_with_dead_zone_and_scale() -> None:
    assert deflections(JOINTS, [1.0, 1.0, 0.6]) == pytest.approx([0.5, 0.0, -0.5])
    assert deflections(JOINTS, [-1.0, 1.0, 0.19]) == pytest.approx([0.0, 0.0, 0.5])
    assert deflections(JOINTS, [2.0, 0.0, -3.0]) == pytest.approx([-1.0, 0.0, -0.5])
    subject = teleop()
    joy(subject, False, 0.0)
    joy(subject, True, 0.1, [1.0, 1.0, 0.6])
    subject.next(0.1)
    asked = subject.next(0.1)
    assert asked is not None and asked.action is not None
    assert asked.action == pytest.approx([0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0])


@given(axes=st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3))
def test_a_dead_zone_makes_no_jump_and_keeps_the_order(axes: list[float]) -> None:
    one = TakeoverSettings(axes=(0, 1, 2), scale=(1.0,), deadzone=0.3)
    found = deflections(one, axes)
    assert (np.abs(found) <= np.abs(axes)).all() and (found * axes >= 0.0).all()
    assert ((found == 0.0) == (np.abs(axes) <= 0.3)).all() or np.abs(found).min() < 1e-9


def test_only_a_button_that_was_seen_let_go_begins_to_act() -> None:
    subject = teleop()
    joy(subject, True, 0.0)
    assert subject.hand is Hand.UNKNOWN and subject.next(0.0) is None
    joy(subject, False, 0.1)
    first = subject.next(0.1)
    assert first is not None and first.action is None   # whatever was before, it is over
    assert subject.next(0.1) is None
    joy(subject, True, 0.2)
    acting = subject.next(0.2)
    assert acting is not None and acting.action is not None
    joy(subject, False, 0.3)
    last = subject.next(0.3)
    assert last is not None and last.action is None
    assert subject.next(0.3) is None


def test_the_end_is_said_again_while_the_button_is_seen_let_go() -> None:
    subject, said = teleop(), []
    for tick in range(40):
        now_s = 0.1 * tick
        if tick < 30:       # nothing is known of a joystick that is not heard
            joy(subject, 15 <= tick < 20, now_s)
        asked = subject.next(now_s)
        if asked is not None and asked.action is None:
            said.append(tick)
    # A whole number of ticks, rounded by floating-point sums.
    assert said[0] == 0 and 20 in said and max(said) < 30 + SILENT_S / 0.1
    assert not any(15 <= tick < 20 for tick in said)
    gaps = np.diff([tick for tick in said if tick < 15]) * 0.1
    assert len(gaps) >= 2 and ((gaps > END_EVERY_S - 0.01) & (gaps < END_EVERY_S + 0.11)).all()


def test_a_joystick_that_fell_silent_counts_again_only_once_let_go() -> None:
    subject = teleop()
    joy(subject, False, 0.0)
    joy(subject, True, 0.1)
    subject.next(0.1)
    assert subject.next(0.1 + SILENT_S) is not None
    assert subject.next(0.11 + SILENT_S) is None and 'joystick' in subject.trouble
    joy(subject, True, 1.0)
    assert subject.next(1.0) is None
    joy(subject, False, 1.1)
    released = subject.next(1.1)
    assert released is not None and released.action is None and not subject.trouble
    joy(subject, True, 1.2)
    assert subject.next(1.2) is not None


def test_a_silence_counts_though_nothing_was_to_be_sent_in_it() -> None:
    subject = teleop()
    joy(subject, False, 0.0)
    joy(subject, True, 0.1)
    joy(subject, True, 0.2 + SILENT_S)
    assert subject.hand is Hand.UNKNOWN


def test_the_tool_is_not_moved_without_joint_states() -> None:
    subject = teleop(TOOL)
    joy(subject, False, 0.0)
    subject.next(0.0)
    joy(subject, True, 0.1)
    assert subject.next(0.1) is None and 'joint states' in subject.trouble
    subject.measured(HOME, np.zeros(7), 0.2)
    joy(subject, False, 0.2)
    joy(subject, True, 0.25)
    subject.next(0.25)
    assert subject.next(0.3) is not None
    joy(subject, True, 0.4)
    assert subject.next(0.21 + SILENT_S) is None


@pytest.mark.parametrize(('axes', 'buttons', 'words'), [
    ([0.0, 0.0], [0, 1], '2 axes'), ([0.0, 0.0, math.nan], [0, 1], 'not finite'),
    ([0.0, 0.0, math.inf], [0, 1], 'not finite'), ([0.0, 0.0, 0.0], [1], '1 buttons'),
    ([], [], 'buttons')])
def test_another_joystick_is_refused_and_not_heard(axes: list[float], buttons: list[int],
                                                   words: str) -> None:
    subject = teleop()
    joy(subject, False, 0.0)
    joy(subject, True, 0.1)
    with pytest.raises(ValueError, match=words):
        subject.joy(axes, buttons, 0.2)
    subject.next(0.2)
    assert subject.next(0.12 + SILENT_S) is None


@pytest.mark.parametrize(('change', 'words'), [
    ({'node': '/abs'}, 'node'), ({'axes': ()}, 'axes'), ({'axes': (0, 1)}, '3: along'),
    ({'scale': (1.0, 1.0)}, 'scale')])
def test_settings_that_contradict_themselves_are_refused(change: dict[str, Any],
                                                         words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TakeoverSettings(**change)


def test_a_body_without_kinematics_is_moved_by_its_joints() -> None:
    hopper = bodies.robot('hopper')
    with pytest.raises(ConfigError, match='no arm'):
        teleop(TOOL, hopper)
    with pytest.raises(ConfigError, match='4 axes for the 3 joints'):
        teleop(TakeoverSettings(mode='joints', axes=(0, 1, 2, 3)), hopper)
    teleop(JOINTS, hopper)


def slopes(robot: ArmConfig, position: np.ndarray) -> np.ndarray:
    """How the tool points move with each joint, by finite differences of the kinematics."""
    kinematics, step = ToolKinematics(robot.kinematics), 1e-6
    return np.stack([
        (kinematics.points(position + step * joint) - kinematics.points(position - step * joint))
        / (2 * step) for joint in np.eye(robot.joints)], 1)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_jacobian_is_that_of_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    position = rng.uniform(ROBOT.limits.position_lower, ROBOT.limits.position_upper)
    np.testing.assert_allclose(ToolInverse(ROBOT, 0.05).jacobian(position),
                               slopes(ROBOT, position), atol=1e-8)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_tool_moves_as_asked_and_does_not_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    position, wanted = HOME + rng.uniform(-0.3, 0.3, 7), rng.uniform(-0.1, 0.1, 3)
    kinematics, step = ToolKinematics(ROBOT.kinematics), 1e-4
    velocity = ToolInverse(ROBOT, 0.002).velocity(position, wanted)
    moved = (kinematics.points(position + step * velocity)
             - kinematics.points(position - step * velocity)) / (2 * step)
    np.testing.assert_allclose(moved.reshape(-1, 3), np.tile(wanted, (3, 1)), atol=5e-3)


@given(seed=st.integers(0, 2**32 - 1), damping=st.sampled_from([0.02, 0.05, 0.2]))
def test_damping_bounds_the_joints_near_singular_poses(seed: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    position = np.where(rng.random(7) < 0.5, 0.0, rng.uniform(-1.0, 1.0, 7))
    wanted = rng.uniform(-0.1, 0.1, 3)
    velocity = ToolInverse(ROBOT, damping).velocity(position, wanted)
    # The greatest singular value of the damped inverse is 1 / (2 damping).
    most = np.linalg.norm(np.tile(wanted, 3)) / (2 * damping)
    assert np.linalg.norm(velocity) <= most * (1 + 1e-9)


@pytest.mark.parametrize('interface', ['velocity', 'position'])
def test_actions_are_what_the_interface_takes(interface: str) -> None:
    scale = [1.0] * 7 if interface == 'velocity' else [0.1] * 7
    robot = arm7.robot(command_interface=interface, action_scale=tuple(scale))
    subject = teleop(TOOL, robot)
    subject.measured(HOME, np.zeros(7), 0.0)
    joy(subject, False, 0.0)
    subject.next(0.0)
    joy(subject, True, 0.0, [0.0, 0.5, 0.0])
    asked = subject.next(0.0)
    assert asked is not None and asked.action is not None
    wanted = ToolInverse(robot, TOOL.damping).velocity(HOME, np.array([0.0, 0.05, 0.0]))
    expected = wanted if interface == 'velocity' else wanted / RATE_HZ / 0.1
    assert asked.action == pytest.approx(expected)
    fast = TakeoverSettings(deadman_button=1, axes=(0, 1, 2), scale=(1.0,), deadzone=0.0)
    subject = teleop(fast, arm7.robot(command_interface=interface,
                                      action_scale=tuple(0.1 * value for value in scale)))
    subject.measured(HOME, np.zeros(7), 0.0)
    joy(subject, False, 0.0)
    subject.next(0.0)
    joy(subject, True, 0.0, [0.0, 1.0, 0.0])
    asked = subject.next(0.0)
    assert asked is not None and asked.action is not None
    assert np.abs(asked.action).max() == pytest.approx(1.0)
    assert asked.action / np.linalg.norm(asked.action) == pytest.approx(
        wanted / np.linalg.norm(wanted))


@pytest.mark.parametrize('direction', [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_torques_held_for_a_step_bring_the_tool_along(direction: tuple[float, ...]) -> None:
    """On joints as heavy as their limits say, and with actions a whole step late."""
    subject = teleop(TOOL)
    subject.running = True
    plant = control_rig.InertiaPlant(ROBOT)
    points = ToolKinematics(ROBOT.kinematics).points
    begin = points(HOME).reshape(-1, 3)
    joy(subject, False, 0.0)
    subject.next(0.0)
    pressed, effort, coming = False, np.zeros(7), np.zeros(7)
    for tick in range(1000):
        now_s = tick * 0.002
        if tick % 10 == 0:
            subject.measured(plant.position, plant.velocity, now_s)
            joy(subject, pressed, now_s, direction)
            pressed = True
            asked = subject.next(now_s)
        if tick % 50 == 0:
            effort, coming = coming, (np.zeros(7) if asked is None or asked.action is None
                                      else asked.action * np.array(ROBOT.action_scale))
        plant.step(effort, 0.002)
    moved = points(plant.position).reshape(-1, 3) - begin
    along = moved @ np.array(direction)
    assert (along > 0.1).all() and (along < 0.25).all(), moved       # 0.1 m/s for 2 s
    # Springs are no rails, and the weak joints of the wrist have little to hold the tool with.
    assert np.abs(moved - np.outer(along, direction)).max() < 0.05, moved
    assert np.abs(plant.velocity).max() < 1.0
