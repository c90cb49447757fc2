"""Noise on the weights: the distance it makes, when it acts, and that it goes on with a policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.control.blend import BlendedPolicy
from async_mbrl.control.core import ControlCore
from async_mbrl.control.exploration import CorrelatedNoise
from async_mbrl.control.parameter_noise import ParameterNoise
from async_mbrl.control.policy import NumpyPolicy, PolicyParameters
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.config import ConfigError, load
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode, StepKind
from async_mbrl.learning import exploration
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.exploration import exploration_std, wanted_distance
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.settings import MePpoConfig, PetsConfig, PpoConfig, SacConfig

TASK = learning_rig.make_task()
NETWORKS = [pytest.param(PolicyNetworkConfig((24, 16), 'tanh', squash, distribution),
                         id=f'{distribution}-{squash}')
            for distribution, squash in (('given', 'clip'), ('given', 'tanh'),
                                         ('state_independent', 'clip'),
                                         ('state_dependent', 'tanh'))]
GIVEN = PolicyNetworkConfig((24, 16), 'tanh', 'clip')


def make(network: PolicyNetworkConfig, seed: int = 0) -> Policy:
    """Give a policy whose actions are well within [-1, 1]."""
    rng = np.random.default_rng(seed)
    policy = Policy(network, TASK, torch.Generator().manual_seed(seed), initial_log_std=-1.5)
    policy.load_tensors({name: value + 0.05 * rng.normal(size=value.shape).astype(np.float32)
                         for name, value in policy.tensors().items()})
    policy.normalise(policy.state_mean, policy.state_std.abs() + 0.5)
    return policy


def parameters_of(policy: Policy, scale: float, counter: int = 0, **fields: Any
                  ) -> PolicyParameters:
    return PolicyParameters.from_snapshot(Snapshot(
        'policy', Version(1, counter), policy.architecture, policy.tensors(),
        parameter_noise_std=scale, **fields))


def acting(network: PolicyNetworkConfig, parameters: PolicyParameters, seed: int | None = 5,
           blend_s: float = 0.0) -> BlendedPolicy:
    """Give a policy in the first step of an episode."""
    found = BlendedPolicy(TASK, network, blend_s)
    found.use(parameters, 0.0, at_once=True)
    found.begin(seed)
    found.settle()
    return found


def observations(count: int = 5) -> np.ndarray:
    return np.stack([t.observation for t in learning_rig.Plant(TASK).explore(3)][:count])


# ---- the numbers ----

@given(seed=st.integers(0, 2**64 - 1), at_once=st.integers(1, 200))
def test_the_numbers_are_the_same_however_few_are_drawn_at_once(seed: int, at_once: int) -> None:
    sizes = [9, 8, 6, 4]
    one, other = ParameterNoise(sizes, 2), ParameterNoise(sizes, 2)
    one.restart(seed)
    one.finish()
    other.restart(seed)
    while not other.complete:
        other.draw(at_once)
    for first, second in zip(one.weights + one.biases, other.weights + other.biases, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not one.weights[-1][2:].any(), 'what is no mean stays as it is'
    assert not one.biases[-1][2:].any()
    assert one.weights[-1][:2].all()


def test_the_numbers_are_standard_normal_and_go_with_the_seed() -> None:
    noise = ParameterNoise([50, 64, 64, 7], 7)
    drawn = []
    for seed in (1, 1, 2):
        noise.restart(seed)
        noise.finish()
        drawn.append(np.concatenate([each.ravel() for each in noise.weights + noise.biases]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert abs(np.corrcoef(drawn[0], drawn[2])[0, 1]) < 0.05
    assert drawn[0].mean() == pytest.approx(0.0, abs=0.05)
    assert drawn[0].std() == pytest.approx(1.0, abs=0.05)
    actions = np.random.default_rng(1).standard_normal(7)
    assert not np.isin(drawn[0][:7], actions.astype(np.float32)).any(), 'not those of the actions'
    noise.restart(None)
    noise.finish()
    assert not noise.complete


# ---- the policy that acts ----

@pytest.mark.parametrize('network', NETWORKS)
def test_the_mean_is_that_of_the_perturbed_weights(network: PolicyNetworkConfig) -> None:
    policy, scale, seen = make(network), 0.1, observations()
    found = acting(network, parameters_of(policy, scale))
    noise = ParameterNoise(policy.architecture['sizes'], TASK.action_size)
    noise.restart(5)
    noise.finish()
    by_parameter = [*noise.weights, *noise.biases]
    with torch.no_grad():
        features = policy.features(torch.from_numpy(seen))
        expected = policy.perturbed_means(
            features, [torch.from_numpy(each.copy())[None] for each in by_parameter], scale)[0]
        plain = policy.mean(features)
        for parameter, each in zip(policy.network.parameters(), by_parameter, strict=True):
            parameter.add_(torch.from_numpy(each), alpha=scale)
        np.testing.assert_allclose(policy.mean(features), expected, atol=1e-6)
    means = np.stack([found.mean(observation, 0.0) for observation in seen])
    np.testing.assert_allclose(means, expected, atol=3e-6)
    assert np.abs(means - plain.numpy()).max() > 0.05


@pytest.mark.parametrize('network', NETWORKS)
def test_the_density_is_that_of_the_action_around_the_perturbed_mean(
        network: PolicyNetworkConfig) -> None:
    policy, seen = make(network), observations(1)[0]
    found = acting(network, parameters_of(policy, 0.1, exploration_std=0.2))
    plain = acting(network, parameters_of(policy, 0.0, exploration_std=0.2))
    drawn = []
    for each in (found, plain):
        noise = CorrelatedNoise(TASK.action_size)
        noise.restart(5)
        drawn.append(each.explore(seen, 0.0, noise))
    (action, density, std), (other, other_density, other_std) = drawn
    assert not np.allclose(action, other)
    if network.distribution != 'state_dependent':
        # The same distance from the mean, by a standard deviation that does not depend on it.
        np.testing.assert_allclose(action - found.mean(seen, 0.0), other - plain.mean(seen, 0.0),
                                   atol=1e-5)
        assert (density, std) == (other_density, other_std)
    else:
        assert np.isfinite(density)


@pytest.mark.parametrize('network', NETWORKS)
def test_a_newer_policy_gets_the_same_noise_while_it_takes_over(network: PolicyNetworkConfig
                                                                ) -> None:
    old, new, seen = make(network, 0), make(network, 1), observations(1)[0]
    found = acting(network, parameters_of(old, 0.1), blend_s=0.4)
    found.use(parameters_of(new, 0.05, 1), 1.0, at_once=False)
    alone = [acting(network, parameters_of(policy, scale)).mean(seen, 0.0)
             for policy, scale in ((old, 0.1), (new, 0.05))]
    for time_s, share in ((1.0, 0.0), (1.1, 0.25), (1.3, 0.75), (1.4, 1.0)):
        np.testing.assert_allclose(found.mean(seen, time_s),
                                   (1.0 - share) * alone[0] + share * alone[1], atol=1e-6)
    found.use(parameters_of(old, 0.1, 2), 2.0, at_once=False)
    np.testing.assert_allclose(found.mean(seen, 2.2), 0.5 * (alone[0] + alone[1]), atol=1e-6)
    found.begin(None)
    found.settle()
    np.testing.assert_array_equal(
        found.mean(seen, 2.2), acting(network, parameters_of(old, 0.0)).mean(seen, 0.0))


def test_whether_there_is_noise_is_decided_when_the_steps_begin() -> None:
    policy, seen = make(GIVEN), observations(1)[0]
    plain = acting(GIVEN, parameters_of(policy, 0.0))
    unperturbed = plain.mean(seen, 0.0)
    plain.use(parameters_of(policy, 0.1, 1), 0.0, at_once=True)
    np.testing.assert_array_equal(plain.mean(seen, 0.0), unperturbed)
    noisy = acting(GIVEN, parameters_of(policy, 0.1))
    perturbed = noisy.mean(seen, 0.0)
    for counter, scale, expected in ((1, 0.0, unperturbed), (2, 0.1, perturbed)):
        noisy.use(parameters_of(policy, scale, counter), 0.0, at_once=True)
        np.testing.assert_array_equal(noisy.mean(seen, 0.0), expected)


# ---- episodes ----

def core_of(*policies: PolicyParameters) -> ControlCore:
    core = ControlCore(load(learning_rig.RobotConfig, learning_rig.ROBOT), TASK, GIVEN)
    for policy in policies:
        core.set_policy(policy)
    return core


def run(core: ControlCore, clock: FakeClock, number: int, mode: Mode, seed: int,
        newer: PolicyParameters | None = None) -> np.ndarray:
    """Give the actions (steps, n) of an episode of an arm that does not move."""
    rest, actions = np.array(learning_rig.ROBOT['home']), []
    core.command(EpisodeCommand(
        kind=CommandKind.RUN_EPISODE, number=number, episode=number, mode=mode, start_pose=rest,
        move_duration_s=0.2, goal=np.zeros(TASK.goal_size, np.float32), steps=6, seed=seed))
    for _ in range(500):
        core.tick(clock.now(), rest, np.zeros(2), clock.now())
        clock.sleep_until(clock.now() + 0.01)
        for event in core.drain():
            if event.kind == StepKind.STEP:
                actions.append(event.action_requested)
                if newer is not None and event.step == 2:
                    core.set_policy(newer)
            if event.kind == StepKind.END:
                return np.stack(actions)
            assert event.kind != StepKind.ABORTED, event.reason
    raise AssertionError('the episode did not end')


def test_episodes_of_learning_are_perturbed_each_by_its_seed_and_evaluations_are_not() -> None:
    policy = make(GIVEN)
    core, clock = core_of(parameters_of(policy, 0.1)), FakeClock()
    first = run(core, clock, 0, Mode.LEARNING, 1)
    judged = run(core, clock, 1, Mode.EVALUATION, 1)
    other = run(core, clock, 2, Mode.LEARNING, 2)
    again = run(core, clock, 3, Mode.LEARNING, 1)
    plain = run(core_of(parameters_of(policy, 0.0)), FakeClock(), 0, Mode.EVALUATION, 1)
    np.testing.assert_array_equal(judged, plain)
    np.testing.assert_array_equal(first, again)
    for one, two in ((first, plain), (other, plain), (first, other)):
        assert np.abs(one - two).max() > 0.02


def test_within_an_episode_the_noise_is_that_of_its_seed_whichever_policy_acts() -> None:
    old, new = make(GIVEN, 0), make(GIVEN, 1)
    core, clock = core_of(parameters_of(old, 0.1)), FakeClock()
    changed = run(core, clock, 0, Mode.LEARNING, 1, newer=parameters_of(new, 0.1, 1))
    whole = run(core_of(parameters_of(new, 0.1)), FakeClock(), 0, Mode.LEARNING, 1)
    before = run(core_of(parameters_of(old, 0.1)), FakeClock(), 0, Mode.LEARNING, 1)
    np.testing.assert_array_equal(changed[:3], before[:3])
    # The arm is at rest, so that only the action before tells the observations apart.
    np.testing.assert_allclose(changed[-1], whole[-1], atol=2e-3)
    other = run(core_of(parameters_of(new, 0.1)), FakeClock(), 0, Mode.LEARNING, 2)
    assert np.abs(changed[-1] - other[-1]).max() > 0.02


# ---- the learner ----

def learner(improvement: Any, network: PolicyNetworkConfig, **noise: Any) -> PolicyLearner:
    return PolicyLearner(improvement, ModelConfig(members=2, hidden=(8,)), network,
                         ExplorationConfig(**noise), TASK, seed=0)


def distance_of(network: PolicyNetworkConfig, snapshot: Snapshot, seen: np.ndarray,
                seeds: int = 200) -> float:
    """Root of the mean square of what the noise of many episodes changes of the actions."""
    parameters = PolicyParameters.from_snapshot(snapshot)
    plain = NumpyPolicy(TASK, network)
    plain.use(parameters)
    means = np.stack([plain.mean(each) for each in seen])
    changes = []
    for seed in range(seeds):
        perturbed = acting(network, parameters, seed)
        changes.append(np.stack([perturbed.mean(each, 0.0) for each in seen]) - means)
    return float(np.sqrt(np.mean(np.square(changes))))


@pytest.mark.parametrize(('improvement', 'network'), [
    pytest.param(MePpoConfig(value_hidden=(8,)), PolicyNetworkConfig((32, 32), 'tanh', 'clip'),
                 id='given'),
    pytest.param(MePpoConfig(value_hidden=(8,)),
                 PolicyNetworkConfig((32, 32), 'silu', 'clip', 'state_independent'),
                 id='state_independent'),
    pytest.param(SacConfig(critic_hidden=(8,)),
                 PolicyNetworkConfig((32, 32), 'relu', 'tanh', 'state_dependent'),
                 id='state_dependent')])
def test_the_noise_comes_to_the_distance_that_is_wanted(improvement: Any,
                                                        network: PolicyNetworkConfig) -> None:
    wanted = 0.2
    found = learner(improvement, network, parameter_noise=wanted, start_std=0.25, end_std=0.25)
    assert found.snapshot().parameter_noise_std == 0.0, 'no data, nothing to measure with'
    transitions = learning_rig.Plant(TASK).explore(20)
    found.take(transitions)
    first = found.snapshot()
    # Steps of all parts of the episodes, which have 15 each.
    seen = np.stack([transition.observation for transition in transitions[::7]])
    assert distance_of(network, first, seen) == pytest.approx(wanted, rel=0.4), 'at once'
    for _ in range(40):
        newest = found.snapshot()
    # The draws being few, their mean logarithm is some 7 % below that of all.
    assert distance_of(network, newest, seen) == pytest.approx(wanted, rel=0.2)
    metrics = found.metrics()
    assert metrics['parameter_noise_std'] == newest.parameter_noise_std
    assert metrics['parameter_noise_distance'] == pytest.approx(wanted, rel=0.4)


@pytest.mark.parametrize('wanted', [0.01, 0.6])
def test_small_and_large_distances_are_reached_from_anywhere(wanted: float) -> None:
    found = learner(MePpoConfig(value_hidden=(8,)), GIVEN, parameter_noise=wanted, start_std=0.0)
    found.take(learning_rig.Plant(TASK).explore(10))
    for start in (1e-6, 10.0):
        found._parameter_noise.std = start
        for _ in range(3):
            found.snapshot()
        assert found.metrics()['parameter_noise_distance'] == pytest.approx(wanted, rel=0.4)


def test_without_it_nothing_is_drawn_and_nothing_reported() -> None:
    found = learner(MePpoConfig(value_hidden=(8,)), GIVEN)
    found.take(learning_rig.Plant(TASK).explore(2))
    before = found._generators.rows.get_state()
    assert found.snapshot().parameter_noise_std == 0.0
    assert torch.equal(found._generators.rows.get_state(), before)
    assert not any(name.startswith('parameter_noise') for name in found.metrics())


def test_the_color_travels_with_the_policy() -> None:
    found = learner(MePpoConfig(value_hidden=(8,)), GIVEN, correlation=0.0, color=1.0).snapshot()
    assert (found.exploration_correlation, found.exploration_color) == (0.0, 1.0)


def test_the_scale_outlives_a_restart(tmp_path: Path) -> None:
    found = learner(MePpoConfig(value_hidden=(8,)), GIVEN, parameter_noise=0.2)
    found.take(learning_rig.Plant(TASK).explore(4))
    found.snapshot()
    found.save(tmp_path)
    again = learner(MePpoConfig(value_hidden=(8,)), GIVEN, parameter_noise=0.2)
    again.restore(tmp_path)
    assert again.metrics()['parameter_noise_std'] == found.metrics()['parameter_noise_std'] > 0.0
    assert again.snapshot().parameter_noise_std == found.snapshot().parameter_noise_std


@pytest.mark.parametrize(('noise', 'says'), [
    ({'color': 1.0}, 'color: 1.0'), ({'parameter_noise': 0.1}, 'parameter_noise: 0.1')])
def test_an_algorithm_that_needs_the_density_of_the_policy_refuses_it(noise: dict[str, float],
                                                                      says: str) -> None:
    network = PolicyNetworkConfig((8,), 'tanh', 'clip', 'state_independent')
    with pytest.raises(ConfigError, match=f'exploration.{says}, but ppo'):
        learner(PpoConfig(value_hidden=(8,)), network, **{'correlation': 0.0, **noise})


@pytest.mark.parametrize(('noise', 'says'), [
    ({'start_std': 0.0, 'end_std': 0.0}, 'start_std and end_std 0'),
    ({'initial_std': 0.0}, 'initial_std 0')])
def test_pets_refuses_what_it_would_take_for_planned(noise: dict[str, float], says: str) -> None:
    pets = PetsConfig()
    with pytest.raises(ConfigError, match=f'parameter_noise: 0.1, but exploration.{says}; pets'):
        pets.check_exploration(ExplorationConfig(parameter_noise=0.1, **noise))
    pets.check_exploration(ExplorationConfig(**noise))
    pets.check_exploration(ExplorationConfig(parameter_noise=0.1))
    pets.check_exploration(ExplorationConfig(parameter_noise=0.1, initial_std=0.0,
                                             initial_steps=0, end_std=0.0))


def test_noise_decays_with_motion_time() -> None:
    config = ExplorationConfig(initial_steps=30, parameter_noise=0.5)
    assert exploration_std(config, 29, 10.0) == 1.0
    assert exploration_std(config, 30, 10.0) == pytest.approx(0.08 + 0.17 * np.exp(-3 / 60))
    assert exploration_std(config, 100_000, 10.0) == pytest.approx(0.08)
    for transitions in (30, 500, 100_000):
        assert wanted_distance(config, transitions, 10.0) == pytest.approx(
            2.0 * exploration_std(config, transitions, 10.0)), '0.5 where that is 0.25'
    assert wanted_distance(config, 0, 10.0) == pytest.approx(0.5), 'not by the initial noise'
    alone = dataclasses.replace(config, initial_std=0.0, start_std=0.0, end_std=0.0)
    assert wanted_distance(alone, 100_000, 10.0) == 0.5


def test_a_scale_stays_within_what_a_snapshot_may_have() -> None:
    """A policy far beyond [-1, 1] everywhere is hardly moved by any noise."""
    found = learner(MePpoConfig(value_hidden=(8,)), GIVEN, parameter_noise=0.5)
    found.take(learning_rig.Plant(TASK).explore(4))
    with torch.no_grad():
        found.algorithm.acting_policy.network.biases[-1].fill_(1e6)
    for _ in range(3):
        assert 0.0 < found.snapshot().parameter_noise_std <= exploration.MOST_PARAMETER_NOISE_STD
