"""Benchmark bodies: their configuration, their plant, and episodes without ROS."""

from __future__ import annotations

import dataclasses

import arm7
import bodies
import numpy as np
import pytest

from async_mbrl.core.config import ConfigError, load, read_yaml
from async_mbrl.core.robot import ArmConfig, BenchmarkConfig, RobotConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode, StepKind
from async_mbrl.simulation.model import check_model, load_plant
from async_mbrl.simulation.offline import evaluate, make_offline_arm


def mapping(**changes):
    return {**read_yaml(arm7.CONFIG / 'robots/half_cheetah.yaml'), **changes}


def episode(task, number: int = 0, **changes) -> EpisodeCommand:
    return dataclasses.replace(EpisodeCommand(
        CommandKind.RUN_EPISODE, number=number, episode=number, mode=Mode.EVALUATION,
        start_pose=task.sample_start(np.random.default_rng(number)), move_duration_s=0.1,
        steps=task.config.episode_steps, policy_version=Version(1, 0)), **changes)


def make(name: str, action: float = 0.5, **changes):
    task = bodies.task(name, **changes)
    policy = arm7.constant_policy(task, np.full(task.action_size, action))
    return task, make_offline_arm(policy, bodies.robot(name), bodies.plant(name), task,
                                  arm7.NETWORK, np.random.default_rng(0))


@pytest.mark.parametrize('name', bodies.NAMES)
def test_files_describe_the_models(name):
    robot = bodies.robot(name)
    model = load_plant(robot)
    check_model(model, robot)
    assert robot.home == pytest.approx(model.qpos0)


def test_the_kind_chooses_the_class():
    assert isinstance(load(RobotConfig, mapping()), BenchmarkConfig)
    assert isinstance(arm7.robot(), ArmConfig)
    with pytest.raises(ConfigError, match="kind: 'plane' is not one of arm, benchmark"):
        load(RobotConfig, mapping(kind='plane'))
    with pytest.raises(ConfigError, match='a BenchmarkConfig, but a ArmConfig is wanted'):
        load(ArmConfig, mapping())


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('limits', {}, 'unknown key'),
    ('command_interface', 'velocity', 'takes effort'),
    ('state_joint_names', ['rootx'], 'of joint_names are missing'),
    ('home', [0.0], '1 numbers for 9 state joints'),
    ('action_scale', [120.0], '1 numbers for 6 joints'),
])
def test_files_that_do_not_fit_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load(RobotConfig, mapping(**{key: value}))


@pytest.mark.parametrize(('changes', 'message'), [
    ({'action_scale': [120.0, 90.0, 60.0, 120.0, 60.0, 31.0]}, 'action_scale: 31.0 of ffoot'),
    ({'state_joint_names': ['rootz', 'rootx', 'rooty', 'bthigh', 'bshin', 'bfoot', 'fthigh',
                            'fshin', 'ffoot']}, 'not those of the model in their order'),
    ({'model': 'gymnasium:none.xml'}, 'not one of the models of gymnasium: .*half_cheetah.xml'),
])
def test_files_that_do_not_fit_the_model_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_plant(load(RobotConfig, mapping(**changes)))


def test_friction_is_that_of_the_model():
    plant = dataclasses.replace(bodies.plant('hopper'), friction_ratio=0.1)
    with pytest.raises(ConfigError, match='friction_ratio'):
        bodies.make_physics(plant, bodies.robot('hopper'), np.random.default_rng(0))


def test_a_body_stays_where_it_was_put_until_the_first_command():
    physics = bodies.physics('ant')
    start = bodies.task('ant').sample_start(np.random.default_rng(2))
    physics.reset(start)
    for _ in range(50):
        physics.step(None)
    assert np.concatenate([physics.position, physics.velocity]) == pytest.approx(start)
    assert physics.ticks == 50 and physics.holding
    physics.step(np.zeros(8))
    assert not physics.holding
    before = physics.position
    physics.step(None)      # without commands it goes on, and falls
    assert np.abs(physics.position - before).max() > 1e-5


def test_a_quaternion_has_one_velocity_less_than_numbers():
    physics = bodies.physics('ant')
    velocity = np.arange(1.0, 16.0)
    velocity[3] = 0.0
    physics.reset(np.concatenate([bodies.robot('ant').home, velocity]))
    assert physics.velocity == pytest.approx(velocity)
    assert physics.data.qvel == pytest.approx(np.delete(velocity, 3))
    physics.step(np.full(8, 150.0))
    assert physics.effort == pytest.approx([0.0] * 7 + [150.0] * 8)


@pytest.mark.parametrize('name', ['half_cheetah', 'ant', 'hopper'])
def test_episodes_begin_exactly_where_they_shall(name):
    task, arm = make(name)
    for number in range(2):
        command = episode(task, number, steps=20)
        events = arm.run(command)
        assert [event.kind for event in events] == (
            [StepKind.MOVE_DONE] + [StepKind.STEP] * 20 + [StepKind.END])
        states = arm.physics.robot.states
        begin = task.observe(command.start_pose[:states], command.start_pose[states:],
                             np.zeros(0), np.zeros(0))
        assert events[1].observation == pytest.approx(begin)
        assert all(event.previous_action_applied == pytest.approx(0.5) for event in events[2:])


@pytest.mark.parametrize('name', bodies.NAMES)
def test_offline_episodes_are_those_of_the_plant(name):
    task, arm = make(name, 0.3)
    command = episode(task, steps=10)
    events = arm.run(command)
    physics, robot = bodies.physics(name), bodies.robot(name)
    physics.reset(command.start_pose)
    skip = round(robot.control_rate_hz / task.config.policy_rate_hz)
    action = np.float32(0.3) * np.array(robot.action_scale)
    for event in events[2:]:
        for _ in range(skip):
            physics.step(action)
        expected = task.observe(physics.position, physics.velocity, np.zeros(0), np.zeros(0))
        assert event.observation == pytest.approx(expected, abs=1e-5)


def test_a_task_that_may_end_early_does():
    task, arm = make('inverted_pendulum', 1.0, terminate=True)
    events = arm.run(episode(task))
    assert events[-1].kind == StepKind.END
    assert events[-1].step < 100 and task.terminated(events[-1].observation)


def test_start_states_of_a_wrong_size_are_refused():
    task, arm = make('hopper')
    events = arm.run(episode(task, start_pose=np.zeros(3)))
    assert events[-1].kind == StepKind.ABORTED
    assert events[-1].reason == 'start_pose is not 12 finite numbers'


def test_evaluation_without_a_criterion_gives_returns_alone():
    task = bodies.task('half_cheetah', episode_steps=20)
    policy = arm7.constant_policy(task, np.zeros(6))
    result = evaluate(policy, bodies.robot('half_cheetah'), bodies.plant('half_cheetah'),
                      task.config, arm7.NETWORK, episodes=3, seed=0)
    assert result.episodes == 3 and result.aborts == ()
    assert result.distances is None and result.success_rate is None
    assert np.isfinite(result.returns).all() and result.returns.std() > 0.0
    judged = dataclasses.replace(task.config, criterion='return',
                                 success_return=float(np.median(result.returns)))
    again = evaluate(policy, bodies.robot('half_cheetah'), bodies.plant('half_cheetah'), judged,
                     arm7.NETWORK, episodes=3, seed=0)
    assert again.success_rate == pytest.approx(2.0 / 3.0)
    assert again.returns == pytest.approx(result.returns)
