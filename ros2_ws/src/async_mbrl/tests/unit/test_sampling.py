"""Which transitions are drawn: how often, with what weight, and what a restart changes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import point_mass
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from point_mass import ExactModel, PointMass, Robot

from async_mbrl.core.config import ConfigError, load
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.experience import EVENLY, Experience
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.sampling import Drawn, Prioritised, Recent, Uniform, make_sampling
from async_mbrl.learning.settings import AwacConfig, MbpoConfig, SacConfig, SamplingConfig
from async_mbrl.learning.soft_actor_critic import SoftActorCritic
from async_mbrl.learning.sum_tree import SumTree

TASK = PointMass()
SQUASHED = PolicyNetworkConfig((16,), 'silu', 'tanh', 'state_dependent')
GAUSSIAN = PolicyNetworkConfig((16,), 'silu', 'tanh_mean', 'state_independent')
RECENT = SamplingConfig('recent', recent_minimum=40)
PRIORITISED = SamplingConfig('prioritised', importance_updates=100)
SMALL: dict[str, Any] = {'batch': 32, 'critic_hidden': (16,), 'minimum_transitions': 60}


def buffer_of(count: int, capacity: int = 2000, sign: float = 1.0,
              by_human: Sequence[int] = ()) -> TransitionBuffer:
    """Give a buffer of transitions whose reward is their number, or minus one less it."""
    buffer = TransitionBuffer(capacity, 1, 1, 0)
    numbers = np.arange(count)
    part = np.zeros((count, 1), np.float32)
    buffer.append_columns(Columns(
        part, part, part, part, numbers.astype(float) if sign > 0 else -1.0 - numbers,
        *(np.zeros(count, np.bool_) for _ in range(3)), numbers * 0, numbers,
        np.zeros((count, 2), np.int64), np.zeros(count, np.float32),
        np.where(np.isin(numbers, by_human), Source.HUMAN, Source.POLICY).astype(np.uint8)))
    return buffer


def experience_of(robot: int, offline: int = 0, capacity: int = 2000) -> Experience:
    """Rewards tell which transition it is: those of offline data are negative."""
    experience = Experience(buffer_of(robot, capacity), Generators.on(CPU, 3))
    if offline:
        experience.offline = buffer_of(offline, sign=-1.0)
    return experience


def frequencies(sampling: Any, experience: Experience, draws: int, share: float = EVENLY,
                batch: int = 64) -> dict[int, float]:
    """Give how often each transition is drawn, as a share of all."""
    counts: dict[int, float] = {}
    for _ in range(draws):
        for reward in sampling.draw(experience, batch, share).samples.reward.tolist():
            counts[int(reward)] = counts.get(int(reward), 0) + 1 / (draws * batch)
    return counts


# ---- settings ----

@pytest.mark.parametrize(('given_', 'words'), [
    ({'kind': 'newest'}, "improvement.sampling.kind: 'newest' is not one of uniform, recent"),
    ({'recency': 0.99}, "sampling.recency: 0.99, but kind is 'uniform', which does not use it; "
                        "leave it out, or give kind 'recent'"),
    ({'kind': 'recent', 'priority_exponent': 1.0}, "priority_exponent: 1.0, but kind is 'recent'"),
    ({'kind': 'recent', 'human_share': 0.5}, "human_share: 0.5, but kind is 'recent'"),
    ({'kind': 'prioritised', 'recency': 0.95}, "recency: 0.95, but kind is 'prioritised'"),
    ({'kind': 'prioritised', 'importance_exponent': 1.5}, 'above the maximum 1.0')])
def test_settings_that_do_not_go_together_are_refused(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(SacConfig, {'sampling': given_}, 'improvement')


def test_a_sampling_that_nothing_is_drawn_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind: 'recent', but real_share 0.0 of a batch of 256"):
        MbpoConfig(real_share=0.0, sampling=RECENT)
    with pytest.raises(ConfigError, match='without a human_share'):
        MbpoConfig(real_share=0.0, sampling=SamplingConfig(human_share=0.5))
    for sampling in (RECENT, SamplingConfig(human_share=0.5)):
        with pytest.raises(ConfigError, match='with offline_share 1 nothing is drawn from the rob'):
            AwacConfig(offline_share=1.0, sampling=sampling)
    AwacConfig(offline_share=1.0, sampling=PRIORITISED)


# ---- the tree ----

@given(st.lists(st.tuples(st.integers(0, 70), st.sampled_from([0.0, 0.1, 1.0, 1e-9, 3e7])),
                min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_the_tree_finds_what_a_cumulative_sum_does(items: list[tuple[int, float]],
                                                   seed: int) -> None:
    tree, weights = SumTree(), np.zeros(71)
    for begin in range(0, len(items), 7):
        rows, values = (np.array(column) for column in zip(*items[begin:begin + 7], strict=True))
        tree.set(rows, values)
        for row, value in zip(rows, values, strict=True):
            weights[row] = value
    assert tree.total == pytest.approx(weights.sum())
    again = SumTree()
    again.set(np.arange(71), weights)
    assert again.total == tree.total        # to the bit, whatever came in which order
    if not weights.any():
        return
    heights = np.random.default_rng(seed).random(200) * tree.total
    found = tree.find(heights)
    assert (weights[found] > 0.0).all()
    ends = np.cumsum(weights)
    slack = 1e-9 * ends[-1]
    assert (heights <= ends[found] + slack).all()
    assert (heights >= ends[found] - weights[found] - slack).all()


# ---- how often ----

def test_uniform_draws_as_before_to_the_bit() -> None:
    for robot, offline, share in ((50, 0, EVENLY), (50, 30, EVENLY), (50, 30, 0.3), (0, 30, 0.3)):
        plain = experience_of(robot, offline).draw(40, share)
        drawn = Uniform().draw(experience_of(robot, offline), 40, share)
        assert drawn.weights is None and torch.equal(plain.reward, drawn.samples.reward)


@pytest.mark.parametrize(('offline', 'share'), [(0, EVENLY), (50, EVENLY), (50, 0.25)])
def test_a_person_has_a_share_of_what_is_drawn_from_the_robot(offline: int, share: float) -> None:
    experience = experience_of(0, offline)
    # 200 came, the first 100 of them are written over; 60 and 70 of a person with them.
    experience.buffer = buffer_of(200, capacity=100, by_human=(60, 70, 130, 140))
    found = frequencies(Uniform(human_share=0.4), experience, draws=400, share=share)
    robot = {number: often for number, often in found.items() if number >= 0}
    of_robot = sum(robot.values())
    assert of_robot == pytest.approx({(0, EVENLY): 1.0, (50, EVENLY): 2 / 3, (50, 0.25): 0.75}[
        offline, share], abs=0.02)
    # The rest is drawn from all, these two of 100 included.
    assert robot[130] + robot[140] == pytest.approx((0.4 + 0.6 * 0.02) * of_robot, abs=0.02)
    assert min(robot) == 100 and len(robot) == 100


def test_as_long_as_nobody_acted_there_is_nothing_to_share() -> None:
    drawn = Uniform(human_share=0.5).draw(experience_of(50), 40, EVENLY)
    assert torch.equal(drawn.samples.reward, experience_of(50).draw(40, EVENLY).reward)


def test_what_a_person_does_is_drawn_from_the_next_update_on_and_after_a_restart(
        tmp_path: Path) -> None:
    improvement = SacConfig(**SMALL, sampling=SamplingConfig(human_share=0.5))
    learner, robot = make(improvement), Robot(TASK, SQUASHED)
    learner.restore(tmp_path)
    robot.act_by(learner.snapshot())
    learner.take(robot.episode())
    assert not len(learner.buffer.human_rows)
    learner.take([dataclasses.replace(each, takeover=each.step < 3) for each in robot.episode()])
    shown = learner.buffer.human_rows.tolist()
    assert len(shown) == 3
    learner.save(tmp_path)
    learner.close()
    again = make(improvement)
    again.restore(tmp_path)
    assert again.buffer.human_rows.tolist() == shown


def test_what_a_person_did_is_forgotten_when_it_is_written_over() -> None:
    robot = Robot(TASK, SQUASHED)
    robot.act_by(make(SacConfig(**SMALL)).snapshot())
    episodes = [robot.episode() for _ in range(3)]
    buffer = TransitionBuffer(40, TASK.state_size, TASK.action_size, TASK.goal_size)
    buffer.append([dataclasses.replace(each, takeover=each.step in (0, 20))
                   for each in episodes[0]])
    assert buffer.human_rows.tolist() == [0, 20]
    buffer.append(episodes[1])      # numbers 0 to 19 are gone
    assert buffer.human_rows.tolist() == [20]
    buffer.append(episodes[2])
    assert not len(buffer.human_rows)


def expected_share(age: int, held: int, recency: float, least: int) -> float:
    """Mean over u of [age < c] / c, with c = max(c_min, held eta^(1000 u))."""
    u = (np.arange(20_000) + 0.5) / 20_000
    window = np.maximum(least, (held * recency ** (1000 * u)).astype(int))
    return float(((age < window) / window).mean())


def test_recent_draws_the_newest_as_often_as_the_paper_says() -> None:
    held, recency, least = 1000, 0.996, 60
    # The ring has gone round: of 1700 transitions the newest thousand are there.
    found = frequencies(Recent(recency, least), experience_of(1700, capacity=held), 6000)
    assert min(found) >= 700 and max(found) == 1699
    for first, last in ((0, 50), (100, 200), (500, 600), (900, 1000)):
        share = sum(found.get(1699 - age, 0.0) for age in range(first, last))
        wanted = sum(expected_share(age, held, recency, least) for age in range(first, last))
        assert share == pytest.approx(wanted, rel=0.1), (first, last)
    for even in (Recent(1.0, 1), Recent(0.9, 40)):      # no preference; not enough to have one
        assert frequencies(even, experience_of(40), 500)[3] == pytest.approx(1 / 40, rel=0.2)


def test_recent_takes_offline_data_for_older_than_all_of_the_robots() -> None:
    recent = Recent(0.996, 20)
    found = frequencies(recent, experience_of(100, 400), 4000)
    robot = sum(share for number, share in found.items() if number >= 0)
    # Mean over u of min(1, 100 / c), c = 500 eta^(1000 u): 0.6 + 0.2 (e^1.6 - 1) / 4.
    assert robot == pytest.approx(0.8, abs=0.03) and len(found) == 500
    fixed = frequencies(recent, experience_of(100, 400), 2000, 0.25)
    assert sum(share for number, share in fixed.items() if number < 0) == pytest.approx(0.25)
    assert fixed[99] > 5.0 * fixed.get(0, 0.0)
    alone = frequencies(recent, experience_of(0, 50), 500, 0.25)
    assert all(share == pytest.approx(1 / 50, rel=0.3) for share in alone.values())


def told(sampling: Prioritised, experience: Experience, errors: dict[int, float],
         otherwise: float, share: float = EVENLY) -> None:
    """Let a sampling learn the errors of transitions by their number, whenever they are drawn."""
    for _ in range(300):
        drawn = sampling.draw(experience, 64, share)
        found = torch.tensor([errors.get(int(number), otherwise)
                              for number in drawn.samples.reward.tolist()])
        sampling.learned(drawn, torch.stack([found + 0.01, 0.01 - found]))


def test_priorities_decide_how_often_and_weights_make_up_for_it() -> None:
    sampling, experience = Prioritised(0.7, 0.5, 0), experience_of(100)
    told(sampling, experience, {7: 2.0, 40: 1.0}, 0.1)
    found = frequencies(sampling, experience, 3000)
    chances = {number: {7: 2.0, 40: 1.0}.get(number, 0.1) ** 0.7 for number in range(100)}
    total = sum(chances.values())
    for number in (7, 40, 60):
        assert found[number] == pytest.approx(chances[number] / total, rel=0.15)
    drawn = sampling.draw(experience, 64, EVENLY)
    assert drawn.weights is not None and float(drawn.weights.max()) == 1.0
    for number, weight in zip(drawn.samples.reward.tolist(), drawn.weights.tolist(), strict=True):
        # (N P)^-beta by that of the rarest: N and the total cancel out.
        assert weight == pytest.approx((chances[int(number)] / 0.1 ** 0.7) ** -0.5, rel=1e-3)
    metrics = sampling.metrics()
    assert metrics['priority_max'] == pytest.approx(2.0, rel=1e-3)
    assert metrics['importance_weight_min'] == pytest.approx(float(drawn.weights.min()))


def test_what_is_new_or_written_over_has_the_greatest_priority() -> None:
    sampling, experience = Prioritised(1.0, 0.0, 0), experience_of(50, capacity=60)
    told(sampling, experience, {}, 0.001)
    experience.buffer = buffer_of(80, capacity=60)      # thirty more: twenty in others' place
    found = frequencies(sampling, experience, 300)
    assert sum(found.get(number, 0.0) for number in range(50, 80)) > 0.9
    assert min(found) >= 20


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0, EVENLY])
def test_priorities_beside_offline_data(share: float) -> None:
    sampling, experience = Prioritised(1.0, 1.0, 0), experience_of(50, 150)
    told(sampling, experience, {3: 10.0, -5: 10.0}, 0.1, share)
    drawn = sampling.draw(experience, 200, share)
    old = int((drawn.samples.reward < 0).sum())
    assert (drawn.samples.reward[:old] < 0).all() and len(drawn.offline) == old
    assert old == round(share * 200) if share >= 0 else 0 < old < 200
    found = frequencies(sampling, experience, 200, share)
    total = {EVENLY: 20.0 + 198 * 0.11}.get(share, 0.0)
    for number, part, rows in ((3, 1.0 - share, 50), (-5, share, 150)):
        if share >= 0:
            total = 10.0 + (rows - 1) * 0.11
            wanted = part * 10.0 / total
        else:
            wanted = 10.0 / total
        assert found.get(number, 0.0) == pytest.approx(wanted, rel=0.2), number
    # With beta 1 the weighted mean is that of an even draw, of each part if the share is fixed.
    if share == EVENLY:
        sums = torch.zeros(2, dtype=torch.double)
        for _ in range(300):
            drawn = sampling.draw(experience, 64, share)
            assert drawn.weights is not None
            sums += torch.stack([drawn.weights.sum(),
                                 drawn.weights[drawn.samples.reward >= 0].sum()])
        assert float(sums[1] / sums[0]) == pytest.approx(50 / 200, rel=0.15)


def test_beta_rises_with_the_updates() -> None:
    sampling, experience = Prioritised(1.0, 0.4, 1000), experience_of(20)
    weights = []
    for errors in ((1.0,) * 500, (1.0,) * 600):
        for _ in errors:
            drawn = sampling.draw(experience, 8, EVENLY)
            sampling.learned(drawn, (drawn.samples.reward[None] == 3.0) * 3.0 + 1.0)
        drawn = sampling.draw(experience, 64, EVENLY)
        assert drawn.weights is not None
        weights.append(float(drawn.weights.min()))
    assert weights == pytest.approx([4.0 ** -0.7, 4.0 ** -1.0], rel=1e-3)


def test_weights_enter_the_loss_of_the_critics() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    targets = torch.tensor([1.0, 0.0, 1.0])
    weights = torch.tensor([1.0, 0.5, 0.25])
    # Half of the mean of (0, 2, 1) and of (1, 0, 0).
    assert float(SoftActorCritic.critic_loss(values, targets, weights)) == pytest.approx(
        0.5 * (3.0 / 3 + 1.0 / 3))
    assert float(SoftActorCritic.critic_loss(values, targets)) == pytest.approx(
        0.5 * ((0 + 4 + 4) / 3 + 1 / 3))


# ---- in a learner ----

def make(improvement: Any, network: PolicyNetworkConfig = SQUASHED, seed: int = 0) -> PolicyLearner:
    learner = PolicyLearner(improvement, ModelConfig(kind='plain', members=2, hidden=(8,)), network,
                            ExplorationConfig(correlation=0.0), TASK, seed=seed)
    if learner._imagination is not None:
        learner._imagination._dynamics = ExactModel()  # type: ignore[assignment]
        learner._model_version = Version(1, 0)
    return learner


ALGORITHMS = [
    pytest.param(SacConfig(**SMALL), SQUASHED, id='sac'),
    pytest.param(AwacConfig(**SMALL), GAUSSIAN, id='awac'),
    pytest.param(MbpoConfig(**SMALL, real_share=0.5, rollouts=20, imagined_capacity=500), SQUASHED,
                 id='mbpo')]


@pytest.mark.parametrize('sampling', [RECENT, PRIORITISED], ids=['recent', 'prioritised'])
@pytest.mark.parametrize(('improvement', 'network'), ALGORITHMS)
def test_each_resumes_to_the_bit(improvement: Any, network: PolicyNetworkConfig,
                                 sampling: SamplingConfig, tmp_path: Path) -> None:
    improvement = dataclasses.replace(improvement, sampling=sampling)
    robot = Robot(TASK, network)
    robot.act_by(make(improvement, network).snapshot())
    episodes = [robot.episode() for _ in range(6)]

    def learn(learner: PolicyLearner, new: list[Any]) -> None:
        for episode in new:
            learner.take(episode)
        for _ in range(5):
            assert learner.step()

    lived = make(improvement, network)
    learn(lived, episodes[:4])
    lived.save(tmp_path)
    resumed = make(improvement, network, seed=7)
    assert resumed.restore(tmp_path) == 120
    if resumed._imagination is not None:
        resumed._imagination._dynamics = ExactModel()  # type: ignore[assignment]
    for learner in (lived, resumed):
        learn(learner, episodes[4:])
    for (name, one), other in zip(lived.snapshot().tensors.items(),
                                  resumed.snapshot().tensors.values(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    told_of = [{name: value for name, value in learner.metrics().items()
                if name != 'imagined_reward'} for learner in (lived, resumed)]
    assert told_of[0] == told_of[1]
    names = {'recent': {'recent_transitions'},
             'prioritised': {'priority_max', 'importance_weight_min'}}[sampling.kind]
    assert names <= set(lived.metrics())
    assert all(math.isfinite(value) for value in lived.metrics().values())


def test_transitions_kept_after_a_checkpoint_begin_with_the_greatest_priority(
        tmp_path: Path) -> None:
    improvement = SacConfig(**SMALL, sampling=PRIORITISED)
    robot = Robot(TASK, SQUASHED)
    learner = make(improvement)
    learner.restore(tmp_path)
    robot.act_by(learner.snapshot())
    for _ in range(3):
        learner.take(robot.episode())
    for _ in range(50):
        learner.step()
    learner.save(tmp_path)
    learner.take(robot.episode())
    learner.close()
    again = make(improvement, seed=3)
    assert again.restore(tmp_path) == 120
    sampling = again.algorithm.sampling  # type: ignore[attr-defined]
    again.step()
    priorities = sampling._robot.tree.weights(np.arange(120))
    assert (priorities[90:] == sampling._greatest).sum() > 0
    assert priorities[:90].mean() < 0.8 * sampling._greatest


def test_a_sampling_may_change_between_two_starts(tmp_path: Path) -> None:
    robot, uniform = Robot(TASK, SQUASHED), SacConfig(**SMALL)
    learner = make(uniform)
    robot.act_by(learner.snapshot())
    for _ in range(3):
        learner.take(robot.episode())
    learner.step()
    learner.save(tmp_path / 'uniform')
    other = make(dataclasses.replace(uniform, sampling=PRIORITISED))
    other.restore(tmp_path / 'uniform')
    assert other.step() and 'priority_max' in other.metrics()
    other.save(tmp_path / 'prioritised')
    learner = make(uniform)
    learner.restore(tmp_path / 'prioritised')
    assert learner.step() and 'priority_max' not in learner.metrics()


@pytest.mark.parametrize('sampling', [RECENT, PRIORITISED], ids=['recent', 'prioritised'])
def test_sac_learns_a_system_that_is_known_with_each(sampling: SamplingConfig) -> None:
    learner = make(SacConfig(batch=64, critic_hidden=(32, 32), minimum_transitions=150,
                             discount=0.9, target_rate=0.02, policy_learning_rate=1e-3,
                             critic_learning_rate=1e-3, temperature_learning_rate=1e-3,
                             sampling=dataclasses.replace(sampling, recent_minimum=200)
                             if sampling.kind == 'recent' else sampling))
    robot = Robot(TASK, SQUASHED)
    for _ in range(14):
        robot.act_by(learner.snapshot())
        learner.take(robot.episode())
        for _ in range(60):
            learner.step()
    assert point_mass.mean_return(TASK, SQUASHED, learner.snapshot()) > 0.85


def test_each_kind_is_made_by_its_settings() -> None:
    for config, kind in ((SamplingConfig(), Uniform), (RECENT, Recent), (PRIORITISED, Prioritised)):
        assert type(make_sampling(config)) is kind
    assert Drawn(buffer_of(1).samples(torch.tensor([0]))).weights is None
