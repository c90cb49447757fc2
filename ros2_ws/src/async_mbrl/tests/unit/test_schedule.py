"""How collecting and learning take turns: who does what when, and again after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import learning_rig
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError, load
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.schedule import TURNS_METRIC, Block, ScheduleConfig
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.recorded import recorded_hash
from async_mbrl.learning.sequential import SequentialLearner
from async_mbrl.learning.settings import MbMpoConfig, MePpoConfig

TASK = learning_rig.make_task()


class FakeLearner:
    """Writes down what it is told to do; one epoch takes two steps, an update one."""

    def __init__(self, kind: str, log: list[str], stops_after: int | None = None) -> None:
        self.kind, self.log, self.stops_after = kind, log, stops_after
        self.steps = self.next_transition = self.snapshots = 0
        self.model_version = NO_VERSION
        self.ready = True

    @property
    def updates(self) -> int:
        return self.steps

    @property
    def epochs(self) -> float:
        return self.steps / 2

    def take(self, transitions: list[Transition]) -> None:
        self.next_transition += len(transitions)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        assert snapshot.kind == 'model'
        self.log.append(f'model {snapshot.updates} to policy')

    def step(self) -> bool:
        if self.stops_after is not None and self.steps >= self.stops_after:
            return False
        self.steps += 1
        self.log.append(self.kind)
        return True

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return Snapshot(self.kind, Version(1, self.snapshots), {}, {}, updates=self.updates,
                        trained_on_transitions=self.next_transition)

    def metrics(self) -> dict[str, float]:
        return {}


def transition(number: int, last: bool = False) -> Transition:
    nothing = np.zeros(0, np.float32)
    return Transition(number, 0, 0, nothing, nothing, nothing, nothing, 0.0, False, last)


def rollouts(learner: Any, count: int, length: int = 2) -> None:
    for _ in range(count):
        first = learner.next_transition
        learner.take([transition(first + step, step == length - 1) for step in range(length)])


def make(stops_after: int | None = None, model: bool = True,
         **schedule: Any) -> tuple[SequentialLearner, list[str]]:
    log: list[str] = []
    return SequentialLearner(
        ScheduleConfig(**{'name': 'sync', 'rollouts': 3, 'model_epochs': 2, 'policy_steps': 3,
                          **schedule}),
        FakeLearner('model', log, stops_after) if model else None,
        FakeLearner('policy', log)), log


def finish_turn(learner: SequentialLearner) -> None:
    before = learner.turns
    while learner.step():
        pass
    assert not learner.due and learner.turns >= before


def test_sync_learns_only_after_all_rollouts_model_first() -> None:
    learner, log = make()
    rollouts(learner, 2)
    assert not learner.step() and log == []
    rollouts(learner, 1)
    assert learner.due
    finish_turn(learner)
    assert log == ['model'] * 4 + ['model 4 to policy'] + ['policy'] * 3
    assert learner.turns == 1 and not learner.step()
    rollouts(learner, 3)
    finish_turn(learner)
    assert log.count('model') == 8 and log.count('policy') == 6
    assert learner.snapshot().trained_on_transitions == 12


def test_model_that_has_stopped_early_leaves_the_turn_to_the_policy() -> None:
    learner, log = make(stops_after=1, model_epochs=200)
    rollouts(learner, 3)
    finish_turn(learner)
    assert log == ['model', 'model 1 to policy', 'policy', 'policy', 'policy']


def test_without_a_model_only_the_policy_is_learned() -> None:
    learner, log = make(model=False)
    rollouts(learner, 3)
    finish_turn(learner)
    assert log == ['policy'] * 3


def test_model_and_policy_interleaved_in_blocks() -> None:
    learner, log = make(name='interleaved', blocks=2, model_epochs=2, policy_steps=4)
    rollouts(learner, 3)
    finish_turn(learner)
    assert log == ['model', 'model', 'model 2 to policy', 'policy', 'policy',
                   'model', 'model', 'model 4 to policy', 'policy', 'policy']


def test_policy_between_rollouts_and_the_model_after_the_last() -> None:
    learner, log = make(name='interleaved', interleave='data_policy', policy_steps=6)
    for _ in range(2):
        rollouts(learner, 1)
        finish_turn(learner)
    assert log == ['policy'] * 4
    rollouts(learner, 1)
    finish_turn(learner)
    assert log == ['policy'] * 4 + ['model'] * 4 + ['model 4 to policy'] + ['policy'] * 2
    assert learner.turns == 3


@given(st.sampled_from(['model_policy', 'data_policy']), st.integers(1, 30), st.integers(0, 50),
       st.integers(0, 50), st.integers(1, 30))
def test_interleaving_changes_the_order_but_not_the_amount(
        interleave: str, rollouts_: int, epochs: int, steps: int, blocks: int) -> None:
    if interleave == 'model_policy' and blocks > max(epochs, steps):
        with pytest.raises(ConfigError, match='blocks'):
            ScheduleConfig('interleaved', rollouts_, epochs, steps, interleave, blocks)
        return
    schedule = ScheduleConfig('interleaved', rollouts_, epochs, steps, interleave, blocks)
    learned = [block for turn in range(schedule.turns(rollouts_))
               for block in schedule.program(turn)]
    assert Block(*map(sum, zip(*learned, strict=True))) == (epochs, steps)
    parts = [block.policy_steps for block in learned]
    assert max(parts) - min(parts) <= 1


def test_what_is_handed_out_is_the_policy_after_whole_turns() -> None:
    learner, _ = make()
    assert learner.snapshot().updates == 0
    rollouts(learner, 2)
    assert learner.snapshot().trained_on_transitions == 4
    news, published = learner.news, learner.snapshot()
    rollouts(learner, 1)
    for _ in range(6):      # in the middle of the policy's part
        assert learner.step()
    assert learner.updates == 2 and learner.news == news
    assert learner.snapshot().updates == 0
    finish_turn(learner)
    after = learner.snapshot()
    assert learner.news != news and after.updates == 3 and after.version > published.version
    assert learner.metrics()[TURNS_METRIC] == 1.0


@pytest.mark.parametrize(('settings', 'words'), [
    ({'name': 'never'}, 'name'), ({'rollouts': 0}, 'rollouts'),
    ({'name': 'interleaved', 'blocks': 201}, 'blocks: 201'), ({'interleave': 'all'}, 'interleave')])
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(ScheduleConfig, settings, 'schedule')


# ---- the real learners ----

SCHEDULE = ScheduleConfig('sync', rollouts=2, model_epochs=6, policy_steps=4)


def real(incarnation: int = 1, schedule: ScheduleConfig = SCHEDULE,
         seed: int = 3) -> SequentialLearner:
    config = ModelConfig(members=2, hidden=(16,), batch=8, minimum_transitions=10,
                         updates_per_step=2, early_stopping=True)
    return SequentialLearner(
        schedule, ModelLearner(config, TASK, seed=seed, incarnation=incarnation),
        PolicyLearner(MePpoConfig(rollouts=8, horizon=4, value_hidden=(8,), minimum_transitions=10),
                      config, PolicyNetworkConfig((8,), 'tanh', 'clip'), ExplorationConfig(), TASK,
                      seed=seed, incarnation=incarnation))


def tensors(learner: SequentialLearner) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in learner.snapshot().tensors.items()}


@pytest.mark.parametrize('steps', [0, 1, 7, 18, 19])
def test_restart_anywhere_in_a_turn_changes_nothing_of_what_is_learned(tmp_path: Path,
                                                                       steps: int) -> None:
    data = learning_rig.Plant(TASK).explore(4)
    lived, killed = real(), real()
    for learner in (lived, killed):
        learner.take(data[:30])
    begun = tensors(killed)
    for _ in range(steps):
        killed.step()
    killed.save(tmp_path)
    again = real(incarnation=2, seed=99)
    assert again.restore(tmp_path) == 30
    assert again.turns == killed.turns and tensors(again) == tensors(killed)
    if killed.turns == 0:
        assert tensors(again) == begun
    assert again.snapshot().version > killed.snapshot().version
    for learner in (lived, again):
        finish_turn(learner)
        learner.take(data[30:])
        finish_turn(learner)
    assert lived.turns == again.turns == 2
    assert lived.metrics() == again.metrics()
    assert tensors(lived) == tensors(again)


def test_after_a_restart_the_policy_of_the_episode_acts(tmp_path: Path) -> None:
    def make_adapted() -> SequentialLearner:
        learner = real(schedule=ScheduleConfig('sync', rollouts=50))
        learner._policy = PolicyLearner(
            MbMpoConfig(rollouts=5, horizon=5, tasks=4, act_with='adapted'),
            ModelConfig(members=2, hidden=(16,), batch=8),
            PolicyNetworkConfig((8,), 'tanh', 'clip'),
            ExplorationConfig(), TASK, seed=3)
        return learner

    data = learning_rig.Plant(TASK).explore(3)
    killed = make_adapted()
    killed.restore(tmp_path)
    killed.take(data[:15])
    killed.save(tmp_path)
    killed.take(data[15:])
    expected = killed.snapshot().extra
    killed.close()
    again = make_adapted()
    assert again.restore(tmp_path) == 15
    again.take(data[15:])       # sent again, but kept already
    assert again.snapshot().extra == expected == {'act_with': 'adapted', 'adapted_to_task': 3}


def test_checkpoint_stands_until_the_next_is_whole(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    data = learning_rig.Plant(TASK).explore(4)
    learner = real()
    learner.take(data[:30])
    learner.save(tmp_path)
    saved = recorded_hash(tmp_path)
    finish_turn(learner)
    monkeypatch.setattr(learner._policy, 'save', fail)
    with pytest.raises(OSError, match='full'):
        learner.save(tmp_path)      # the model is written by then
    assert recorded_hash(tmp_path) == saved
    again = real(incarnation=2)
    assert again.restore(tmp_path) == 30 and again.turns == 0 and again.due


def fail(*_folders: Path) -> None:
    raise OSError('the disk is full')


def test_checkpoint_of_another_schedule_or_mixed_up_is_refused(tmp_path: Path) -> None:
    learner = real()
    learner.take(learning_rig.Plant(TASK).explore(2))
    learner.save(tmp_path)
    with pytest.raises(CheckpointError, match='schedule'):
        real(schedule=ScheduleConfig('sync', rollouts=3)).restore(tmp_path)
    finish_turn(learner)
    learner._policy.save(tmp_path / 'a' / 'policy')     # without that of the model
    with pytest.raises(CheckpointError, match='is not the checkpoint'):
        real().restore(tmp_path)
