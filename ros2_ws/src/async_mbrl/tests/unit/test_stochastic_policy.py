"""Policies with a standard deviation of their own: the controller draws what torch describes."""

from __future__ import annotations

import dataclasses
from typing import Any

import learning_rig
import numpy as np
import pytest
import torch
from torch import distributions

from async_mbrl.control.blend import BlendedPolicy
from async_mbrl.control.exploration import CorrelatedNoise
from async_mbrl.control.policy import NumpyPolicy, PolicyLayout, PolicyParameters
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.network import LOG_STD_RANGE, PolicyNetworkConfig, policy_architecture
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.learning.policy import Policy, log_slope_of_tanh, output_of_log_std

TASK = learning_rig.make_task()
KINDS = [pytest.param(distribution, squash, id=f'{distribution}-{squash}')
         for distribution in ('state_independent', 'state_dependent')
         for squash in ('clip', 'tanh', 'tanh_mean')]


def network_of(distribution: str, squash: str) -> PolicyNetworkConfig:
    return PolicyNetworkConfig((16, 12), 'silu', squash, distribution)


def make(network: PolicyNetworkConfig, seed: int = 0) -> Policy:
    """Give a policy with numbers of its own everywhere."""
    rng = np.random.default_rng(seed)
    policy = Policy(network, TASK, torch.Generator().manual_seed(seed), initial_log_std=-1.0)
    policy.load_tensors({name: value + 0.3 * rng.normal(size=value.shape).astype(np.float32)
                         for name, value in policy.tensors().items()})
    policy.normalise(policy.state_mean, policy.state_std.abs() + 0.1)
    return policy


def snapshot_of(policy: Policy, **fields: Any) -> Snapshot:
    return Snapshot('policy', fields.pop('version', Version(1, 0)), policy.architecture,
                    policy.tensors(), **fields)


def observations(count: int = 3) -> np.ndarray:
    return np.stack([t.observation for t in learning_rig.Plant(TASK).explore(count)])


@pytest.mark.parametrize(('distribution', 'squash'), KINDS)
def test_numpy_and_torch_give_the_same_distribution(distribution: str, squash: str) -> None:
    network = network_of(distribution, squash)
    policy, seen = make(network), observations()
    acting = NumpyPolicy(TASK, network)
    acting.use(PolicyParameters.from_snapshot(snapshot_of(policy)))
    with torch.inference_mode():
        features = policy.features(torch.from_numpy(seen))
        mean, log_std = policy.distribution(features)
        squashed = policy.mean(features)
    found = [acting.distribution(observation) for observation in seen]
    np.testing.assert_allclose(np.stack([each for each, _ in found]), mean, atol=3e-6)
    np.testing.assert_allclose(np.stack([std for _, std in found]),
                               log_std.exp().expand_as(mean), rtol=1e-5)
    np.testing.assert_allclose(np.stack([acting.mean(observation) for observation in seen]),
                               squashed, atol=3e-6)


@pytest.mark.parametrize(('distribution', 'squash'), KINDS)
def test_what_the_controller_draws_has_the_log_density_it_reports(distribution: str,
                                                                  squash: str) -> None:
    network = network_of(distribution, squash)
    policy, seen = make(network), observations()
    acting, noise = BlendedPolicy(TASK, network, 0.0), CorrelatedNoise(TASK.action_size)
    acting.use(PolicyParameters.from_snapshot(snapshot_of(policy)), 0.0, at_once=True)
    noise.restart(3)
    drawn = [acting.explore(observation, 0.0, noise) for observation in seen]
    units = np.random.default_rng(3).standard_normal((len(seen), TASK.action_size))
    with torch.inference_mode():
        features = policy.features(torch.from_numpy(seen)).double()
        policy = policy.double()
        mean, log_std = policy.distribution(features)
        before = mean + log_std.exp() * torch.from_numpy(units)
        gaussian: Any = distributions.Normal(mean, log_std.exp().expand_as(mean))
        actions = before.clamp(-1.0, 1.0)
        if squash == 'tanh':
            # atanh of a float loses much near 1: the cache of the transform keeps what was there.
            transform = distributions.TanhTransform(cache_size=1)
            gaussian = distributions.TransformedDistribution(gaussian, transform)
            before = actions = transform(before)
        expected = gaussian.log_prob(before).sum(-1)
        again, log_density = policy.sample(features, torch.from_numpy(units))
    np.testing.assert_allclose(again, actions, atol=1e-12)
    np.testing.assert_allclose(log_density, expected, atol=1e-6)
    np.testing.assert_allclose(np.stack([action for action, _, _ in drawn]), actions, atol=1e-5)
    np.testing.assert_allclose([density for _, density, _ in drawn], expected, atol=2e-4)
    np.testing.assert_allclose([std for _, _, std in drawn],
                               log_std.exp().expand_as(mean).mean(-1), rtol=1e-5)
    if squash == 'clip':
        assert float(before.abs().max()) > 1.0, 'something is clipped'


def test_the_density_of_a_squashed_action_integrates_to_one() -> None:
    mean, log_std = 0.4, -0.3
    action = torch.linspace(-1.0, 1.0, 200_001, dtype=torch.float64)[1:-1]
    drawn = torch.atanh(action)
    gaussian = distributions.Normal(mean, float(np.exp(log_std)))
    density = (gaussian.log_prob(drawn) - log_slope_of_tanh(drawn)).exp()
    assert float(torch.trapezoid(density, action)) == pytest.approx(1.0, abs=1e-5)


def test_log_slope_of_tanh_far_out_is_not_lost() -> None:
    x = torch.tensor([-40.0, 0.0, 40.0])
    expected = [2.0 * np.log(2.0) - 80.0, 0.0, 2.0 * np.log(2.0) - 80.0]
    assert log_slope_of_tanh(x).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(('distribution', 'squash'), KINDS)
def test_a_new_policy_begins_with_the_standard_deviation_asked_for(distribution: str,
                                                                   squash: str) -> None:
    policy = Policy(network_of(distribution, squash), TASK, torch.Generator().manual_seed(0),
                    initial_log_std=-0.7)
    mean, log_std = policy.distribution(policy.features(torch.from_numpy(observations(1))))
    assert not mean.any()
    np.testing.assert_allclose(log_std.detach(), -0.7, atol=1e-6)


def test_the_logarithm_stays_within_its_range() -> None:
    low, high = LOG_STD_RANGE
    policy = Policy(network_of('state_independent', 'clip'), TASK, torch.Generator())
    acting = NumpyPolicy(TASK, network_of('state_independent', 'clip'))
    observation = observations(1)[0]
    for asked, kept in ((9.0, high), (-90.0, low), (0.3, 0.3)):
        with torch.no_grad():
            policy.log_std.fill_(asked)
        acting.use(PolicyParameters.from_snapshot(snapshot_of(policy)))
        _, log_std = policy.distribution(policy.features(torch.from_numpy(observation)))
        np.testing.assert_allclose(log_std.detach(), kept, atol=1e-6)
        np.testing.assert_allclose(acting.distribution(observation)[1], np.exp(kept), rtol=1e-6)
    assert output_of_log_std(0.5 * (low + high)) == pytest.approx(0.0)


@pytest.mark.parametrize(('distribution', 'squash'), KINDS)
def test_it_survives_snapshot_and_layout(distribution: str, squash: str) -> None:
    network = network_of(distribution, squash)
    policy = make(network)
    data = snapshots.encode(snapshot_of(policy))
    parameters = PolicyParameters.from_snapshot(snapshots.decode(
        data, expected_architecture=policy_architecture(network, TASK)))
    layout = PolicyLayout(TASK, network)
    block = layout.pack(parameters)
    assert len(block) == layout.size
    again, observation = layout.unpack(block), observations(1)[0]
    first, second = NumpyPolicy(TASK, network), NumpyPolicy(TASK, network)
    first.use(parameters)
    second.use(again)
    for one, other in zip(first.distribution(observation), second.distribution(observation),
                          strict=True):
        np.testing.assert_array_equal(one, other)
    for kind in ('given', 'state_independent', 'state_dependent'):
        other = policy_architecture(dataclasses.replace(network, distribution=kind), TASK)
        if kind != distribution:
            with pytest.raises(SnapshotError, match='architecture'):
                snapshots.decode(data, expected_architecture=other)


@pytest.mark.parametrize('change', [
    pytest.param({'log_std': None}, id='missing'),
    pytest.param({'log_std': np.zeros(3, np.float32)}, id='of another size'),
    pytest.param({'log_std': np.zeros(2)}, id='of another type'),
    pytest.param({'more': np.zeros(2, np.float32)}, id='one more')])
def test_a_standard_deviation_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    policy = make(network_of('state_independent', 'clip'))
    tensors = {**policy.tensors(), **change}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(SnapshotError):
        PolicyParameters.from_snapshot(dataclasses.replace(snapshot_of(policy), tensors=tensors))


def test_a_standard_deviation_that_is_not_finite_is_refused() -> None:
    policy = make(network_of('state_independent', 'clip'))
    with torch.no_grad():
        policy.log_std[1] = float('nan')
    with pytest.raises(SnapshotError, match='log_std is not finite'):
        snapshots.decode(snapshots.encode(snapshot_of(policy)))


@pytest.mark.parametrize(('distribution', 'squash'), KINDS)
def test_a_new_policy_takes_over_little_by_little(distribution: str, squash: str) -> None:
    network = network_of(distribution, squash)
    old, new = (PolicyParameters.from_snapshot(snapshot_of(make(network, seed),
                                                           version=Version(1, seed)))
                for seed in (0, 1))
    blended, observation = BlendedPolicy(TASK, network, 0.4), observations(1)[0]
    blended.use(old, 0.0, at_once=True)
    blended.use(new, 1.0, at_once=False)
    stds = []
    for parameters in (old, new):
        alone = NumpyPolicy(TASK, network)
        alone.use(parameters)
        stds.append(float(alone.distribution(observation)[1].mean()))
    noise = CorrelatedNoise(TASK.action_size)
    found = [blended.explore(observation, time_s, noise)[2] for time_s in (1.0, 1.1, 1.5)]
    assert found == pytest.approx([stds[0], 0.75 * stds[0] + 0.25 * stds[1], stds[1]], rel=1e-5)


def test_a_policy_without_one_says_so() -> None:
    policy = make(network_of('given', 'clip'))
    with pytest.raises(ValueError, match='no standard deviation of its own'):
        policy.distribution(policy.features(torch.from_numpy(observations(1))))
