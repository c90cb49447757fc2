"""Policy improvement: it improves, it is the same in numpy, it can be repeated and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
import torch

from async_mbrl.control.policy import NumpyPolicy, PolicyParameters
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy import Policy
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.settings import MePpoConfig, SvgConfig
from async_mbrl.learning.value import lambda_returns

TASK = learning_rig.make_task()
MODEL = ModelConfig(members=3, hidden=(32, 32), batch=32)
PPO = MePpoConfig(rollouts=60, horizon=15, value_hidden=(32,), value_learning_rate=3e-3)
SVG = SvgConfig(rollouts=30, horizon=10, value_hidden=(32,), policy_learning_rate=3e-3)
CLIP = PolicyNetworkConfig((32, 32), 'tanh', 'clip')
TANH = PolicyNetworkConfig((32, 32), 'silu', 'tanh')


def make(improvement: Any, network: PolicyNetworkConfig = CLIP, **changes: Any) -> PolicyLearner:
    return PolicyLearner(improvement, MODEL, network, ExplorationConfig(), TASK,
                         **{'seed': 0, **changes})


@pytest.fixture(scope='module')
def learned() -> tuple[list[Any], Snapshot]:
    """Transitions of random actions and a model of them."""
    transitions = learning_rig.Plant(TASK).explore(12)
    model = ModelLearner(MODEL, TASK, seed=0)
    model.take(transitions)
    for _ in range(100):
        model.step()
    return transitions, model.snapshot()


def final_distance(snapshot: Snapshot, network: PolicyNetworkConfig) -> float:
    """Mean distance at the end of real episodes that the policy's mean acts in, m."""
    policy = NumpyPolicy(TASK, network)
    policy.use(PolicyParameters.from_snapshot(snapshot))
    plant = learning_rig.Plant(TASK, seed=5)
    ends = [plant.run(policy.mean)[-1].next_observation for _ in range(10)]
    return float(np.mean([TASK.distance(end[TASK.tool], end[TASK.goal]) for end in ends]))


@pytest.mark.parametrize(('improvement', 'network', 'updates'), [
    pytest.param(PPO, CLIP, 60, id='me_ppo'), pytest.param(SVG, TANH, 150, id='svg')])
def test_policy_improves_on_the_real_plant(learned: Any, improvement: Any, network: Any,
                                           updates: int) -> None:
    transitions, model = learned
    learner = make(improvement, network)
    assert not learner.step()
    before = learner.snapshot()
    assert final_distance(before, network) > 0.1
    learner.take(transitions)
    assert not learner.step()     # no model yet
    learner.take_snapshot(model)
    for _ in range(updates):
        assert learner.step()
    after = learner.snapshot()
    assert final_distance(after, network) < 0.05
    assert after.version == Version(1, 1)
    assert after.model_version == model.version
    assert after.trained_on_transitions == len(transitions)
    assert all(np.isfinite(value) for value in learner.metrics().values())


def test_first_snapshot_explores_and_nothing_else() -> None:
    snapshot = make(PPO).snapshot()
    assert snapshot.exploration_std == 1.0
    policy = NumpyPolicy(TASK, CLIP)
    policy.use(PolicyParameters.from_snapshot(snapshots.decode(snapshots.encode(snapshot))))
    np.testing.assert_array_equal(policy.mean(learning_rig.Plant(TASK).start()), 0.0)


@pytest.mark.parametrize('activation', ['tanh', 'silu', 'relu'])
@pytest.mark.parametrize('squash', ['clip', 'tanh', 'tanh_mean'])
def test_numpy_and_torch_policies_agree(activation: str, squash: str) -> None:
    network = PolicyNetworkConfig((16, 12), activation, squash)
    rng = np.random.default_rng(0)
    policy = Policy(network, TASK, torch.Generator().manual_seed(0))
    policy.load_tensors({name: value + 0.3 * rng.normal(size=value.shape).astype(np.float32)
                         for name, value in policy.tensors().items()})
    policy.normalise(policy.state_mean, policy.state_std.abs() + 0.1)
    numpy_policy = NumpyPolicy(TASK, network)
    numpy_policy.use(PolicyParameters.from_snapshot(
        Snapshot('policy', Version(1, 0), policy.architecture, policy.tensors())))
    plant = learning_rig.Plant(TASK)
    observations = [t.observation for t in plant.explore(3)]
    with torch.inference_mode():
        expected = policy.mean(policy.features(torch.from_numpy(np.stack(observations))))
    found = np.stack([numpy_policy.mean(observation) for observation in observations])
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_lambda_returns_by_hand() -> None:
    rewards, values = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0])
    # R_1 = 2 + 0.5 * 30; R_0 = 1 + 0.5 (0.75 * 20 + 0.25 * R_1)
    expected = torch.tensor([1 + 0.5 * (0.75 * 20 + 0.25 * 17.0), 17.0])
    torch.testing.assert_close(lambda_returns(rewards, values, 0.5, 0.25), expected)


@pytest.mark.parametrize(('improvement', 'network'), [
    pytest.param(PPO, CLIP, id='me_ppo'), pytest.param(SVG, TANH, id='svg')])
def test_repeats_by_seed_and_continues_from_a_checkpoint(
        learned: Any, improvement: Any, network: Any, tmp_path: Path) -> None:
    transitions, model = learned
    learners = [make(improvement, network) for _ in range(2)]
    for learner in learners:
        learner.take(transitions)
        learner.take_snapshot(model)
        learner.step()
    learners[0].save(tmp_path)
    restored = make(improvement, network, seed=7, incarnation=2)
    assert restored.restore(tmp_path) == len(transitions)
    learners.append(restored)
    for learner in learners:
        learner.step()
    first, *others = (learner.snapshot() for learner in learners)
    for other in others:
        for name, value in first.tensors.items():
            np.testing.assert_array_equal(value, other.tensors[name], err_msg=name)
    assert others[1].version == Version(2, 0)
    assert others[1].updates == 2
    different = make(improvement, network, seed=8)
    different.take(transitions)
    different.take_snapshot(model)
    different.step()
    assert not np.array_equal(different.snapshot().tensors['layer2.weight'],
                              first.tensors['layer2.weight'])


def test_an_older_model_is_ignored(learned: Any) -> None:
    _, model = learned
    learner = make(PPO)
    newer = Snapshot('model', Version(2, 5), model.architecture, model.tensors)
    learner.take_snapshot(newer)
    learner.take_snapshot(model)
    assert learner.model_version == Version(2, 5)


def test_a_model_that_does_not_fit_is_refused_whole(learned: Any) -> None:
    _, model = learned
    learner = make(PPO)
    learner.take_snapshot(model)
    before = learner._dynamics.tensors()
    name = max(model.tensors, key=lambda name: model.tensors[name].size)
    other = {key: value + 1.0 for key, value in model.tensors.items()}
    for tensors in ({key: value for key, value in other.items() if key != name},
                    {**other, name: other[name][:1]}, {**other, 'more': other[name]}):
        with pytest.raises(SnapshotError, match='tensor .* has shape .*, expected'):
            learner.take_snapshot(Snapshot('model', Version(9, 0), model.architecture, tensors))
    assert learner.model_version == model.version
    for key, value in learner._dynamics.tensors().items():
        np.testing.assert_array_equal(value, before[key])


def test_me_ppo_demands_the_squash_that_it_trains_with() -> None:
    with pytest.raises(ConfigError, match="me_ppo .* expected 'clip', got 'tanh'"):
        make(PPO, TANH)
    make(SVG, CLIP)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    learner = make(PPO)
    learner.take(learning_rig.Plant(TASK).explore(1))
    learner.save(tmp_path)
    assert len(list(tmp_path.glob('checkpoint-*'))) == 1
    with pytest.raises(CheckpointError, match='belongs to something else: .*policy is'):
        make(PPO, PolicyNetworkConfig((8,), 'tanh', 'clip')).restore(tmp_path)
    with pytest.raises(CheckpointError, match='algorithm is'):
        make(SVG).restore(tmp_path)
    file = next(tmp_path.glob('checkpoint-*'))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match='damaged: its SHA-256'):
        make(PPO).restore(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match='cannot be read'):
        make(PPO).restore(tmp_path)
    (tmp_path / 'checkpoint.json').write_text('{"file": ')
    with pytest.raises(CheckpointError, match='is damaged'):
        make(PPO).restore(tmp_path)
    assert make(PPO).restore(tmp_path / 'empty') == 0


def test_incarnation_rises_with_each_start(tmp_path: Path) -> None:
    folder = tmp_path / 'policy_learner'
    assert [raise_incarnation(folder) for _ in range(3)] == [1, 2, 3]
    (folder / 'incarnation').write_text('x')
    with pytest.raises(CheckpointError, match='number of starts'):
        raise_incarnation(folder)
