"""ME-PPO, ME-TRPO and MB-MPO: their gradients, and that they improve where the model is perfect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.transition import Transition
from async_mbrl.learning.algorithms import make_algorithm
from async_mbrl.learning.algorithms.mb_mpo import MbMpo, TaskSteps
from async_mbrl.learning.algorithms.me_ppo import clipped_loss
from async_mbrl.learning.baseline import linear_baseline
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.rollouts import imagine
from async_mbrl.learning.settings import MbMpoConfig, MePpoConfig, MeTrpoConfig
from async_mbrl.learning.settings.trust_region import TrustRegionConfig
from async_mbrl.learning.trust_region import flat
from async_mbrl.learning.value import lambda_returns
from async_mbrl.learning.workload import STAGE, Workload

NETWORK = PolicyNetworkConfig((16,), 'tanh', 'clip')
OWN_STD = PolicyNetworkConfig((16,), 'tanh', 'clip', 'state_independent')


class PointMass:
    """Bring a mass in one dimension to rest at 0: state (x, v), action a force, no goal."""

    name = 'point_mass'
    state_size = observation_size = feature_size = 2
    action_size = 1
    feature_description = 'state'

    def features(self, xp: Any, observation: Any, state_mean: Any, state_std: Any) -> Any:
        return observation

    def reward(self, xp: Any, observation: Any, action: Any) -> Any:
        return -xp.square(observation).sum(-1) - 0.01 * xp.square(action).sum(-1)

    def sample_goals(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return np.zeros((count, 0), np.float32)


class PerfectModel(torch.nn.Module):
    """x' = x + 0.2 v, v' = v + 0.2 gain a; each member has a gain of its own."""

    def __init__(self, gains: tuple[float, ...]) -> None:
        super().__init__()
        self.members = len(gains)
        self.gains = torch.tensor(gains)[:, None]

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        position, velocity = state.unbind(-1)
        return torch.stack([position + 0.2 * velocity,
                            velocity + 0.2 * self.gains * action[..., 0]], -1)


TASK = PointMass()


def make_imagination(gains: tuple[float, ...] = (1.0, 1.0), seed: int = 0) -> Imagination:
    """Imagination from states drawn around 0; every tenth begins an episode, at x = 1."""
    rng = np.random.default_rng(seed)
    buffer = TransitionBuffer(1000, 2, 1, 0)
    none = np.zeros(1, np.float32)
    buffer.append([Transition(
        number, number // 10, number % 10, observation, none, none, observation, 0.0, False, False)
        for number in range(200) for observation in [
            np.array([1.0, 0.0], np.float32) if number % 10 == 0
            else rng.normal(0.0, 0.5, 2).astype(np.float32)]])
    dynamics: Any = PerfectModel(gains)
    return Imagination(dynamics, TASK, Pool(buffer), Generators.on(CPU, seed), rng)


def make(config: Any, network: PolicyNetworkConfig = NETWORK) -> Any:
    return make_algorithm(config, network, TASK, torch.Generator().manual_seed(0))


def finish(stages: Iterator[None] | None) -> int:
    """Exhaust an update; give how often it yielded."""
    return sum(1 for _ in stages or ())


TRUST = TrustRegionConfig(divergence=0.05)
ROUGH = TrustRegionConfig(divergence=0.05, curvature_stride=5)
LEARNERS = [
    pytest.param(MePpoConfig(rollouts=40, horizon=20, value_hidden=(16,),
                             policy_learning_rate=1e-2, value_learning_rate=5e-3), NETWORK,
                 id='me_ppo'),
    pytest.param(MePpoConfig(rollouts=40, horizon=20, baseline='linear', mix_members=True,
                             minibatches=1, epochs=5, policy_learning_rate=1e-2, trace=1.0,
                             initial_share=1.0), OWN_STD, id='me_ppo as in the paper'),
    pytest.param(MeTrpoConfig(rollouts=40, horizon=20, value_hidden=(16,), trust_region=TRUST,
                              initial_share=1.0, value_learning_rate=1e-2), NETWORK, id='me_trpo'),
    pytest.param(MeTrpoConfig(rollouts=40, horizon=20, baseline='linear', mix_members=True,
                              trace=1.0, initial_share=1.0, trust_region=TRUST), OWN_STD,
                 id='me_trpo as in the paper'),
    pytest.param(MeTrpoConfig(rollouts=40, horizon=20, baseline='linear', trust_region=ROUGH,
                              initial_share=1.0), OWN_STD, id='me_trpo, curvature of a fifth'),
    pytest.param(MbMpoConfig(rollouts=20, horizon=20, tasks=2, trust_region=ROUGH,
                             initial_share=1.0, inner_learning_rate=0.05), OWN_STD,
                 id='mb_mpo, curvature of a fifth'),
    pytest.param(MbMpoConfig(rollouts=20, horizon=20, tasks=2, trust_region=TRUST,
                             initial_share=1.0, inner_learning_rate=0.05), OWN_STD, id='mb_mpo'),
]


def cost(policy: Any, gains: tuple[float, ...]) -> float:
    """Cost of 20 steps from x = 1, at the mean of the policy, on average over gains."""
    with torch.no_grad():
        state, total = torch.tensor([[[1.0, 0.0]]] * len(gains)), 0.0
        model = PerfectModel(gains)
        for _ in range(20):
            action = policy.mean(policy.features(state))
            state = model.predict(state, action)
            total -= float(TASK.reward(torch, state, action).mean())
    return total


@pytest.mark.parametrize(('config', 'network'), LEARNERS)
def test_a_point_mass_is_brought_to_rest(config: Any, network: PolicyNetworkConfig) -> None:
    gains = (0.8, 1.2)
    imagination, algorithm = make_imagination(gains), make(config, network)
    policy = algorithm.policy
    assert cost(policy, gains) == 20.0       # nothing learned: it stays at x = 1
    for _ in range(20):
        finish(algorithm.update(imagination))
    # The best linear feedback, saturated as it is, costs 6.5.
    assert cost(algorithm.acting_policy, gains) < 10.0
    assert ('log_std' in algorithm.acting_policy.tensors()) == (network is OWN_STD)


# ---- what they share ----

def test_generalised_advantage_is_the_sum_of_discounted_residuals() -> None:
    generator = torch.Generator().manual_seed(0)
    horizon, discount, trace = 12, 0.9, 0.7
    rewards = torch.randn(horizon, 3, generator=generator)
    values = torch.randn(horizon + 1, 3, generator=generator)
    residuals = rewards + discount * values[1:] - values[:-1]
    expected = torch.stack([
        torch.stack([(discount * trace) ** (later - step) * residuals[later]
                     for later in range(step, horizon)]).sum(0) for step in range(horizon)])
    found = lambda_returns(rewards, values, discount, trace) - values[:-1]
    torch.testing.assert_close(found, expected)


def test_linear_baseline_is_the_ridge_regression_of_numpy() -> None:
    rng = np.random.default_rng(0)
    horizon, groups, rollouts, size = 7, 2, 5, 3
    features = rng.normal(0.0, 6.0, (horizon + 1, groups, rollouts, size)).astype(np.float32)
    rewards = rng.normal(size=(horizon, groups, rollouts)).astype(np.float32)
    found = linear_baseline(torch.from_numpy(features), torch.from_numpy(rewards), 0.9).numpy()
    for group in range(groups):
        rows, returns = [], []
        for rollout in range(rollouts):
            for step in range(horizon):
                bounded = np.clip(features[step, group, rollout].astype(float), -10.0, 10.0)
                time = step / 100.0
                rows.append([*bounded, *bounded ** 2, time, time ** 2, time ** 3, 1.0])
                returns.append(sum(0.9 ** (later - step) * float(rewards[later, group, rollout])
                                   for later in range(step, horizon)))
        # Ridge regression as least squares: one more row for each weight.
        design = np.concatenate([np.array(rows), np.sqrt(1e-5) * np.eye(2 * size + 4)])
        wanted = np.concatenate([returns, np.zeros(2 * size + 4)])
        weights = np.linalg.lstsq(design, wanted, rcond=None)[0]
        expected = (np.array(rows) @ weights).reshape(rollouts, horizon).T
        np.testing.assert_allclose(found[:-1, group], expected, rtol=1e-5, atol=1e-5)
    assert not found[-1].any()


def test_gradient_of_the_clipped_objective_by_hand() -> None:
    ratio = torch.tensor([1.1, 1.4, 0.6, 0.6, 1.4, 0.9])
    advantages = torch.tensor([2.0, 3.0, 5.0, -5.0, -3.0, -1.0])
    now = ratio.log().requires_grad_()
    loss = clipped_loss(now, torch.zeros(6), advantages, 0.3)
    # d ratio / d log = ratio. Beyond the clip nothing pulls further: of the second a higher
    # ratio, of the fourth a lower one would be better, and they have been taken far enough.
    gradient = -ratio * advantages * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]) / 6.0
    torch.testing.assert_close(torch.autograd.grad(loss, now)[0], gradient)
    value = -torch.tensor([2.2, 3.9, 3.0, -3.5, -4.2, -0.9]).mean()
    torch.testing.assert_close(loss.detach(), value)


def test_members_are_mixed_evenly_and_rollouts_stay_their_own() -> None:
    gains = tuple(float(gain) for gain in range(1, 6))
    imagination = make_imagination(gains)
    still = torch.zeros(5, 8, 2)
    still[..., 0] = torch.arange(40).view(5, 8)
    push = torch.ones(5, 8, 1)
    own = imagination.advance(still, push)
    torch.testing.assert_close(own[..., 1], (0.2 * torch.tensor(gains))[:, None].expand(5, 8))
    mixed = imagination.advance(still, push, mix_members=True)
    torch.testing.assert_close(mixed[..., 0], still[..., 0])
    counted = torch.round(mixed[..., 1] / 0.2).long().flatten().bincount()
    assert counted.tolist() == [0, 8, 8, 8, 8, 8]
    other = imagination.advance(still, push, mix_members=True)
    assert not torch.equal(mixed, other)


def test_imagined_rollouts_are_those_of_the_model_and_the_policy() -> None:
    config = MePpoConfig(rollouts=6, horizon=9, initial_share=1.0, excess_cost=0.5)
    imagination, algorithm = make_imagination((0.5, 2.0)), make(config)
    policy = algorithm.policy
    stages = imagine(imagination, TASK, config, 6, policy, policy.unsquashed, policy.log_std,
                     Workload())
    with pytest.raises(StopIteration) as ended:
        next(stages)
    rollouts = ended.value.value
    assert rollouts.features.shape == (10, 2, 3, 2) and not rollouts.actions.requires_grad
    torch.testing.assert_close(rollouts.features[0],
                               torch.tensor([1.0, 0.0]).expand(2, 3, 2))
    model, state = PerfectModel((0.5, 2.0)), rollouts.features[0]
    for step in range(9):
        action = rollouts.actions[step]
        state = model.predict(state, action.clamp(-1.0, 1.0))
        torch.testing.assert_close(rollouts.features[step + 1], state)
        excess = (action.abs() - 1.0).clamp_min(0.0).square().sum(-1)
        torch.testing.assert_close(rollouts.rewards[step], TASK.reward(
            torch, state, action.clamp(-1.0, 1.0)) - 0.5 * excess)
    normal = torch.distributions.Normal(0.0, policy.log_std.detach().exp())
    torch.testing.assert_close(
        rollouts.log_density - 0.5 * np.log(2.0 * np.pi),
        normal.log_prob(rollouts.actions).sum(-1))     # a new policy has mean 0


@pytest.mark.parametrize(('config', 'network'), LEARNERS)
def test_a_long_update_yields_and_comes_to_the_same(
        config: Any, network: PolicyNetworkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, yields = [], []
    for stage in (STAGE, 20_000.0):
        monkeypatch.setattr('async_mbrl.learning.workload.STAGE', stage)
        algorithm, imagination = make(config, network), make_imagination()
        yields.append(finish(algorithm.update(imagination)))
        parameters.append(flat(algorithm.policy.learned()).detach())
    assert yields[0] == 0 and yields[1] > 5
    torch.testing.assert_close(*parameters, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'initial_log_std': -4.0}, 'initial_log_std: -4.0 is not between'),
    ({'least_log_std': 1.0}, 'least_log_std 1.0'),
])
def test_bounds_of_the_spread_must_fit(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeTrpoConfig(**changes)


@pytest.mark.parametrize('config', [MePpoConfig(), MeTrpoConfig(), MbMpoConfig()])
def test_networks_that_are_not_imagined_with_are_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match=f"{config.NAME} .* expected 'clip', got 'tanh'"):
        config.check_network(PolicyNetworkConfig((8,), 'tanh', 'tanh'))
    with pytest.raises(ConfigError, match=f"{config.NAME} .* got 'state_dependent'"):
        config.check_network(PolicyNetworkConfig((8,), 'tanh', 'clip', 'state_dependent'))


# ---- MB-MPO ----

def test_tasks_must_be_shared_evenly_by_the_members() -> None:
    with pytest.raises(ConfigError, match='7 tasks .* by 5 members; .* such as 5'):
        MbMpoConfig(tasks=7).check_model(ModelConfig())
    MbMpoConfig(tasks=20).check_model(ModelConfig())


def random_steps(algorithm: MbMpo, seed: int, steps: int = 40) -> TaskSteps:
    """Steps that the policies adapted to nothing might have taken, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    tasks = algorithm.config.tasks

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(tasks, steps, *shape, generator=generator).double()

    return TaskSteps(draw(2), 0.5 * draw(1), -0.5 * draw().square(), draw())


def meta() -> MbMpo:
    algorithm = make(MbMpoConfig(tasks=3, rollouts=5, horizon=8, inner_learning_rate=0.3),
                     PolicyNetworkConfig((4,), 'tanh', 'clip')).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in algorithm.policy.learned():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return algorithm


def place(algorithm: MbMpo, vector: torch.Tensor) -> None:
    parameters = algorithm.policy.learned()
    with torch.no_grad():
        for parameter, part in zip(parameters, vector.split(
                [parameter.numel() for parameter in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def test_adaptation_is_one_policy_gradient_step_in_each_task() -> None:
    algorithm = meta()
    before = random_steps(algorithm, 0)
    adapted = algorithm.adapt(before)
    for task in range(3):
        mean = algorithm.policy.unsquashed(before.features[task])
        density = torch.distributions.Normal(mean, algorithm.policy.log_std.exp()).log_prob(
            before.actions[task]).sum(-1)
        gradients = torch.autograd.grad((density * before.advantages[task]).mean(),
                                        algorithm.policy.learned())
        for parameter, gradient, found in zip(algorithm.policy.learned(), gradients, adapted,
                                              strict=True):
            torch.testing.assert_close(found[task], parameter + 0.3 * gradient)


def test_the_divergence_of_the_adaptation_is_that_of_the_policies() -> None:
    algorithm = meta()
    before, after = random_steps(algorithm, 0), random_steps(algorithm, 1)
    with torch.no_grad():
        adapted = algorithm.adapt(before)
        found = algorithm.adaptation_divergence(adapted, after)
        wanted = []
        for task in range(3):
            own = torch.distributions.Normal(algorithm.policy.unsquashed(after.features[task]),
                                             algorithm.policy.log_std.exp())
            place(other := meta(), flat([parameter[task] for parameter in adapted]))
            theirs = torch.distributions.Normal(other.policy.unsquashed(after.features[task]),
                                                other.policy.log_std.exp())
            wanted.append(torch.distributions.kl_divergence(own, theirs).sum(-1).mean())
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    assert found > 0.0


def test_meta_gradient_goes_through_the_adaptation() -> None:
    algorithm = meta()
    before, after = random_steps(algorithm, 0), random_steps(algorithm, 1)
    with torch.no_grad():
        reference = algorithm.adapt(before)
    parameters = algorithm.policy.learned()
    for what in range(2):      # loss and divergence
        # The divergence has no gradient where it is 0; somewhere else it has.
        start = flat(parameters).detach() + 0.05 * what
        place(algorithm, start)
        gradient = flat(torch.autograd.grad(
            algorithm.evaluate(before, after, reference)[what], parameters))
        numeric = torch.zeros_like(gradient)
        for index in range(len(start)):
            values = []
            for side in (1e-5, -1e-5):
                moved = start.clone()
                moved[index] += side
                place(algorithm, moved)
                with torch.no_grad():
                    values.append(float(algorithm.evaluate(before, after, reference)[what]))
            numeric[index] = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-8)
        assert float(gradient.norm()) > 1e-2


def test_meta_gradient_is_not_that_of_fixed_adaptations() -> None:
    algorithm = meta()
    before, after = random_steps(algorithm, 0), random_steps(algorithm, 1)
    adapted = [parameter.detach().requires_grad_() for parameter in algorithm.adapt(before)]
    ratio = (algorithm._log_density(adapted, after) - after.log_density).exp()
    first_order = [gradient.sum(0) for gradient in torch.autograd.grad(
        -(ratio * after.advantages).mean(), adapted)]
    whole = torch.autograd.grad(algorithm.evaluate(before, after, adapted)[0],
                                algorithm.policy.learned())
    difference = float((flat(first_order) - flat(whole)).norm() / flat(whole).norm())
    assert difference > 0.1


def test_the_divergence_that_curvature_is_taken_of_begins_at_0_with_some_of_the_steps() -> None:
    algorithm = meta()
    before, after = random_steps(algorithm, 0), random_steps(algorithm, 1)
    some_before, some_after = (steps.every(2, 5) for steps in (before, after))
    gradients = []
    for reference in (some_before, before):
        with torch.no_grad():
            adapted = algorithm.adapt(reference)
        gradients.append(flat(torch.autograd.grad(
            algorithm.evaluate(some_before, some_after, adapted)[1],
            algorithm.policy.learned())).norm())
    assert gradients[0] < 1e-9 < 1e-3 < gradients[1]


def test_some_of_the_steps_are_the_same_of_every_rollout() -> None:
    step = torch.arange(6.0)[:, None].expand(6, 4).flatten().expand(2, -1)
    some = TaskSteps(step[..., None], step[..., None], step, step).every(3, 4)
    assert some.advantages.tolist() == [[0.0] * 4 + [3.0] * 4] * 2
    assert some.features.shape == (2, 8, 1)


def test_each_task_has_its_member_and_its_advantages() -> None:
    config = MbMpoConfig(tasks=4, rollouts=3, horizon=6, inner_learning_rate=0.1)
    algorithm, imagination = make(config), make_imagination((1.0, 3.0))
    stages = algorithm._imagine(imagination, None, Workload())
    with pytest.raises(StopIteration) as ended:
        next(stages)
    steps = algorithm.steps_of(ended.value.value)
    assert steps.features.shape == (4, 18, 2)
    torch.testing.assert_close(steps.advantages.mean(1), torch.zeros(4), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(steps.advantages.std(1), torch.ones(4), atol=1e-4, rtol=0.0)
    velocity = steps.features[..., 1].view(4, 6, 3)
    force = steps.actions[..., 0].clamp(-1.0, 1.0).view(4, 6, 3)
    gain = (velocity[:, 1:] - velocity[:, :-1]) / 0.2 / force[:, :-1]
    torch.testing.assert_close(gain, torch.tensor([1.0, 1.0, 3.0, 3.0])[:, None, None].expand(
        4, 5, 3), rtol=1e-3, atol=1e-3)


def test_a_policy_adapted_to_the_next_task_acts_in_each_episode() -> None:
    config = MbMpoConfig(tasks=2, rollouts=10, horizon=6, inner_learning_rate=0.5)
    algorithm, imagination = make(config), make_imagination((0.2, 3.0))
    finish(algorithm.update(imagination))
    assert algorithm.metrics()['adaptation_divergence'] > 0.0
    found = []
    for episode in (0, 1, 2):
        algorithm.expect_episode(episode)
        assert algorithm.about == {'act_with': 'adapted', 'adapted_to_task': episode % 2}
        found.append(flat(algorithm.acting_policy.learned()).clone())
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    meta_parameters = flat(algorithm.policy.learned()).detach()
    assert not torch.equal(found[0], meta_parameters)

    acting_by_meta = make(MbMpoConfig(tasks=2, rollouts=10, horizon=6, act_with='meta'))
    assert acting_by_meta.acting_policy is acting_by_meta.policy
    assert acting_by_meta.about == {'act_with': 'meta'}

