"""SAC, MBPO and PPO: their equations against independent computations, and that they learn."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import point_mass
import pytest
import torch
from point_mass import ExactModel, PointMass, Robot
from torch import distributions

from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.learning.algorithms.mbpo import Mbpo
from async_mbrl.learning.buffer import Samples, TransitionBuffer
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.gaussian import clipped_log_density
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.imagined_buffer import ImaginedBuffer
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.proximal import clipped_loss
from async_mbrl.learning.sequential import SequentialLearner
from async_mbrl.learning.settings import MbpoConfig, PpoConfig, SacConfig
from async_mbrl.learning.value import advantages_of_episodes

TASK = PointMass()
SQUASHED = PolicyNetworkConfig((32, 32), 'silu', 'tanh', 'state_dependent')
CLIPPED = PolicyNetworkConfig((32, 32), 'tanh', 'clip', 'state_independent')
MODEL = ModelConfig(kind='plain', members=2, hidden=(8,))
EXPLORATION = ExplorationConfig(correlation=0.0)
FAST: dict[str, Any] = {'discount': 0.9, 'policy_learning_rate': 1e-3, 'minimum_transitions': 60}
CRITIC: dict[str, Any] = {**FAST, 'batch': 128, 'critic_hidden': (64, 64), 'target_rate': 0.02,
                          'critic_learning_rate': 1e-3, 'temperature_learning_rate': 1e-3}
SAC = SacConfig(**{**CRITIC, 'minimum_transitions': 150})
MBPO = MbpoConfig(**{**CRITIC, 'batch': 64, 'critic_hidden': (32, 32)}, rollouts=100,
                  last_length=3, length_grows_from=60, length_grows_to=200)
QUICK = dataclasses.replace(MBPO, policy_learning_rate=3e-3, critic_learning_rate=3e-3,
                            temperature_learning_rate=3e-3)
PPO = PpoConfig(**{**FAST, 'policy_learning_rate': 3e-3}, value_learning_rate=5e-3,
                value_hidden=(32,), iteration_transitions=300)
ALL = [pytest.param(SAC, SQUASHED, id='sac'), pytest.param(MBPO, SQUASHED, id='mbpo'),
       pytest.param(PPO, CLIPPED, id='ppo')]


def make(improvement: Any, network: PolicyNetworkConfig, **changes: Any) -> PolicyLearner:
    """Give a learner on the point mass; where it needs a model, one that is right."""
    learner = PolicyLearner(improvement, MODEL, network, EXPLORATION, TASK,
                            **{'seed': 0, **changes})
    if learner._imagination is not None:
        learner._imagination._dynamics = ExactModel()  # type: ignore[assignment]
        learner._model_version = Version(1, 0)
    return learner


def collect(learner: PolicyLearner, robot: Robot, episodes: int) -> None:
    """Let a robot act by what the learner hands out, and let the learner take what came of it."""
    robot.act_by(learner.snapshot())
    for _ in range(episodes):
        learner.take(robot.episode())


# ---- they learn ----

@pytest.mark.parametrize(('improvement', 'network', 'episodes', 'updates'), [
    pytest.param(SAC, SQUASHED, 14, 60, id='sac'), pytest.param(QUICK, SQUASHED, 6, 100, id='mbpo'),
    pytest.param(PPO, CLIPPED, 60, 1, id='ppo')])
def test_each_learns_a_system_that_is_known(improvement: Any, network: PolicyNetworkConfig,
                                            episodes: int, updates: int) -> None:
    learner, robot = make(improvement, network), Robot(TASK, network)
    before = point_mass.mean_return(TASK, network, learner.snapshot())
    assert before == pytest.approx(2 / 3, abs=0.1)     # stays where it is: 1 - E[x^2]
    for _ in range(episodes):
        collect(learner, robot, 1)
        for _ in range(updates):
            learner.step()
    assert point_mass.mean_return(TASK, network, learner.snapshot()) > 0.88
    assert all(np.isfinite(value) for value in learner.metrics().values())


@pytest.mark.parametrize(('improvement', 'network'), ALL)
def test_it_repeats_by_seed_and_continues_from_a_checkpoint(
        improvement: Any, network: PolicyNetworkConfig, tmp_path: Path) -> None:
    def updated(learner: PolicyLearner, count: int) -> None:
        while learner.updates < count:
            assert learner.step()

    learners = []
    for _ in range(2):
        learner = make(improvement, network)
        collect(learner, Robot(TASK, network), 10)
        updated(learner, 1)
        learners.append(learner)
    learners[0].save(tmp_path)
    restored = make(improvement, network, seed=9, incarnation=2)
    assert restored.restore(tmp_path) == 300
    if restored._imagination is not None:
        restored._imagination._dynamics = ExactModel()  # type: ignore[assignment]
    learners.append(restored)
    for learner in learners:
        robot = Robot(TASK, network, seed=5)
        robot._number, robot._episode = 300, 10
        collect(learner, robot, 10)
        updated(learner, 2)
    first, *others = (learner.snapshot() for learner in learners)
    for other in others:
        for name, value in first.tensors.items():
            np.testing.assert_array_equal(value, other.tensors[name], err_msg=name)


def test_there_is_no_model_where_none_is_needed() -> None:
    learner = make(SAC, SQUASHED)
    assert (learner.model_architecture, learner.model_bytes) == ({}, 0)
    with pytest.raises(SnapshotError, match='needs none'):
        learner.take_snapshot(Snapshot('model', Version(1, 1), {}, {}))


def test_updates_stay_within_what_the_data_allow() -> None:
    learner = make(dataclasses.replace(SAC, max_updates_per_transition=0.1), SQUASHED)
    collect(learner, Robot(TASK, SQUASHED), 5)
    assert sum(learner.step() for _ in range(20)) == 15
    collect(learner, Robot(TASK, SQUASHED), 0)
    assert not learner.step()


@pytest.mark.parametrize(('improvement', 'network', 'words'), [
    (SAC, CLIPPED, "sac .* expected 'state_dependent' .* got 'state_independent' and 'clip'"),
    (MBPO, dataclasses.replace(SQUASHED, squash='clip'), "mbpo .* got 'state_dependent' and 'clip"),
    (PPO, SQUASHED, "ppo .* expected 'state_independent'"),
    (PPO, dataclasses.replace(CLIPPED, distribution='given'), "ppo .* got 'given'")])
def test_networks_that_it_cannot_improve_are_refused(improvement: Any, network: Any,
                                                     words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(improvement, network)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match='exploration.correlation: 0.5, but ppo'):
        PolicyLearner(PPO, MODEL, CLIPPED, ExplorationConfig(correlation=0.5), TASK, seed=0)
    with pytest.raises(ConfigError, match='capacity: 100, but an iteration needs 300'):
        dataclasses.replace(PPO, capacity=100)
    with pytest.raises(ConfigError, match='rollouts only grow'):
        MbpoConfig(first_length=3, last_length=2)
    with pytest.raises(ConfigError, match='length_grows_to: 5 is not after'):
        MbpoConfig(length_grows_from=5, length_grows_to=5)


# ---- what is kept of the robot ----

def test_the_buffer_gives_back_what_it_took(tmp_path: Path) -> None:
    robot = Robot(PointMass(ends=True), CLIPPED, seed=1)
    learner = make(PPO, CLIPPED)
    robot.act_by(learner.snapshot())
    transitions = list(itertools.chain.from_iterable(robot.episode() for _ in range(60)))
    # One was broken off, and nobody said so.
    transitions[70] = dataclasses.replace(transitions[70], terminated=False, truncated=False)
    capacity = 1100
    assert len(transitions) > capacity
    buffer = TransitionBuffer(capacity, 2, 1, 0)
    for begin in range(0, len(transitions), 37):
        buffer.append(transitions[begin:begin + 37])
    again = TransitionBuffer(capacity, 2, 1, 0)
    buffer.save_in(tmp_path, {})
    assert again.live_in(tmp_path, {}) == ''
    for each in (buffer, again):
        kept = transitions[-capacity:]
        rows = torch.tensor([transition.number % capacity for transition in kept])
        samples = each.samples(rows)
        for name in ('observation', 'next_observation', 'reward', 'terminated'):
            np.testing.assert_allclose(getattr(samples, name), np.stack(
                [getattr(transition, name) for transition in kept]), atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(samples.action, [t.action_applied for t in kept])
        np.testing.assert_array_equal(each.requested(rows), [t.action_requested for t in kept])
        np.testing.assert_allclose(each.log_probability(rows),
                                   [t.log_probability for t in kept], atol=1e-6)
        expected = [following.step == 0 for following in kept[1:]]
        assert each.ended(rows)[:-1].tolist() == expected
        assert bool(each.ended(rows)[-1]) == (kept[-1].terminated or kept[-1].truncated)


def test_rows_of_a_policy_begin_with_its_first_whole_episode() -> None:
    buffer, robot = TransitionBuffer(1000, 2, 1, 0), Robot(TASK, CLIPPED)
    learner = make(PPO, CLIPPED)
    robot.act_by(learner.snapshot())
    for counter in (0, 0, 1, 1, 2):
        episode = robot.episode()
        # The version changes in the middle of an episode.
        buffer.append([dataclasses.replace(transition, policy_version=Version(
            1, counter + (transition.step > 20))) for transition in episode])
    assert buffer.rows_of(Version(1, 1)).tolist() == list(range(60, 150))
    assert buffer.rows_of(Version(1, 2)).tolist() == list(range(120, 150))
    assert buffer.rows_of(Version(1, 3)).tolist() == []
    assert buffer.rows_of(Version(2, 0)).tolist() == []
    assert len(buffer.rows_of(Version(0, 9))) == 150


# ---- PPO ----

def test_the_clipped_objective_by_hand() -> None:
    then = torch.zeros(5, 1)
    ratio = torch.tensor([[1.5], [1.5], [0.5], [0.5], [1.1]])
    advantages = torch.tensor([[2.0], [-2.0], [2.0], [-2.0], [3.0]])
    now = ratio.log().requires_grad_()
    loss = clipped_loss(now, then, advantages, 0.2)
    # min(r A, clip(r) A): 1.2 * 2, 1.5 * -2, 0.5 * 2, 0.8 * -2, 1.1 * 3
    assert float(loss.detach()) == pytest.approx(-(2.4 - 3.0 + 1.0 - 1.6 + 3.3) / 5)
    (gradient,) = torch.autograd.grad(loss, now)
    # d/d ln r of r A where it is not clipped
    np.testing.assert_allclose(gradient[:, 0], [0.0, 3.0 / 5, -1.0 / 5, 0.0, -3.3 / 5], atol=1e-6)


def test_the_density_of_a_clipped_action_has_all_the_probability() -> None:
    for mean, std in ((0.3, 0.5), (-1.4, 0.8), (3.0, 0.2)):
        inside = torch.linspace(-1.0, 1.0, 100_001, dtype=torch.double)[1:-1, None]
        log_std = torch.tensor([math.log(std)], dtype=torch.double)
        density = clipped_log_density(inside, torch.tensor([mean], dtype=torch.double), log_std)
        ends = clipped_log_density(torch.tensor([[-1.0], [1.0]], dtype=torch.double),
                                   torch.tensor([mean], dtype=torch.double), log_std)
        normal = distributions.Normal(mean, std)
        np.testing.assert_allclose(ends.exp(), [
            normal.cdf(torch.tensor(-1.0)), 1.0 - normal.cdf(torch.tensor(1.0))], atol=1e-6)
        total = torch.trapezoid(density.exp(), inside[:, 0]) + ends.exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-4)
        np.testing.assert_allclose(density, normal.log_prob(inside[:, 0]), atol=1e-6)


def test_generalised_advantages_stop_at_the_ends_of_episodes() -> None:
    generator = torch.Generator().manual_seed(6)
    count, discount, trace = 9, 0.9, 0.7
    values, next_values, reward = torch.randn(3, count, generator=generator).double()
    terminated = torch.zeros(count).double()
    terminated[3] = 1.0                          # the first episode ends by itself,
    ended = terminated.bool()
    ended[6] = True                              # the second one is cut short, the third goes on
    nothing = torch.zeros(count, 0)
    found = advantages_of_episodes(Samples(nothing, nothing, nothing, reward, terminated), ended,
                                   values, next_values, discount, trace)
    change = (reward + discount * (1 - terminated) * next_values - values).numpy()
    for episode in (range(4), range(4, 7), range(7, 9)):
        for row in episode:
            expected = sum((discount * trace) ** (later - row) * change[later]
                           for later in episode if later >= row)
            assert float(found[row]) == pytest.approx(expected)
    # With lambda 1 it is the discounted return minus the value; at a cut the value stands in.
    whole = advantages_of_episodes(Samples(nothing, nothing, nothing, reward, terminated), ended,
                                   next_values.roll(1), next_values, discount, 1.0)
    assert float(whole[2]) == pytest.approx(
        float(reward[2] + discount * reward[3] - next_values[1]))
    assert float(whole[5]) == pytest.approx(float(
        reward[5] + discount * reward[6] + discount ** 2 * next_values[6] - next_values[4]))


def test_ppo_learns_from_whole_episodes_of_its_newest_policy_alone() -> None:
    learner, robot = make(PPO, CLIPPED), Robot(TASK, CLIPPED)
    collect(learner, robot, 9)
    assert not learner.step()           # 270 of 300
    learner.take(robot.episode()[:-1])
    assert not learner.step()           # 299, and the episode goes on
    learner = make(PPO, CLIPPED)
    robot = Robot(TASK, CLIPPED)
    collect(learner, robot, 10)
    old = robot._policy.parameters
    before = learner.snapshot().tensors
    while learner.updates == 0:
        assert learner.step()
        if learner.updates == 0:        # in the middle of an update the policy still acts as it was
            for name, value in learner.snapshot().tensors.items():
                np.testing.assert_array_equal(value, before[name])
    for _ in range(10):                 # by the policy before: of no use any more
        learner.take(robot.episode())
    assert robot._policy.parameters is old and not learner.step()
    after = learner.snapshot()
    assert not np.array_equal(after.tensors['log_std'], before['log_std'])
    collect(learner, robot, 10)
    rows = learner._experience.on_policy_rows()
    assert rows.tolist() == list(range(600, 900))
    # The same policy still: statistics of the data must not change it between two updates.
    for name, value in learner.snapshot().tensors.items():
        np.testing.assert_array_equal(value, after.tensors[name], err_msg=name)
    assert learner.step()


def test_ppo_takes_turns_with_the_robot() -> None:
    schedule = ScheduleConfig(name='sync', rollouts=10, policy_steps=1)
    ppo, robot = make(PPO, CLIPPED), Robot(TASK, CLIPPED)
    learner = SequentialLearner(schedule, None, ppo)
    for turn in range(3):
        for _ in range(schedule.rollouts):
            assert not learner.due
            robot.act_by(learner.snapshot())
            learner.take(robot.episode())
        while learner.step():
            pass
        assert (learner.turns, ppo.updates) == (turn + 1, turn + 1)


def test_ppo_reckons_with_the_densities_that_the_controller_reports() -> None:
    learner, robot = make(PPO, CLIPPED), Robot(TASK, CLIPPED)
    collect(learner, robot, 10)
    while learner.updates == 0:
        learner.step()
    collect(learner, robot, 10)
    rows, buffer = learner._experience.on_policy_rows(), learner.buffer
    policy, actions = learner.algorithm.acting_policy, buffer.requested(rows)
    with torch.no_grad():
        found = clipped_log_density(actions, *policy.distribution(
            policy.features(buffer.samples(rows).observation)))
    inside = (actions.abs() < 1.0).all(1)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(found[inside], buffer.log_probability(rows)[inside], atol=1e-4)


def test_ppo_leaves_out_episodes_that_a_person_took_over() -> None:
    learner, robot = make(PPO, CLIPPED), Robot(TASK, CLIPPED)
    robot.act_by(learner.snapshot())
    alone = []
    for episode in range(14):
        transitions = robot.episode()
        if episode in (0, 3, 13):       # for a single step is enough
            transitions = [dataclasses.replace(
                item, takeover=True, log_probability=0.0) if item.step == 7 else item
                for item in transitions]
        else:
            alone += [item.number for item in transitions]
        learner.take(transitions)
        assert learner._experience.on_policy_rows().tolist() == alone
        # Ten whole episodes of the policy alone are needed.
        assert learner._experience.complete(300) == (len(alone) >= 300)
    rows, buffer = learner._experience.on_policy_rows(), learner.buffer
    assert not buffer.by_human(rows).any() and bool(buffer.ended(rows[-1:]))
    assert int(buffer.by_human(torch.arange(len(buffer))).sum()) == 3
    while learner.updates == 0:
        assert learner.step()
    assert learner.algorithm.metrics()['taken_over'] == 90.0


def test_an_episode_that_is_taken_over_while_it_goes_on_holds_nothing_up() -> None:
    learner, robot = make(PPO, CLIPPED), Robot(TASK, CLIPPED)
    collect(learner, robot, 10)
    first, second, *_ = robot.episode()
    learner.take([first])
    assert not learner._experience.complete(300)        # it may yet be one of the policy
    learner.take([dataclasses.replace(second, takeover=True)])
    assert learner._experience.complete(300)


# ---- MBPO ----

def branched(length: int, task: PointMass) -> tuple[Mbpo, TransitionBuffer]:
    """Give an MBPO that has imagined rollouts of a length once, and the data they branch from."""
    learner = make(PPO, CLIPPED)
    robot, buffer = Robot(task, CLIPPED, seed=2), TransitionBuffer(1000, 2, 1, 0)
    robot.act_by(learner.snapshot())
    for _ in range(5):
        buffer.append(robot.episode())
    generators = Generators.on(CPU, 0)
    config = dataclasses.replace(MBPO, rollouts=40, first_length=length, last_length=length)
    algorithm = Mbpo(config, SQUASHED, task, generators.noise)
    imagination = Imagination(ExactModel(), task, Pool(buffer),  # type: ignore[arg-type]
                              generators, np.random.default_rng(0))
    algorithm.update(imagination)
    return algorithm, buffer


@pytest.mark.parametrize('ends', [False, True])
def test_rollouts_branch_off_from_the_data_and_stop_at_the_end(ends: bool) -> None:
    length, task = 40, PointMass(ends)
    algorithm, buffer = branched(length, task)
    count = len(algorithm.imagined)
    observation, action, following, reward, terminated = (
        part.numpy() for part in algorithm.imagined.rows[:count].split([2, 1, 2, 1, 1], 1))
    seen = {tuple(row) for row in buffer.states.tolist()}
    assert all(tuple(row) in seen for row in observation[:40].tolist())
    np.testing.assert_allclose(following, task.advance(np, observation, action), atol=1e-6)
    np.testing.assert_allclose(reward[:, 0], task.reward(np, following, action), atol=1e-5)
    assert np.abs(action).max() <= 1.0
    np.testing.assert_array_equal(terminated[:, 0],
                                  [float(task.terminated(row)) for row in following])
    # Step by step, those that go on do so from where they came to, and no others.
    begin, alive = 0, 40
    for _ in range(length):
        rows = slice(begin, begin + alive)
        goes_on = terminated[rows, 0] == 0.0
        begin, alive = begin + alive, int(goes_on.sum())
        np.testing.assert_array_equal(observation[begin:begin + alive] if begin < count else
                                      following[rows][goes_on], following[rows][goes_on])
    assert begin == count
    assert (count < 40 * length) == ends


def test_rollouts_grow_longer_with_the_data() -> None:
    config = MbpoConfig(first_length=1, last_length=5, length_grows_from=100, length_grows_to=500)
    assert [config.length(count) for count in (0, 100, 199, 200, 350, 499, 500, 9999)] == [
        1, 1, 1, 2, 3, 4, 5, 5]


def test_a_batch_is_mostly_imagined() -> None:
    algorithm, _ = branched(3, TASK)
    config, drawn = algorithm.config, []
    algorithm.actor_critic.improve = lambda samples, *_: (  # type: ignore
        drawn.append(samples) or torch.zeros(2, 64))
    algorithm.imagined.rows.fill_(9.0)
    robot, buffer = Robot(TASK, CLIPPED), TransitionBuffer(1000, 2, 1, 0)
    robot.act_by(make(PPO, CLIPPED).snapshot())
    buffer.append(robot.episode())
    algorithm.update(Imagination(ExactModel(), TASK, Pool(buffer),  # type: ignore[arg-type]
                                 Generators.on(CPU, 0), np.random.default_rng(0)))
    imagined = (drawn[0].reward == 9.0).sum()
    assert (len(drawn[0].reward), int(imagined)) == (64, 64 - round(0.05 * 64))
    assert config.real_share == 0.05


def test_rollouts_are_imagined_again_after_some_updates() -> None:
    learner, robot = make(dataclasses.replace(MBPO, rollout_interval=5), SQUASHED), Robot(
        TASK, SQUASHED)
    collect(learner, robot, 4)
    taken = []
    for _ in range(12):
        learner.step()
        taken.append(int(learner.algorithm.imagined.taken))  # type: ignore[attr-defined]
    assert np.flatnonzero(np.diff([0, *taken])).tolist() == [0, 5, 10]


def test_the_imagined_buffer_keeps_the_newest() -> None:
    buffer = ImaginedBuffer(10, TASK)

    def samples(begin: int, count: int) -> Samples:
        number = torch.arange(begin, begin + count).float()
        return Samples(number[:, None].expand(-1, 2), number[:, None], number[:, None].expand(
            -1, 2), number, torch.zeros(count))

    generator, begin = torch.Generator().manual_seed(0), 0
    for count in (4, 4, 4, 25, 3):
        buffer.append(samples(begin, count))
        begin += count
        found = buffer.draw(200, generator)
        assert set(found.reward.tolist()) == set(range(max(0, begin - 10), begin))
        torch.testing.assert_close(found.observation[:, 0], found.reward)
        torch.testing.assert_close(found.action[:, 0], found.reward)
