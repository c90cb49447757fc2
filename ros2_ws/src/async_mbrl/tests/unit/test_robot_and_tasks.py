"""Robot and task: what does not fit is named; reward and features agree on numpy and torch."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import arm7
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError, load, to_mapping
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.robot import JointLimits, RobotConfig, WorkspaceLimits, tighten
from async_mbrl.core.snapshot import architecture_hash
from async_mbrl.tasks import ReachTask, TaskConfig, make_task

ROBOT = arm7.robot()
TASK = make_task(arm7.task(), ROBOT)
LIMITS = ('position_lower', 'position_upper', 'velocity', 'effort', 'braking_acceleration')


def changed(config: Any, key: str, value: Any) -> dict[str, Any]:
    """The mapping of a configuration with the value of a dotted key changed, or removed (...)."""
    mapping = copy.deepcopy(to_mapping(config))
    *parents, last = key.split('.')
    node = mapping
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return mapping


@given(st.lists(st.floats(0.1, 10.0), min_size=8 * 7, max_size=8 * 7),
       st.lists(st.floats(-3.0, 3.0), min_size=8, max_size=8))
def test_limits_are_tightened_never_loosened(rows: list[float], space: list[float]) -> None:
    numbers = np.reshape(rows, (8, 7))
    numbers[0] *= -1.0      # position_lower
    other = JointLimits(*(tuple(row) for row in numbers.tolist()))
    limits, changes = tighten(ROBOT.limits, other, ROBOT.joint_names)
    for field in dataclasses.fields(JointLimits):
        before, by, found = (np.array(getattr(part, field.name))
                             for part in (ROBOT.limits, other, limits))
        expected = np.maximum if field.name == 'position_lower' else np.minimum
        assert (found == expected(before, by)).all()
        for index, name in enumerate(ROBOT.joint_names):
            said = any(text.startswith(f'{field.name} of {name} ') for text in changes)
            assert said == (found[index] != before[index])
    before = ROBOT.workspace
    try:
        other_space = WorkspaceLimits(tuple(space[:3]), tuple(space[3:6]), space[6],
                                      abs(space[7]))
        found_space, _ = tighten(before, other_space, 'xyz')
    except ConfigError:
        return
    for index in range(3):
        assert found_space.lower[index] == max(before.lower[index], space[index])
        assert found_space.upper[index] == min(before.upper[index], space[3 + index])
    assert found_space.minimum_height_m == max(before.minimum_height_m, space[6])
    assert found_space.braking_acceleration == min(before.braking_acceleration, abs(space[7]))


@pytest.mark.parametrize('limit', LIMITS)
def test_no_limit_has_a_default(limit: str) -> None:
    with pytest.raises(ConfigError, match=rf'^limits\.{limit}: missing'):
        load(RobotConfig, changed(ROBOT, f'limits.{limit}', ...))


@pytest.mark.parametrize(('key', 'value', 'says'), [
    ('joint_names', [], 'joint_names: at least one'),
    ('joint_names', ['elbow'] * 7, 'joint_names: .* twice'),
    ('joint_names', ['elbow'], 'action_scale: 7 numbers for 1 joints'),
    ('action_scale', [1.0] * 6, 'action_scale: 6 numbers for 7 joints'),
    ('home', [0.0] * 8, 'home: 8 numbers for 7 joints'),
    ('home', [9.0, 0.35, 0.0, -1.1, 0.0, -0.8, 0.0], 'home: 9.0 of shoulder_pan is outside'),
    ('limits.effort', [1.0] * 6, r'limits\.effort: 6 numbers'),
    ('limits.effort', [-1.0] * 7, r'limits\.effort\[0\]: -1.0 is below'),
    ('limits.effort', [float('inf')] * 7, r'limits\.effort\[0\]: inf is not a finite number'),
    ('limits.velocity', [1.0] * 6 + [0.0], r'limits\.velocity: 0.0 of wrist_roll is not above 0'),
    ('limits.braking_acceleration', [0.0] * 7, r'limits\.braking_acceleration: 0.0 of shoulder'),
    ('move.velocity', [0.0] * 7, r'move\.velocity: 0.0 of shoulder_pan is not above 0'),
    ('action_scale', [0.0] * 7, 'action_scale: 0.0 of shoulder_pan is not above 0'),
    ('limits.position_lower', [3.0] * 7, r'limits\.position_lower: 3.0 of shoulder_pan'),
    ('move.damping', [1.0], r'move\.damping: 1 numbers'),
    ('command_interface', 'torque', "command_interface: 'torque' is not one of"),
    ('kinematics.joint_axes', [0.0, 0.0, 1.0], r'kinematics\.joint_positions'),
])
def test_a_robot_that_contradicts_itself_is_refused(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f'^{says}'):
        load(RobotConfig, changed(ROBOT, key, value))


def test_a_table_of_another_robot_is_refused() -> None:
    mapping = to_mapping(ROBOT)
    mapping['kinematics'] = {'joint_positions': [0.0] * 3, 'tool_points': [0.1, 0.0, 0.0],
                             'joint_quaternions': [1.0, 0.0, 0.0, 0.0],
                             'joint_axes': [0.0, 0.0, 1.0]}
    with pytest.raises(ConfigError, match='kinematics: 1 joints, but joint_names has 7'):
        load(RobotConfig, mapping)


@pytest.mark.parametrize(('key', 'value', 'says'), [
    ('start_half_range', [0.1] * 6, 'start_half_range: 6 numbers, but goal_half_range has 7'),
    ('goal_half_range', [-0.1] * 7, r'goal_half_range\[0\]'),
    ('success_rate', 1.5, 'success_rate'),
    ('policy_rate_hz', 0.0, 'policy_rate_hz'),
])
def test_a_task_that_contradicts_itself_is_refused(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f'^{says}'):
        load(TaskConfig, changed(arm7.task(), key, value))


@pytest.mark.parametrize(('change', 'says'), [
    ({'name': 'juggle'}, 'task.name: no task .juggle.; there are: reach'),
    ({'start_half_range': (0.1,) * 6, 'goal_half_range': (0.1,) * 6},
     'task.start_half_range: 6 numbers, but robot arm7 has 7 joints'),
    ({'start_half_range': (3.0,) * 7}, r'task.start_half_range: home .* of shoulder_pan leaves'),
    ({'goal_half_range': (3.0,) * 7}, r'task.goal_half_range: center .* of shoulder_pan leaves'),
    ({'goal_center': (2.0,) * 7}, r'task.goal_half_range: center 2.0 .* of shoulder_pan leaves'),
    ({'goal_center': (0.1,) * 6}, 'task.goal_center: 6 numbers, but robot arm7 has 7 joints'),
])
def test_a_task_that_does_not_fit_the_robot_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f'^{says}'):
        make_task(dataclasses.replace(arm7.task(), **change), ROBOT)


def test_the_observation_holds_its_parts_where_the_task_says() -> None:
    rng = np.random.default_rng(0)
    position, velocity, action = rng.normal(size=(3, 7))
    goal = rng.normal(size=9)
    observation = TASK.observe(position, velocity, action, goal)
    assert observation.dtype == np.float32
    assert observation.shape == (TASK.observation_size,) == (7 + 7 + 9 + 7 + 9,)
    for part, expected in ((TASK.position, position), (TASK.velocity, velocity),
                           (TASK.tool, TASK.tool_points(position)),
                           (TASK.previous_action, action), (TASK.goal, goal)):
        np.testing.assert_allclose(observation[part], expected, rtol=1e-6)
    parts = [TASK.position, TASK.velocity, TASK.tool, TASK.previous_action, TASK.goal]
    assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]


def test_reward_is_that_of_the_paper() -> None:
    observation = np.zeros(TASK.observation_size)
    observation[TASK.velocity] = 0.5
    observation[TASK.tool] = 0.1
    action = np.full(7, 0.2)
    config, squared = TASK.config, 9 * 0.1**2
    expected = config.reward_scale * (
        -config.velocity_cost * 7 * 0.25 - config.effort_cost * 7 * 0.04
        - squared - np.log(squared + 1e-5))
    assert TASK.reward(np, observation, action) == pytest.approx(expected)


def test_reward_and_features_are_the_same_on_numpy_and_torch() -> None:
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(4, 3, TASK.observation_size))
    actions = rng.uniform(-1, 1, (4, 3, 7))
    mean, std = rng.normal(size=TASK.state_size), rng.uniform(0.5, 2.0, TASK.state_size)
    tensors = [torch.from_numpy(array) for array in (observations, actions, mean, std)]
    reward = TASK.reward(np, observations, actions)
    assert reward.shape == (4, 3)
    np.testing.assert_allclose(TASK.reward(torch, tensors[0], tensors[1]).numpy(), reward)
    features = TASK.features(np, observations, mean, std)
    assert features.shape == (4, 3, TASK.feature_size)
    np.testing.assert_allclose(
        TASK.features(torch, tensors[0], tensors[2], tensors[3]).numpy(), features)


def test_the_nearer_the_goal_the_better() -> None:
    observation = TASK.observe(np.zeros(7), np.zeros(7), np.zeros(7), TASK.tool_points(np.zeros(7)))
    rewards = []
    for error in (0.0, 0.001, 0.01, 0.1, 1.0):
        moved = observation.copy()
        moved[TASK.tool] += error
        rewards.append(TASK.reward(np, moved, np.zeros(7)))
    assert rewards == sorted(rewards, reverse=True)
    assert TASK.distance(observation[TASK.tool], observation[TASK.goal]) == 0.0


def test_goals_and_starts_lie_in_their_ranges_and_repeat_with_the_seed() -> None:
    goals = TASK.sample_goals(np.random.default_rng(3), 50)
    assert goals.shape == (50, 9)
    assert goals.dtype == np.float32
    np.testing.assert_array_equal(goals, TASK.sample_goals(np.random.default_rng(3), 50))
    sides = np.linalg.norm(goals.reshape(50, 3, 3)[:, [0, 1, 2]] - goals.reshape(50, 3, 3)[
        :, [1, 2, 0]], axis=-1)
    np.testing.assert_allclose(sides, np.broadcast_to(sides[0], sides.shape), atol=1e-6)
    starts = np.stack([TASK.sample_start(np.random.default_rng(seed)) for seed in range(50)])
    offset = np.abs(starts - np.array(ROBOT.home))
    assert np.all(offset <= np.array(TASK.config.start_half_range))
    assert np.all(offset.max(axis=0) > 0)


def test_goals_may_lie_elsewhere_than_around_home() -> None:
    center = np.array(ROBOT.home) + 0.3
    task = make_task(dataclasses.replace(arm7.task(), goal_center=tuple(center)), ROBOT)
    poses = task.sample_goal_poses(np.random.default_rng(3), 50)
    assert np.all(np.abs(poses - center) <= np.array(task.config.goal_half_range))
    np.testing.assert_allclose(
        poses - center, TASK.sample_goal_poses(np.random.default_rng(3), 50) - ROBOT.home)
    start = task.sample_start(np.random.default_rng(3))
    np.testing.assert_array_equal(start, TASK.sample_start(np.random.default_rng(3)))


def test_parameters_fit_only_the_same_network_on_the_same_observation() -> None:
    network = PolicyNetworkConfig(hidden=(64, 64), activation='tanh', squash='clip')
    architecture = policy_architecture(network, TASK)
    assert architecture['sizes'] == [TASK.feature_size, 64, 64, 7]
    others = [
        policy_architecture(dataclasses.replace(network, activation='relu'), TASK),
        policy_architecture(dataclasses.replace(network, hidden=(64,)), TASK),
        policy_architecture(network, ReachTask(arm7.task(fine_gain=31.0), ROBOT)),
    ]
    hashes = {architecture_hash(found) for found in (architecture, *others)}
    assert len(hashes) == 4
    with pytest.raises(ConfigError, match='hidden'):
        PolicyNetworkConfig(hidden=(), activation='tanh', squash='clip')
