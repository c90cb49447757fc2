"""The plant has the faults that it is configured to have, and no others."""

from __future__ import annotations

import arm7
import numpy as np
import pytest

from async_mbrl.core.config import ConfigError
from async_mbrl.simulation.physics import ArmPhysics


def _physics(plant, robot=None, seed=0):
    return ArmPhysics(plant, robot or arm7.robot(), np.random.default_rng(seed))


def test_without_torque_the_arm_stays():
    physics = _physics(arm7.ideal_plant())
    for _ in range(500):
        physics.step(np.zeros(7))
    assert physics.position == pytest.approx(physics.robot.home, abs=1e-6)


@pytest.mark.parametrize('latency_s', [0.0, 0.002, 0.02])
def test_latency_is_exact_in_ticks(latency_s):
    physics = _physics(arm7.ideal_plant(command_latency_s=latency_s))
    moved_at = None
    for tick in range(1, 30):
        physics.step(np.full(7, 0.5))
        if np.abs(physics.velocity).min() > 1e-5:
            moved_at = tick
            break
    assert moved_at == round(latency_s * 500) + 1
    assert physics.latency_ticks == round(latency_s * 500)


def test_dry_friction_holds_small_torques_and_lets_large_ones_pass():
    scale = np.array(arm7.robot().action_scale)
    held = _physics(arm7.ideal_plant(friction_ratio=0.1))
    for _ in range(250):
        held.step(0.08 * scale)
    assert np.abs(held.position - held.robot.home).max() < 1e-3
    moved = _physics(arm7.ideal_plant(friction_ratio=0.1))
    for _ in range(250):
        moved.step(0.5 * scale)
    assert np.abs(moved.position - moved.robot.home).max() > 0.05


def test_friction_of_a_velocity_robot_needs_a_reference():
    robot = arm7.robot(command_interface='velocity')
    with pytest.raises(ConfigError, match='friction_reference'):
        _physics(arm7.plant(friction_reference=()), robot)


def test_measurement_noise_has_its_deviation_and_repeats_with_its_seed():
    physics = _physics(arm7.plant())
    measured = np.array([np.concatenate(physics.measured()) for _ in range(3000)])
    deviation = measured.std(axis=0)
    assert deviation[:7] == pytest.approx(np.full(7, 0.001), rel=0.08)
    assert deviation[7:] == pytest.approx(np.full(7, 0.01), rel=0.08)
    assert measured.mean(axis=0)[:7] == pytest.approx(physics.robot.home, abs=1e-4)
    again = np.concatenate(_physics(arm7.plant()).measured())
    assert (again == measured[0]).all()
    assert (np.concatenate(_physics(arm7.plant(), seed=1).measured()) != measured[0]).any()


def test_velocity_commands_are_tracked():
    physics = _physics(arm7.plant(), arm7.robot(command_interface='velocity'))
    wanted = np.array([0.5, 0.3, -0.5, 0.4, 0.6, -0.6, 0.6])
    for _ in range(300):
        physics.step(wanted)
    assert physics.velocity == pytest.approx(wanted, abs=0.1)


def test_position_commands_are_tracked():
    physics = _physics(arm7.plant(), arm7.robot(command_interface='position'))
    wanted = np.array(physics.robot.home) + [0.3, -0.2, 0.2, 0.3, -0.3, 0.2, 0.3]
    for _ in range(1000):
        physics.step(wanted)
    assert physics.position == pytest.approx(wanted, abs=0.02)


def test_motors_give_no_more_than_their_limit():
    weak, strong = _physics(arm7.ideal_plant()), _physics(arm7.ideal_plant())
    for _ in range(20):
        weak.step(np.array(weak.robot.limits.effort))
        strong.step(10.0 * np.array(weak.robot.limits.effort))
    assert (weak.position == strong.position).all()


def test_holding_driver_stops_the_arm_and_lets_go_at_the_next_command():
    physics = _physics(arm7.ideal_plant(command_latency_s=0.02))
    for _ in range(200):
        physics.step(np.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert physics.velocity[0] > 0.1
    where = physics.position[0]
    for _ in range(1000):
        physics.step(None)
    assert physics.holding
    assert physics.position[0] == pytest.approx(where, abs=0.02)
    assert np.abs(physics.velocity).max() < 1e-3
    physics.step(np.zeros(7))
    assert not physics.holding


def test_reset_puts_the_arm_at_rest_and_forgets_commands_under_way():
    physics = _physics(arm7.ideal_plant(command_latency_s=0.02))
    for _ in range(100):
        physics.step(np.full(7, 0.5))
    pose = np.linspace(-0.5, 0.5, 7)
    physics.reset(pose)
    assert physics.position == pytest.approx(pose)
    assert physics.ticks == 100
    for _ in range(10):
        physics.step(np.zeros(7))
    assert physics.position == pytest.approx(pose, abs=1e-6)
    expected = physics.robot.kinematics.points
    assert physics.tool_points().shape == (3 * expected,)


def test_rates_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match='state_rate_hz'):
        arm7.plant(state_rate_hz=300.0)
