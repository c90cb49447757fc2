"""Model-based learning from offline data: first the ensemble, then the policy inside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
import torch

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.control.policy import NumpyPolicy, PolicyParameters
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, Version
from async_mbrl.core.transition import Transition
from async_mbrl.datasets.columns import Source, columns_of
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.dynamics import Dynamics
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.pretraining import OfflineData, Pretraining, offline_buffer
from async_mbrl.learning.recorded import recorded_count, recorded_hash
from async_mbrl.learning.settings import (
    MbMpoConfig,
    MbpoConfig,
    MePpoConfig,
    MeTrpoConfig,
    PetsConfig,
    SvgConfig,
)
from async_mbrl.learning.split import ValidationSplit

TASK = learning_rig.make_task()
MODEL = ModelConfig(members=2, hidden=(32, 32), batch=32, learning_rate=3e-3, product='batched')
STOPPING = dataclasses.replace(MODEL, early_stopping=True, persistence=0.5)
CLIP = PolicyNetworkConfig((32, 32), 'tanh', 'clip')
TANH = PolicyNetworkConfig((32, 32), 'silu', 'tanh')
SQUASHED = PolicyNetworkConfig((32, 32), 'silu', 'tanh', 'state_dependent')
PPO = MePpoConfig(rollouts=60, horizon=15, value_hidden=(32,), value_learning_rate=3e-3)


def transitions_of(episodes: int, seed: int = 0) -> list[Transition]:
    """Random actions on the two-joint arm."""
    return learning_rig.Plant(TASK, seed=seed).explore(episodes)


def offline_of(episodes: int = 12, seed: int = 8) -> OfflineData:
    """The same as if they had been read from a dataset."""
    columns = columns_of(transitions_of(episodes, seed), Source.SCRIPT)
    return OfflineData(offline_buffer(TASK, [columns]), f'{episodes} of {seed}')


OFFLINE = offline_of()


def model_learner(config: ModelConfig = MODEL, offline: OfflineData | None = OFFLINE,
                  **changes: Any) -> ModelLearner:
    learner = ModelLearner(config, TASK, **{'seed': 0, **changes})
    if offline is not None:
        learner.use_offline(offline.buffer, offline.digest)
    return learner


def policy_learner(improvement: Any = PPO, network: PolicyNetworkConfig = CLIP,
                   model: ModelConfig = MODEL, **changes: Any) -> PolicyLearner:
    return PolicyLearner(improvement, model, network, ExplorationConfig(), TASK,
                         **{'seed': 1, **changes})


def marked(count: int, sign: float) -> TransitionBuffer:
    """Transitions of which the sign of the reward says whose they are."""
    rows = transitions_of(-(-count // 15), seed=int(sign) % 7)[:count]
    buffer = TransitionBuffer(1000, TASK.state_size, TASK.action_size, TASK.goal_size)
    buffer.append([dataclasses.replace(item, reward=sign * (item.number + 1)) for item in rows])
    return buffer


# ---- both kinds as one table ----

def test_rows_of_a_pool_are_offline_first_and_stay_in_their_order() -> None:
    offline, own = marked(20, -1.0), marked(31, 1.0)
    pool = Pool(own, offline)
    assert (len(pool), pool.received, pool.offline_rows) == (51, 51, 20)
    rows = torch.tensor([[50, 0, 20], [19, 21, 5]])
    found = pool.batch(rows)
    assert [part.shape for part in found] == [
        (2, 3, TASK.state_size), (2, 3, TASK.action_size), (2, 3, TASK.state_size)]
    for place, (where, row) in enumerate(((own, 30), (offline, 0), (own, 0), (offline, 19),
                                          (own, 1), (offline, 5))):
        for part, expected in zip(found, (where.states, where.actions, where.next_states),
                                  strict=True):
            assert torch.equal(part.flatten(0, 1)[place], expected[row])
    assert pool.initial_rows.tolist() == [0, 15, 20, 35, 50]
    empty = TransitionBuffer(100, TASK.state_size, TASK.action_size, TASK.goal_size)
    assert torch.equal(Pool(empty, offline).batch(rows % 20)[0], offline.batch(rows % 20)[0])


def test_members_draw_offline_rows_in_proportion_and_judge_by_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    split = ValidationSplit(3, 100, share=0.3)
    split.append(0, 40, generator)
    drawn = split.draw(3000, generator, offline=60)
    validation, weights = split.validation_rows()
    for member in range(3):
        kept = set(validation[member][weights[member] > 0].tolist())
        training = set(range(40)) - kept
        assert set(drawn[member].tolist()) == {*range(60), *(60 + row for row in training)}
        share = float((drawn[member] < 60).float().mean())
        assert share == pytest.approx(60 / (60 + len(training)), abs=0.03)
    nothing = ValidationSplit(3, 100, share=0.3)
    assert int(nothing.draw(500, generator, offline=7).max()) == 6


def test_without_offline_data_the_numbers_drawn_are_those_of_the_run_alone() -> None:
    learner = model_learner(offline=None)
    learner.take(transitions_of(3))
    expected = torch.Generator()
    expected.set_state(learner._generators.rows.get_state())
    assert learner.step()
    for _ in range(MODEL.updates_per_step):
        torch.randint(45, (MODEL.members, MODEL.batch), generator=expected)
    assert torch.equal(learner._generators.rows.get_state(), expected.get_state())

    split = ValidationSplit(2, 100, share=0.3)
    split.append(0, 45, torch.Generator().manual_seed(0))
    place = torch.rand(2, 50, generator=torch.Generator().manual_seed(3))
    training = [(~row).nonzero()[:, 0] for row in split._validation]
    for member, row in enumerate(split.draw(50, torch.Generator().manual_seed(3))):
        at = (place[member] * len(training[member])).long()
        assert torch.equal(row, training[member][at])


# ---- the model ----

def held_out_error(learner: ModelLearner) -> float:
    """Error of the model that would be handed out, on episodes that nobody has learned from."""
    rows = transitions_of(6, seed=99)
    state, action, following = (torch.from_numpy(np.stack(column)).expand(2, -1, -1) for column in (
        [item.observation[:TASK.state_size] for item in rows],
        [item.action_applied for item in rows],
        [item.next_observation[:TASK.state_size] for item in rows]))
    predicted = learner.average.predict(state, action)
    return float((predicted - following).square().mean())


@pytest.mark.parametrize('config', [MODEL, STOPPING], ids=['continuous', 'early stopping'])
def test_a_pretrained_model_predicts_at_once_and_goes_on_with_the_robot(
        config: ModelConfig) -> None:
    untrained, learner = model_learner(config), model_learner(config)
    assert not learner.ready
    for _ in range(300):
        learner.learn_offline()
    assert held_out_error(learner) < 0.05 * held_out_error(untrained)
    assert learner.ready and not learner.step()
    assert (learner.updates, learner.epochs, learner.next_transition) == (0, 0.0, 0)
    assert learner.snapshot().trained_on_transitions == 0
    before = held_out_error(learner)
    episode = transitions_of(1)
    for transition in episode:          # also where no member has anything to be judged by yet
        learner.take([transition])
        assert learner.step() or config.early_stopping
    assert learner.updates > 0
    # How it predicted the first episode is told, though nothing of the run was learned before.
    assert learner.metrics()['validation_loss'] < 0.1
    assert learner.metrics()['offline_updates'] == 300
    assert learner.metrics()['offline_transitions'] == 180
    assert held_out_error(learner) < 2.0 * before


def test_no_member_is_judged_by_a_few_transitions_of_the_robot() -> None:
    learner = model_learner(STOPPING)
    learner.learn_offline()
    learner.take(transitions_of(2)[:STOPPING.minimum_transitions - 1])
    learner._split._validation[1] = False
    for _ in range(100):
        assert learner.step()
    assert learner._stopping.active.all() and 'holdout_loss' not in learner.metrics()
    learner.take(transitions_of(2)[STOPPING.minimum_transitions - 1:])
    learner._split._validation[1] = False       # enough data, but the second member has none
    for _ in range(100):
        assert learner.step()
    assert learner._stopping.active.all()


def test_what_the_run_does_is_counted_by_what_the_robot_did() -> None:
    learner = model_learner(dataclasses.replace(MODEL, minimum_transitions=50,
                                                max_updates_per_transition=2.0))
    learner.learn_offline()
    learner.take(transitions_of(1)[:4])
    assert learner.step() and not learner.step()    # 184 are more than 50, 4 are for 8 updates
    assert learner.updates == 8 and learner.epochs == pytest.approx(8 / -(-184 // 32))
    few = model_learner(dataclasses.replace(MODEL, minimum_transitions=50), offline_of(2))
    few.take(transitions_of(2)[:19])
    assert not few.step()
    few.take(transitions_of(2)[19:20])
    assert few.step()


def test_changes_stay_normalised_as_offline_and_the_range_grows(tmp_path: Path) -> None:
    learner = model_learner()
    learner.learn_offline()
    scale, upper = learner.dynamics.velocity_scale.clone(), learner.dynamics.state_upper.clone()
    far = [dataclasses.replace(item, next_observation=item.next_observation + np.float32(9.0))
           for item in transitions_of(3)]
    learner.take(far[:20])
    learner.save(tmp_path)
    learner.close()
    # Resumed without them it stays so, too.
    resumed = model_learner(offline=None, seed=5)
    resumed.restore(tmp_path)
    for each in (learner, resumed):
        if each is resumed:
            each.take(far[20:])
        assert torch.equal(scale, each.dynamics.velocity_scale)
        assert bool((each.dynamics.state_upper >= upper).all())
        assert float(each.dynamics.state_upper.max()) > 9.0
        assert torch.equal(each.dynamics.state_upper, each.average.state_upper)


def test_early_stopping_goes_on_with_offline_data() -> None:
    learner = model_learner(dataclasses.replace(STOPPING, persistence=0.1), offline_of(3))
    for _ in range(50):
        learner.learn_offline()
    learner.take(transitions_of(4))
    steps = 0
    while learner.step():
        steps += 1
        assert steps < 5000
    assert learner.metrics()['active_members'] == 0.0
    assert learner.epochs == pytest.approx(learner.updates / -(-(45 + 48) // 32), rel=0.2)
    learner.take(transitions_of(5)[60:])
    assert learner.step()


# ---- the policy in it ----

def pretraining(policy: PolicyLearner, model: ModelLearner, folder: Path | None = None,
                offline: OfflineData = OFFLINE) -> Pretraining:
    return Pretraining(offline, policy, model,
                       None if folder is None else RunFolder(folder).learner)


def mean_reward(snapshot: Snapshot, network: PolicyNetworkConfig) -> float:
    """Mean reward of a step of real episodes that the policy's mean acts in."""
    policy = NumpyPolicy(TASK, network)
    policy.use(PolicyParameters.from_snapshot(snapshot))
    plant = learning_rig.Plant(TASK, seed=5)
    return float(np.mean([item.reward for _ in range(10) for item in plant.run(policy.mean)]))


def test_me_ppo_is_better_before_its_first_transition_than_untrained(tmp_path: Path) -> None:
    policy, model = policy_learner(), model_learner(offline=None)
    untrained = policy.snapshot()
    reports = list(pretraining(policy, model, tmp_path).run(60, 300))
    assert [each.learner for each in reports] == ['model_learner'] * 10 + ['policy_learner'] * 10
    assert [each.updates for each in reports[9:11]] == [300, 6]
    assert all(each.wanted == (300 if each.learner == 'model_learner' else 60) for each in reports)
    learned = policy.snapshot()
    # Nothing is paid for effort or speed where the arm stands still: that is hard to beat by luck.
    assert mean_reward(learned, CLIP) > mean_reward(untrained, CLIP) + 0.1
    assert (policy.next_transition, policy.updates, policy.epochs) == (0, 0, 0.0)
    assert (learned.trained_on_transitions, learned.updates) == (0, 0)
    assert learned.model_version == Version(0, 300)
    # The noise is that of a policy that has learned, and the states are normalised as offline.
    assert untrained.exploration_std == 1.0 and learned.exploration_std < 0.26
    np.testing.assert_allclose(learned.tensors['state_mean'], OFFLINE.buffer.states.mean(0),
                               atol=1e-6)
    policy.take(transitions_of(3))
    np.testing.assert_array_equal(policy.snapshot().tensors['state_mean'],
                                  learned.tensors['state_mean'])
    # What a node hands out is newer than what was handed over here.
    policy.take_snapshot(ModelLearner(MODEL, TASK, seed=0).snapshot())
    assert policy.model_version == Version(1, 0) and policy.step()


@pytest.mark.parametrize(('improvement', 'network'), [
    pytest.param(MeTrpoConfig(rollouts=20, horizon=5, value_hidden=(8,)), CLIP, id='me_trpo'),
    pytest.param(MbMpoConfig(tasks=2, rollouts=10, horizon=5), CLIP, id='mb_mpo'),
    pytest.param(SvgConfig(rollouts=20, horizon=5, value_hidden=(8,)), TANH, id='svg'),
    pytest.param(MbpoConfig(batch=64, rollouts=40, rollout_interval=2, critic_hidden=(8,),
                            imagined_capacity=500), SQUASHED, id='mbpo')])
def test_every_algorithm_that_imagines_learns_offline_and_goes_on(
        improvement: Any, network: PolicyNetworkConfig) -> None:
    policy, model = policy_learner(improvement, network), model_learner(offline=None)
    before = policy.snapshot()
    for _ in pretraining(policy, model).run(3, 20):
        pass
    after = policy.snapshot()
    assert policy.offline_updates == 3
    assert not np.array_equal(before.tensors['layer0.weight'], after.tensors['layer0.weight'])
    policy.take(transitions_of(4))
    for _ in range(200):
        assert policy.step()
        if policy.updates == 2:
            break
    assert policy.updates == 2 and all(np.isfinite(each) for each in policy.metrics().values())


def test_mbpo_draws_its_real_share_and_its_branches_from_both(
        monkeypatch: pytest.MonkeyPatch) -> None:
    improvement = MbpoConfig(batch=400, real_share=0.5, rollouts=400, critic_hidden=(8,),
                             length_grows_from=100, length_grows_to=300, last_length=3)
    policy, model = policy_learner(improvement, SQUASHED), model_learner(offline=None)
    for _ in pretraining(policy, model, offline=OfflineData(marked(180, -1.0), 'marked')).run(1, 5):
        pass
    policy.take([dataclasses.replace(item, reward=1.0) for item in transitions_of(4)])
    offline_starts: list[torch.Tensor] = []
    offline_rewards: list[torch.Tensor] = []

    def batch(pool: Pool, rows: torch.Tensor) -> Any:
        offline_starts.append(rows.reshape(-1) < pool.offline_rows)
        return taken(pool, rows)

    def draw(experience: Experience, *asked: Any) -> Any:
        samples = drawn(experience, *asked)
        offline_rewards.append(samples.reward < 0)
        return samples

    taken, drawn = Pool.batch, Experience.draw
    monkeypatch.setattr(Pool, 'batch', batch)
    monkeypatch.setattr(Experience, 'draw', draw)
    policy.algorithm.since_rollouts.fill_(1000)         # now rollouts are due
    assert policy.step()
    for found, count in ((offline_starts, 400), (offline_rewards, 200)):
        assert len(found) == 1 and len(found[0]) == count
        assert float(found[0].float().mean()) == pytest.approx(0.75, abs=0.1)
    # 180 offline and 60 of the robot: so many are behind the model.
    assert improvement.length(240) == 2
    assert len(policy.algorithm.imagined) >= 400 * 2


def test_mbpo_may_learn_from_what_is_imagined_alone() -> None:
    improvement = MbpoConfig(batch=16, real_share=0.0, rollouts=20, critic_hidden=(8,))
    policy = policy_learner(improvement, SQUASHED)
    for _ in pretraining(policy, model_learner(offline=None)).run(2, 5):
        pass
    assert policy.offline_updates == 2
    policy.take(transitions_of(4))
    assert policy.step()


def test_imagined_rollouts_start_where_episodes_of_both_did() -> None:
    class Still:
        members = 2

        def parameters(self) -> Any:
            return iter(())

    offline, own = marked(30, -1.0), marked(15, 1.0)
    imagination = Imagination(
        Still(), TASK, Pool(own, offline),  # type: ignore[arg-type]
        Generators.on(CPU, 0), np.random.default_rng(0))
    found = {tuple(state.tolist()) for state in
             imagination.start(100, initial_share=1.0)[..., :TASK.state_size].flatten(0, 1)}
    wanted = [offline.states[0], offline.states[15], own.states[0]]
    assert found == {tuple(state.tolist()) for state in wanted}


def test_pets_learns_the_model_and_leaves_the_policy_alone() -> None:
    policy, model = policy_learner(PetsConfig(), TANH), model_learner(offline=None)
    before = policy.snapshot()
    reports = list(pretraining(policy, model).run(PetsConfig().offline_updates, 20))
    assert {each.learner for each in reports} == {'model_learner'}
    assert model.ready and model.offline_updates == 20
    after = policy.snapshot()
    np.testing.assert_array_equal(before.tensors['layer0.weight'], after.tensors['layer0.weight'])
    assert after.exploration_std == 1.0     # it knows nothing yet
    with pytest.raises(ConfigError, match='offline_updates: 5 is above the maximum 0'):
        compose(RunRequest(algorithm='pets', set=('improvement.offline_updates=5',)),
                share_folder(), Path('/run'))


def test_there_must_be_a_model_to_improve_a_policy_in() -> None:
    policy = policy_learner()
    policy.use_offline(OFFLINE.buffer)
    with pytest.raises(RuntimeError, match='no model to imagine in'):
        policy.learn_offline()
    with pytest.raises(RuntimeError, match='no offline data'):
        model_learner(offline=None).learn_offline()
    with pytest.raises(ConfigError, match='1 transitions; expected 2 at least'):
        model_learner(offline=None).use_offline(marked(1, 1.0))
    with pytest.raises(ConfigError, match='offline_updates: 200, but model.offline_updates is 0'):
        compose(RunRequest(algorithm='me_ppo', dataset='x', set=('model.offline_updates=0',)),
                share_folder(), Path('/run'))
    compose(RunRequest(algorithm='me_ppo', dataset='x', set=(
        'model.offline_updates=0', 'improvement.offline_updates=0')), share_folder(), Path('/run'))


# ---- interrupted ----

@pytest.mark.parametrize('killed_after', [1, 2, 4], ids=['model', 'end of model', 'policy'])
def test_it_resumes_to_the_bit(killed_after: int, tmp_path: Path) -> None:
    small = MePpoConfig(rollouts=10, horizon=5, value_hidden=(8,))

    def run(folder: Path, seed: int, stop: int | None = None) -> None:
        training = pretraining(policy_learner(small, seed=seed + 1),
                               model_learner(offline=None, seed=seed), folder)
        for number, _ in enumerate(training.run(12, 20, interval=10), 1):
            if number == stop:
                break
        training.close()

    run(tmp_path / 'whole', 0)
    run(tmp_path / 'killed', 0, killed_after)
    run(tmp_path / 'killed', 0 if killed_after < 3 else 7)
    for name in ('model_learner', 'policy_learner'):
        whole, killed = (RunFolder(tmp_path / each).learner(name) for each in ('whole', 'killed'))
        assert recorded_hash(whole) == recorded_hash(killed) != ''
        assert recorded_count(whole, 'offline_updates') == (20 if name == 'model_learner' else 12)
    with pytest.raises(CheckpointError, match='was learned from a dataset of content'):
        pretraining(policy_learner(small), model_learner(offline=None), tmp_path / 'whole',
                    offline_of(11))


def test_what_came_from_a_robot_is_left_alone(tmp_path: Path) -> None:
    policy, model = policy_learner(), model_learner(offline=None)
    training = pretraining(policy, model, tmp_path)
    assert len(list(training.run(2, 5, interval=10))) == 2
    model.take(transitions_of(2))
    assert model.step()
    model.save(RunFolder(tmp_path).learner('model_learner'))
    training.close()
    again = pretraining(policy_learner(), model_learner(offline=None), tmp_path)
    reports = list(again.run(4, 50, interval=10))       # more are wanted now
    assert [(each.learner, each.updates) for each in reports] == [('policy_learner', 4)]
    again.close()


def test_online_both_go_on_to_the_bit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    training = pretraining(policy_learner(), model_learner(offline=None), tmp_path)
    for _ in training.run(2, 20):
        pass
    training.close()

    def resumed(seed: int) -> tuple[ModelLearner, PolicyLearner]:
        model, policy = model_learner(seed=seed, incarnation=2), policy_learner(seed=seed + 1)
        policy.use_offline(OFFLINE.buffer, OFFLINE.digest)
        return model, policy

    lived = resumed(0)
    for name, learner in zip(('model_learner', 'policy_learner'), lived, strict=True):
        assert learner.restore(folder.learner(name)) == 0
        learner.take(transitions_of(3))
        while learner.updates < 2:
            assert learner.step()
        learner.save(folder.learner(name))
        learner.close()
    assert lived[1].model_version == Version(0, 20) != NO_VERSION
    others = resumed(7)
    for name, learner in zip(('model_learner', 'policy_learner'), others, strict=True):
        assert learner.restore(folder.learner(name)) == 45
        assert learner.offline_updates == (20 if name == 'model_learner' else 2)
    for one, other in zip(lived, others, strict=True):
        for learner in (one, other):
            begun = learner.updates
            while learner.updates < begun + 2:
                assert learner.step()
        for name, value in one.snapshot().tensors.items():
            np.testing.assert_array_equal(value, other.snapshot().tensors[name], err_msg=name)


def test_the_dynamics_of_the_policy_are_those_handed_over(tmp_path: Path) -> None:
    policy, model = policy_learner(), model_learner(offline=None)
    for _ in pretraining(policy, model, tmp_path).run(1, 10):
        pass
    dynamics: Dynamics | None = policy._dynamics
    assert dynamics is not None
    for name, value in model.average.state_dict().items():
        assert torch.equal(value, dynamics.state_dict()[name]), name
