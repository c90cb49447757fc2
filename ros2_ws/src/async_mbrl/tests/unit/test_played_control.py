"""What is played of ros2_control: trajectories, joint orders, and the switching of controllers."""

from __future__ import annotations

import arm7
import numpy as np
import pytest

from async_mbrl.simulation.controllers import BROADCASTER, ControllerStates
from async_mbrl.simulation.driver import SimulatedDriver

NAMES = arm7.robot().joint_names
HOME = np.array(arm7.robot().home)
OURS, OTHERS = ('forward',), ('trajectory',)


def states(others: tuple[str, ...] = OTHERS) -> ControllerStates:
    return ControllerStates(arm7.robot(controller_manager='controller_manager', controllers=OURS,
                                       other_controllers=others))


def test_at_first_the_others_have_the_arm() -> None:
    played = states()
    assert played.names == (BROADCASTER, *OURS, *OTHERS)
    assert [played.active(name) for name in played.names] == [True, False, True]
    assert not played.following
    assert ControllerStates(arm7.robot()).following     # without a manager nothing is in the way


def test_the_arm_is_handed_over_and_back_in_one_switch() -> None:
    played = states()
    assert played.switch(OURS, OTHERS, strict=True) == ''
    assert played.following and not played.active('trajectory')
    assert played.switch(OTHERS, OURS, strict=True) == ''
    assert not played.following and played.active('trajectory')


@pytest.mark.parametrize(('activate', 'deactivate', 'words'), [
    (OURS, (), 'command the same joints'), (('gripper',), (), 'no controller gripper'),
    (OTHERS, (), 'trajectory is active already'), ((), OURS, 'forward is inactive already')])
def test_a_strict_switch_does_all_or_nothing(activate, deactivate, words) -> None:
    played = states()
    assert words in played.switch(activate, deactivate, strict=True)
    assert [played.active(name) for name in played.names] == [True, False, True]


def test_a_lenient_switch_does_what_can_be_done() -> None:
    played = states()
    assert played.switch(('gripper', *OURS), OTHERS, strict=False) == ''
    assert played.following


def test_commands_are_taken_in_the_order_of_the_driver() -> None:
    driver = SimulatedDriver(arm7.robot(command_joint_names=NAMES[::-1]), arm7.plant())
    assert driver.receive([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 0.0, 0) is None
    command = driver.command(0.0, np.zeros(7))
    assert command is not None and command.tolist() == [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


@pytest.fixture
def driver() -> SimulatedDriver:
    return SimulatedDriver(arm7.robot(command_interface='position',
                                      command_adapter='joint_trajectory'), arm7.plant())


def test_a_point_is_reached_in_its_time(driver: SimulatedDriver) -> None:
    target = HOME + 0.2
    assert driver.receive_point(NAMES[::-1], target[::-1].tolist(), 0.1, HOME, 1.0, 0) is None
    for time_s, share in ((1.0, 0.0), (1.05, 0.5), (1.1, 1.0), (5.0, 1.0)):
        np.testing.assert_allclose(driver.command(time_s, HOME), HOME + share * 0.2, atol=1e-9)


def test_the_next_point_goes_on_from_the_setpoint(driver: SimulatedDriver) -> None:
    driver.receive_point(NAMES, (HOME + 0.2).tolist(), 0.1, HOME, 1.0, 0)
    driver.receive_point(NAMES, (HOME + 0.3).tolist(), 0.1, HOME, 1.05, 50_000_000)
    np.testing.assert_allclose(driver.command(1.05, HOME), HOME + 0.1, atol=1e-9)
    np.testing.assert_allclose(driver.command(1.1, HOME), HOME + 0.2, atol=1e-9)
    driver.forget()
    np.testing.assert_allclose(driver.command(1.1, HOME), HOME)


@pytest.mark.parametrize(('names', 'values', 'duration_s', 'words'), [
    (NAMES[:-1], HOME[:-1], 0.1, 'a trajectory of 6'), (('x', *NAMES[1:]), HOME, 0.1, "'x'"),
    (NAMES, HOME * np.nan, 0.1, 'not finite'), (NAMES, HOME, -0.1, 'time_from_start'),
    (NAMES, HOME, float('nan'), 'time_from_start'), ((), (), 0.0, 'a trajectory of 0')])
def test_a_point_that_does_not_fit_is_refused(driver: SimulatedDriver, names, values, duration_s,
                                              words) -> None:
    driver.receive_point(NAMES, (HOME + 0.1).tolist(), 0.0, HOME, 0.0, 0)
    fault = driver.receive_point(tuple(names), list(values), duration_s, HOME, 0.0, 0)
    assert fault is not None and fault.startswith('refused') and words in fault
    assert driver.refused == 1
    np.testing.assert_allclose(driver.command(0.0, HOME), HOME + 0.1)


def test_a_point_beyond_the_limits_is_counted(driver: SimulatedDriver) -> None:
    fault = driver.receive_point(NAMES, (HOME + 9.0).tolist(), 0.1, HOME, 0.0, 0)
    assert fault is not None and 'beyond the limits' in fault and driver.violations == 1
