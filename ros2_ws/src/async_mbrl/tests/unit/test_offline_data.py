"""Offline data: kept like the robot's, drawn beside them, and learned from before a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import point_mass
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from point_mass import STEPS, PointMass, Robot

from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Columns, Source, columns_of
from async_mbrl.learning import pretraining
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import OfflineData, Pretraining, offline_buffer
from async_mbrl.learning.recorded import recorded_hash
from async_mbrl.learning.replay_tables import Block
from async_mbrl.learning.settings import AwacConfig, PpoConfig, SacConfig

TASK = PointMass()
GAUSSIAN = PolicyNetworkConfig((32, 32), 'silu', 'tanh_mean', 'state_independent')
SQUASHED = PolicyNetworkConfig((32, 32), 'silu', 'tanh', 'state_dependent')
FAST: dict[str, Any] = {
    'batch': 128, 'discount': 0.9, 'critic_hidden': (32, 32), 'policy_learning_rate': 2e-3,
    'critic_learning_rate': 2e-3, 'target_rate': 0.02, 'minimum_transitions': 60}
AWAC = AwacConfig(**FAST, temperature=0.1, state_value='mean')
SAC = SacConfig(**FAST, temperature_learning_rate=2e-3)
EXPLORATION = ExplorationConfig(correlation=0.0)


def mediocre(episodes: int, seed: int = 0) -> Columns:
    """Data of a weak controller with much noise."""
    rng, found = np.random.default_rng(seed), []
    for episode in range(episodes):
        observation = TASK.start(rng)
        for step in range(STEPS):
            action = np.clip(-0.4 * observation[:1] - 0.2 * observation[1:]
                             + 0.6 * rng.normal(size=1), -1.0, 1.0).astype(np.float32)
            following = TASK.advance(np, observation, action).astype(np.float32)
            found.append(Transition(
                len(found), episode, step, observation, action, action, following,
                float(TASK.reward(np, following, action)), False, step == STEPS - 1))
            observation = following
    return columns_of(found, Source.SCRIPT)


DATA = mediocre(40)


def offline_data(parts: Sequence[Columns] = (DATA,)) -> OfflineData:
    """The data as if they had been read from a dataset."""
    return OfflineData(offline_buffer(TASK, parts), 'content')


def make(improvement: Any = AWAC, network: PolicyNetworkConfig = GAUSSIAN,
         **changes: Any) -> PolicyLearner:
    model = ModelConfig(kind='plain', members=2, hidden=(8,))
    return PolicyLearner(improvement, model, network, EXPLORATION, TASK,
                         **{'seed': 0, **changes})


# ---- many transitions at once ----

@st.composite
def histories(draw: Any) -> tuple[list[Transition], list[int], int]:
    """Transitions of short episodes, where they are cut into parts, and a capacity."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 60))
    starts = draw(st.sets(st.integers(0, count - 1)))
    found, episode, step = [], 0, draw(st.integers(0, 3))
    for number in range(count):
        if number in starts:
            episode, step = episode + 1, 0
        observation, following = rng.normal(size=(2, 5)).astype(np.float32)
        following[3:] = observation[3:]
        requested, applied = rng.normal(size=(2, 2)).astype(np.float32)
        found.append(Transition(
            number, episode, step, observation, requested, applied, following,
            float(rng.normal()), bool(rng.integers(2)), bool(rng.integers(2)),
            Version(int(rng.integers(3)), int(rng.integers(2**40))),
            float(np.float32(rng.choice([rng.normal(), np.nan])))))
        step += 1
    cuts = sorted(draw(st.sets(st.integers(1, count), max_size=4)) | {count})
    return found, cuts, draw(st.integers(1, 70))


@settings(max_examples=150, deadline=None)
@given(histories())
def test_columns_are_kept_to_the_bit_as_transitions_are(
        history: tuple[list[Transition], list[int], int]) -> None:
    transitions, cuts, capacity = history
    one, other = (TransitionBuffer(capacity, 3, 2, 2) for _ in range(2))
    begin = 0
    for part, end in enumerate(cuts):
        one.append(transitions[begin:end])
        if part % 2 and len(cuts) > 2:      # both ways in turn
            other.append(transitions[begin:end])
        else:
            other.append_columns(columns_of(transitions[begin:end], Source.POLICY))
        begin = end
    assert len(one) == len(other) and one.next_number == other.next_number
    first, kept = one.next_number - len(one), len(one)
    for name, mine, theirs in zip(Block._fields, *(each._tables.block(first, kept)
                                                   for each in (one, other)), strict=True):
        assert mine.tobytes() == theirs.tobytes(), name
    assert one.digest() == other.digest()
    assert torch.equal(one.initial_rows, other.initial_rows)
    assert torch.equal(one.states, other.states)


def test_a_buffer_grows_with_columns_as_with_transitions() -> None:
    many = mediocre(150)
    buffer = TransitionBuffer(10_000, 2, 1, 0)
    buffer.append_columns(many[:700])
    buffer.append_columns(many[700:])
    np.testing.assert_array_equal(buffer.states, many.observation)
    np.testing.assert_array_equal(buffer.next_states, many.next_observation)
    assert buffer.initial_rows.tolist() == list(range(0, 4500, STEPS))
    assert buffer.ended(torch.arange(len(buffer))).tolist() == many.truncated.tolist()


def test_columns_of_another_task_are_refused_before_anything_is_kept() -> None:
    buffer = TransitionBuffer(100, 3, 1, 0)
    with pytest.raises(ValueError, match=r'observation of 1200 transitions has shape \(1200, 2\), '
                                         r'not \(1200, 3\): they are of another task or robot'):
        buffer.append_columns(DATA)
    assert len(buffer) == 0
    with pytest.raises(ValueError, match='action_requested'):
        TransitionBuffer(100, 2, 2, 0).append_columns(DATA)


def test_more_than_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, 'MOST_TRANSITIONS', 1500)
    assert len(offline_buffer(TASK, [DATA[:700], DATA[700:]])) == 1200
    with pytest.raises(ValueError, match='more than 1500 transitions'):
        offline_buffer(TASK, [DATA, DATA])


def test_data_that_are_not_finite_are_refused_with_the_place() -> None:
    for name, column in (('observation', DATA.observation), ('reward', DATA.reward)):
        damaged = column.copy()
        damaged[1003] = np.nan
        data = dataclasses.replace(DATA, **{name: damaged})
        with pytest.raises(ValueError, match=f'transition 1003: {name} is not finite'):
            offline_buffer(TASK, [data[:700], data[700:]])


# ---- drawn beside the robot's ----

def experience_of(offline: int, robot: int) -> Experience:
    """Rewards say where a transition is from and which one it is: -1 - row offline, else row."""
    def buffer(count: int, sign: float) -> TransitionBuffer:
        found = TransitionBuffer(5000, 2, 1, 0)
        if count:
            data = DATA[np.arange(count) % len(DATA)]
            row = np.arange(count, dtype=float)
            found.append_columns(dataclasses.replace(
                data, reward=row if sign > 0 else -1.0 - row))
        return found

    experience = Experience(buffer(robot, 1.0), Generators.on(CPU, 1))
    experience.offline = buffer(offline, -1.0)
    return experience


@pytest.mark.parametrize('share', [0.0, 0.25, 0.5, 1.0])
def test_a_fixed_share_of_a_batch_is_from_the_offline_data(share: float) -> None:
    experience = experience_of(300, 40)
    for _ in range(5):
        reward = experience.draw(128, share).reward
        assert int((reward < 0).sum()) == round(share * 128)
    drawn = torch.cat([experience.draw(2000, 0.5).reward for _ in range(3)])
    assert set(drawn.tolist()) == {*range(40), *(-1.0 - row for row in range(300))}


def test_evenly_drawn_batches_show_no_preference() -> None:
    experience = experience_of(300, 100)
    drawn = torch.cat([experience.draw(1000, -1.0).reward for _ in range(40)])
    counts = np.unique(drawn.numpy(), return_counts=True)[1]
    assert len(counts) == 400
    # 40,000 draws of 400: the sum of squared deviations is one of chi square, 399 +- 28.
    assert ((counts - 100.0) ** 2 / 100.0).sum() < 399 + 5 * 28.3
    assert float((drawn < 0).float().mean()) == pytest.approx(0.75, abs=0.015)


@pytest.mark.parametrize(('offline', 'robot'), [(50, 0), (0, 50)])
def test_where_there_is_one_kind_a_batch_is_of_it(offline: int, robot: int) -> None:
    for share in (-1.0, 0.0, 0.5, 1.0):
        reward = experience_of(offline, robot).draw(64, share).reward
        assert len(reward) == 64 and ((reward < 0) == bool(offline)).all()


# ---- pre-training ----

def pretraining_of(learner: PolicyLearner, folder: Path,
                   offline: OfflineData | None = None) -> Pretraining:
    """Of an algorithm without a model."""
    return Pretraining(offline or offline_data(), learner, folder=lambda _name: folder)


@pytest.mark.parametrize(('improvement', 'network', 'updates'), [
    pytest.param(AWAC, GAUSSIAN, 600, id='awac'),
    pytest.param(dataclasses.replace(AWAC, weighting='exponential', state_value='sample',
                                     greatest_weight=20.0), GAUSSIAN, 600,
                 id='awac, exponential'),
    pytest.param(SAC, SQUASHED, 600, id='sac')])
def test_offline_it_becomes_better_than_the_data(improvement: Any, network: PolicyNetworkConfig,
                                                 updates: int, tmp_path: Path) -> None:
    learner = make(improvement, network)
    reports = list(pretraining_of(learner, tmp_path, offline_data([DATA[:500], DATA[500:]])).run(
        updates, interval=updates // 2))
    assert [each.updates for each in reports] == [updates // 2, updates]
    data = float(DATA.reward.mean())
    found = point_mass.mean_return(TASK, network, learner.snapshot())
    assert data < 0.85 and found > 0.9, (data, found)
    assert reports[-1].metrics['offline_updates'] == updates
    assert reports[-1].metrics['offline_transitions'] == 1200
    assert (learner.next_transition, learner.updates, learner.epochs) == (0, 0, 0.0)


def pretrained(folder: Path, updates: int = 40) -> None:
    for _ in pretraining_of(make(), folder).run(updates):
        pass


@pytest.mark.parametrize('mixed', [True, False], ids=['offline data go on', 'robot alone'])
def test_online_it_goes_on_from_the_checkpoint(mixed: bool, tmp_path: Path) -> None:
    pretrained(tmp_path)
    learner = make(dataclasses.replace(AWAC, max_updates_per_transition=0.1), incarnation=2)
    if mixed:
        learner.use_offline(offline_data().buffer, offline_data().digest)
    assert learner.restore(tmp_path) == 0
    before = learner.snapshot()
    assert (before.trained_on_transitions, before.updates, learner.offline_updates) == (0, 0, 40)
    assert not learner.step(), 'nothing has come from the robot yet'
    robot = Robot(TASK, GAUSSIAN)
    robot.act_by(before)
    for _ in range(5):
        learner.take(robot.episode())
    # 150 transitions allow 15 updates; neither offline data nor what was learned of them count.
    assert sum(learner.step() for _ in range(30)) == 15
    after = learner.snapshot()
    assert (after.trained_on_transitions, after.updates) == (150, 15)
    metrics = learner.metrics()
    assert (metrics['offline_updates'], metrics['offline_transitions']) == (40.0, 1200.0)
    changed = {name for name, value in after.tensors.items()
               if not np.array_equal(value, before.tensors[name])}
    assert 'layer0.weight' in changed
    # The policy was learned with these statistics: data of the robot leave them.
    assert not changed & {'state_mean', 'state_std'}
    np.testing.assert_allclose(before.tensors['state_mean'], DATA.observation.mean(0), atol=1e-6)


def test_it_resumes_to_the_bit_offline_and_online(tmp_path: Path) -> None:
    offline = offline_data()
    for folder, interval in (('whole', 30), ('killed', 10)):
        for report in pretraining_of(make(), tmp_path / folder, offline).run(
                30, interval=interval):
            if report.updates == 10:
                break
    for _ in pretraining_of(make(seed=5), tmp_path / 'killed', offline).run(30):
        pass
    assert recorded_hash(tmp_path / 'whole') == recorded_hash(tmp_path / 'killed') != ''

    robot = Robot(TASK, GAUSSIAN)
    robot.act_by(make().snapshot())
    episodes = [robot.episode() for _ in range(6)]
    lived = make(dataclasses.replace(AWAC, offline_share=0.5))
    lived.use_offline(offline.buffer, offline.digest)
    lived.restore(tmp_path / 'whole')
    for episode in episodes[:3]:
        lived.take(episode)
    for _ in range(5):
        assert lived.step()
    lived.save(tmp_path / 'online')
    resumed = make(dataclasses.replace(AWAC, offline_share=0.5), seed=9)
    resumed.use_offline(offline.buffer, offline.digest)
    assert resumed.restore(tmp_path / 'online') == 90
    for learner, folder in ((lived, 'one'), (resumed, 'other')):
        for episode in episodes[3:]:
            learner.take(episode)
        for _ in range(5):
            assert learner.step()
        learner.save(tmp_path / folder)
    assert recorded_hash(tmp_path / 'one') == recorded_hash(tmp_path / 'other')


def test_an_algorithm_that_learns_from_its_own_actions_alone_refuses_it(tmp_path: Path) -> None:
    learner = make(PpoConfig(), dataclasses.replace(GAUSSIAN, squash='clip'))
    with pytest.raises(ConfigError, match='dataset: Ppo learns only from'):
        pretraining_of(learner, tmp_path)


def test_what_cannot_be_pretrained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='1 transitions; expected 2 at least'):
        make().use_offline(offline_buffer(TASK, [DATA[:1]]))
    with pytest.raises(RuntimeError, match='no offline data'):
        make().learn_offline()
    pretrained(tmp_path, 1)
    other = make(dataclasses.replace(AWAC, critic_hidden=(16,)))
    with pytest.raises(CheckpointError, match='critic_hidden is'):
        pretraining_of(other, tmp_path)
    with pytest.raises(CheckpointError, match='of content content, not others'):
        pretraining_of(make(), tmp_path, OfflineData(offline_data().buffer, 'others'))
    online, robot = make(), Robot(TASK, GAUSSIAN)
    online.use_offline(offline_data().buffer, 'content')
    robot.act_by(online.snapshot())
    online.take(robot.episode())
    online.save(tmp_path)
    online.close()
    assert list(pretraining_of(make(), tmp_path).run(1000)) == []
