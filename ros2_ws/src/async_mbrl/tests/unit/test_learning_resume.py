"""A learner that dies and is restored: the same by hash, and the same from there on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import learning_rig
import pytest

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.run import RunFolder
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.policy_server import PolicyServer
from async_mbrl.learning.recorded import recorded_hash
from async_mbrl.learning.settings import MbMpoConfig, MePpoConfig, MeTrpoConfig, SvgConfig

TASK = learning_rig.make_task()
MODEL = ModelConfig(members=2, hidden=(16, 16), batch=16)
NETWORK = PolicyNetworkConfig((16,), 'tanh', 'clip')


def model_learner(seed: int) -> ModelLearner:
    return ModelLearner(MODEL, TASK, seed=seed)


def stopping_model_learner(seed: int) -> ModelLearner:
    return ModelLearner(ModelConfig(members=2, hidden=(16, 16), batch=16, early_stopping=True),
                        TASK, seed=seed)


def policy_learner(improvement: Any) -> Callable[[int], PolicyLearner]:
    return lambda seed: PolicyLearner(improvement, MODEL, NETWORK, ExplorationConfig(), TASK,
                                      seed=seed)


@pytest.mark.parametrize('make', [
    pytest.param(model_learner, id='model'),
    pytest.param(stopping_model_learner, id='stopping model'),
    pytest.param(policy_learner(MePpoConfig(rollouts=10, horizon=5, value_hidden=(16,))),
                 id='me_ppo'),
    pytest.param(policy_learner(MeTrpoConfig(rollouts=10, horizon=5, value_hidden=(16,))),
                 id='me_trpo'),
    pytest.param(policy_learner(MeTrpoConfig(rollouts=10, horizon=5, baseline='linear')),
                 id='me_trpo, linear baseline'),
    pytest.param(policy_learner(MbMpoConfig(rollouts=5, horizon=5, tasks=4)), id='mb_mpo'),
    pytest.param(policy_learner(SvgConfig(rollouts=10, horizon=5, value_hidden=(16,))),
                 id='svg')])
def test_weights_optimiser_buffer_and_counters_are_the_same_by_hash(
        make: Callable[[int], Any], tmp_path: Path) -> None:
    plant = learning_rig.Plant(TASK)
    data, more = plant.explore(4), plant.explore(1)
    teacher = model_learner(0)
    teacher.take(data)
    teacher.step()
    model = teacher.snapshot()

    def learn(learner: Any, transitions: list[Any]) -> None:
        learner.take(transitions)
        learner.take_snapshot(model)
        for _ in range(3):
            assert learner.step()

    first = make(1)
    learn(first, data)
    first.save(tmp_path / 'killed')
    saved = recorded_hash(tmp_path / 'killed')
    restored = make(2)      # another process, which begins with other random numbers
    assert restored.restore(tmp_path / 'killed') == 60
    restored.save(tmp_path / 'again')
    assert recorded_hash(tmp_path / 'again') == saved != ''

    for learner, folder in ((first, 'lived'), (restored, 'resumed')):
        learn(learner, more)
        learner.save(tmp_path / folder)
    assert recorded_hash(tmp_path / 'lived') == recorded_hash(tmp_path / 'resumed') != saved


def test_a_restored_policy_acts_as_it_did_until_an_update(tmp_path: Path) -> None:
    plant = learning_rig.Plant(TASK)
    data = plant.explore(8)
    teacher = model_learner(0)
    teacher.take(data)
    teacher.step()
    make = policy_learner(MePpoConfig(rollouts=10, horizon=5, value_hidden=(16,)))
    first = make(1)
    first.restore(tmp_path)
    first.take(data[:60])
    first.take_snapshot(teacher.snapshot())
    assert first.step()
    while first._stages is not None:
        first.step()
    before = first.snapshot()
    first.save(tmp_path)
    first.take(data[60:])
    first.close()
    again = make(2)
    assert again.restore(tmp_path) == 120
    for name, value in again.snapshot().tensors.items():
        assert (before.tensors[name] == value).all(), name
    updates = again.updates
    while again.updates == updates:
        again.step()
    assert (again.algorithm.policy.state_mean == again.buffer.states.mean(0)).all()


def test_hash_of_no_checkpoint_is_empty(tmp_path: Path) -> None:
    assert recorded_hash(tmp_path) == ''


def test_policy_to_be_used_must_be_there_whole_and_fit(tmp_path: Path) -> None:
    learner = policy_learner(MePpoConfig(rollouts=10, horizon=5, value_hidden=(16,)))(0)
    path = RunFolder(tmp_path).policy
    with pytest.raises(ConfigError, match='policy_from: missing'):
        PolicyServer('', NETWORK, TASK, incarnation=1)
    with pytest.raises(ConfigError, match='cannot be read'):
        PolicyServer(str(tmp_path), NETWORK, TASK, incarnation=1)
    path.parent.mkdir()
    data = snapshots.encode(learner.snapshot())
    path.write_bytes(data)
    served = PolicyServer(str(tmp_path), NETWORK, TASK, incarnation=3).snapshot()
    assert served.version == (3, 0) and served.architecture_hash == (
        learner.snapshot().architecture_hash)
    with pytest.raises(ConfigError, match=r'architecture .*; give the robot, task and network'):
        PolicyServer(str(tmp_path), PolicyNetworkConfig((8,), 'tanh', 'clip'), TASK,
                     incarnation=1)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match='damaged'):
        PolicyServer(str(tmp_path), NETWORK, TASK, incarnation=1)
