"""Tasks of benchmark bodies against Gymnasium's environments, and against formulas of their own."""

from __future__ import annotations

from pathlib import Path

import arm7
import bodies
import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.tasks import make_task


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo warns of Gymnasium's models in a file, which it writes where it is run."""
    monkeypatch.chdir(tmp_path)


def environment(name: str) -> gymnasium.Env:
    return gymnasium.make(bodies.ENVIRONMENTS[name]).unwrapped


def put(env: gymnasium.Env, name: str, start: np.ndarray) -> None:
    """Put an environment of Gymnasium into a start state of ours."""
    states = bodies.robot(name).states
    velocity = start[states:]
    if name == 'ant':
        velocity = np.delete(velocity, 3)
    env.reset(seed=0)
    env.set_state(start[:states], velocity)


def drive(name: str, steps: int, seed: int = 1):
    """Step both with the same actions; give ours, theirs and rewards of both, step by step."""
    rng = np.random.default_rng(seed)
    task, physics, env = bodies.task(name), bodies.physics(name), environment(name)
    robot = physics.robot
    skip = round(physics.plant.physics_rate_hz / task.config.policy_rate_hz)
    start = task.sample_start(rng)
    physics.reset(start)
    put(env, name, start)
    for _ in range(steps):
        action = rng.uniform(-1.0, 1.0, robot.joints)
        for _ in range(skip):
            physics.step(np.asarray(robot.action_scale) * action)
        _, reward, _, _, _ = env.step(action * env.action_space.high)
        observation = task.observe(*physics.measured(), action, np.zeros(0))
        yield task, physics, env, observation, action, reward


@pytest.mark.parametrize('name', bodies.NAMES)
def test_steps_are_those_of_gymnasium(name):
    assert environment(name).dt == pytest.approx(1.0 / bodies.task(name).config.policy_rate_hz)
    for _, physics, env, *_ in drive(name, 40):
        assert physics.position == pytest.approx(env.data.qpos, abs=1e-7)
        assert physics.velocity[physics._moving] == pytest.approx(env.data.qvel, abs=1e-6)


@pytest.mark.parametrize('name', ['half_cheetah', 'walker2d', 'ant', 'swimmer', 'reacher',
                                  'pusher', 'inverted_pendulum', 'hopper'])
def test_observations_are_those_of_gymnasium(name):
    for task, _, env, observation, *_ in drive(name, 20):
        # Gymnasium takes places of bodies from before the last step of the simulator.
        mujoco.mj_kinematics(env.model, env.data)
        theirs = env._get_obs()[:task.observation_size]    # contact forces of the ant come behind
        if name in ('hopper', 'walker2d'):  # Gymnasium cuts velocities at 10, the paper does not
            speeds = slice(task.forward, None)
            observation[speeds] = observation[speeds].clip(-10.0, 10.0)
        assert observation == pytest.approx(theirs, abs=1e-5)
        assert observation.dtype == np.float32


@pytest.mark.parametrize('name', ['reacher', 'pusher', 'inverted_pendulum'])
def test_rewards_are_those_of_gymnasium(name):
    seen = set()
    for task, _, env, observation, action, reward in drive(name, 60):
        if name != 'inverted_pendulum':     # places of bodies as of after the last step
            mujoco.mj_kinematics(env.model, env.data)
            reward, _ = env._get_rew(action * env.action_space.high)
        ours = task.reward(np, observation.astype(np.float64), action)
        assert ours == pytest.approx(reward, abs=1e-5)
        seen.add(round(float(ours), 6))
    assert len(seen) > 1


@pytest.mark.parametrize(('name', 'cost', 'height_cost', 'height_m', 'alive'), [
    ('half_cheetah', 0.1, 0.0, 0.0, 0.0), ('hopper', 0.1, 3.0, 1.3, 1.0),
    ('walker2d', 0.1, 3.0, 1.3, 1.0), ('ant', 0.1, 3.0, 0.57, 1.0),
    ('swimmer', 1e-4, 0.0, 0.0, 0.0)])
def test_running_is_rewarded_as_in_the_paper(name, cost, height_cost, height_m, alive):
    for task, _, env, observation, action, _ in drive(name, 30):
        height = env.data.qpos[2 if name == 'ant' else 1]
        expected = (env.data.qvel[0] - cost * (action ** 2).sum()
                    - height_cost * (height - height_m) ** 2 + alive)
        ours = task.reward(np, observation.astype(np.float64), action)
        assert ours == pytest.approx(expected, abs=1e-4)


def test_swimming_is_nearly_rewarded_as_in_gymnasium():
    # What differs is where in the step the velocity is taken.
    differences = [abs(task.reward(np, observation.astype(np.float64), action) - reward)
                   for task, _, _, observation, action, reward in drive('swimmer', 50)]
    assert 0.0 < np.mean(differences) < 0.1


@pytest.mark.parametrize('name', bodies.NAMES)
def test_numpy_and_torch_agree(name):
    task = bodies.task(name)
    rng = np.random.default_rng(3)
    observations = rng.normal(size=(4, 7, task.observation_size))
    actions = rng.uniform(-1.0, 1.0, (4, 7, task.action_size))
    mean, std = rng.normal(size=task.state_size), rng.uniform(0.5, 2.0, task.state_size)
    rewards = task.reward(torch, torch.from_numpy(observations), torch.from_numpy(actions))
    assert rewards.shape == (4, 7)
    assert rewards.numpy() == pytest.approx(task.reward(np, observations, actions), abs=1e-12)
    features = task.features(torch, torch.from_numpy(observations), torch.from_numpy(mean),
                             torch.from_numpy(std))
    assert features.shape == (4, 7, task.feature_size)
    assert features.numpy() == pytest.approx(task.features(np, observations, mean, std))


@pytest.mark.parametrize(('name', 'position', 'velocity', 'normal'), [
    ('half_cheetah', 0.1, 0.1, True), ('ant', 0.1, 0.1, True), ('hopper', 0.005, 0.005, False),
    ('walker2d', 0.005, 0.005, False)])
def test_starts_are_as_noisy_as_in_the_paper(name, position, velocity, normal):
    task, robot = bodies.task(name), bodies.robot(name)
    rng = np.random.default_rng(4)
    starts = np.stack([task.sample_start(rng) for _ in range(3000)])
    offset = starts[:, :robot.states] - robot.home
    speeds = starts[:, robot.states:]
    if name == 'ant':
        orientation = starts[:, 3:7]
        assert np.linalg.norm(orientation, axis=1) == pytest.approx(1.0)
        assert not speeds[:, 3].any()
        offset, speeds = np.delete(offset, np.s_[3:7], 1), np.delete(speeds, 3, 1)
    assert np.abs(offset).max() <= position
    assert offset.std(0) == pytest.approx(position / np.sqrt(3.0), rel=0.1)
    spread = velocity if normal else velocity / np.sqrt(3.0)
    assert speeds.std(0) == pytest.approx(spread, rel=0.1)
    assert (np.abs(speeds).max() > 2.0 * velocity) == normal


@pytest.mark.parametrize('name', ['hopper', 'walker2d', 'ant', 'inverted_pendulum'])
def test_episodes_end_where_gymnasium_ends_them(name):
    ending, going_on = bodies.task(name, terminate=True), bodies.task(name)
    ends = 0
    seen, alive = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        env = environment(name)
        put(env, name, ending.sample_start(rng))
        for _ in range(150):
            push = rng.uniform(-1.0, 1.0, env.action_space.shape) * env.action_space.high
            observation, _, terminated, _, _ = env.step(push)
            ours = observation[:ending.observation_size]
            assert ending.terminated(ours) == terminated
            assert not going_on.terminated(ours)
            seen.append(ours)
            alive.append(not terminated)
            if terminated:
                ends += 1
                break
    assert ends
    assert ending.healthy(np.stack(seen)).tolist() == alive     # many at once


def test_reachers_and_pushers_start_where_gymnasium_lets_them():
    rng = np.random.default_rng(5)
    for _ in range(50):
        target = bodies.task('reacher').sample_start(rng)
        assert np.hypot(*target[2:4]) < 0.2 and not target[6:].any()
        thing = bodies.task('pusher').sample_start(rng)
        assert np.hypot(*thing[7:9]) > 0.17 and -0.3 <= thing[7] <= 0.0 and abs(thing[8]) <= 0.2
        assert not thing[9:11].any() and not thing[18:].any()


def test_no_criterion_means_no_success():
    task = bodies.task('hopper')
    verdict = task.judge(np.zeros(11), np.zeros(0), 100.0, None)
    assert verdict.success is None and verdict.distance_m is None
    judging = bodies.task('hopper', criterion='return', success_return=50.0)
    assert judging.judge(np.zeros(11), np.zeros(0), 50.0, None).success
    assert not judging.judge(np.zeros(11), np.zeros(0), 49.0, None).success
    assert task.config.wanted_success_rate is None
    assert judging.config.wanted_success_rate == 0.9


def test_task_and_robot_must_fit():
    with pytest.raises(ConfigError, match='hopper is not for robot half_cheetah'):
        make_task(bodies.task('hopper').config, bodies.robot('half_cheetah'))
    with pytest.raises(ConfigError, match=r'hopper is not for robot arm7 \(an arm\)'):
        make_task(bodies.task('hopper').config, arm7.robot())
    with pytest.raises(ConfigError, match='reach is for arms'):
        make_task(arm7.task(), bodies.robot('hopper'))
    with pytest.raises(ConfigError, match='never ends by itself'):
        bodies.task('half_cheetah', terminate=True)
