"""The dynamics ensemble: what is known exactly, what is learned, and when learning stops."""

from __future__ import annotations

from pathlib import Path

import learning_rig
import numpy as np
import pytest
import torch

from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.dynamics import PlainDynamics, StructuredDynamics, make_dynamics
from async_mbrl.learning.early_stopping import EarlyStopping
from async_mbrl.learning.learner import LearningDiverged
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.normalisation import statistics
from async_mbrl.learning.split import ValidationSplit
from async_mbrl.learning.tool_points import ToolPoints

SMALL = {'members': 3, 'hidden': (32, 32), 'batch': 32}
TASK = learning_rig.make_task()


def filled_buffer(episodes: int, capacity: int = 1000) -> TransitionBuffer:
    buffer = TransitionBuffer(capacity, TASK.state_size, TASK.action_size, TASK.goal_size)
    buffer.append(learning_rig.Plant(TASK).explore(episodes))
    return buffer


def test_buffer_keeps_the_newest_and_refuses_gaps() -> None:
    transitions = learning_rig.Plant(TASK).explore(4)
    buffer = TransitionBuffer(40, TASK.state_size, TASK.action_size, TASK.goal_size)
    buffer.append(transitions[:30])
    with pytest.raises(ValueError, match='31 does not follow 29'):
        buffer.append(transitions[31:])
    buffer.append(transitions[30:])
    assert (len(buffer), buffer.next_number) == (40, 60)
    kept = {tuple(row.tolist()) for row in buffer.states}
    assert kept == {tuple(t.observation[:TASK.state_size].tolist()) for t in transitions[20:]}
    # Episodes began at 0, 15, 30 and 45; of these 30 and 45 are still there.
    starts = buffer.batch(buffer.initial_rows)[0]
    for state, number in zip(starts, (30, 45), strict=True):
        np.testing.assert_array_equal(state, transitions[number].observation[:TASK.state_size])


def test_structured_model_integrates_exactly_once_the_change_of_velocity_is_known() -> None:
    model = StructuredDynamics(ModelConfig(**SMALL), TASK, torch.Generator().manual_seed(0))
    plant = learning_rig.Plant(TASK)
    transitions = plant.explore(1)
    state, action, following = (torch.from_numpy(np.stack(column)) for column in zip(*(
        (t.observation[:TASK.state_size], t.action_applied, t.next_observation[:TASK.state_size])
        for t in transitions), strict=True))
    exact = (following - state)[..., TASK.velocity].expand(3, -1, -1)
    model.velocity_change = lambda *_: exact  # type: ignore[method-assign]
    model.alpha.data.fill_(1.0)   # the plant moves with the velocity at the end of the step
    predicted = model.predict(state.expand(3, -1, -1), action.expand(3, -1, -1))
    torch.testing.assert_close(predicted, following.expand(3, -1, -1), atol=2e-6, rtol=0.0)
    errors = model.errors(state.expand(3, -1, -1), action.expand(3, -1, -1),
                          following.expand(3, -1, -1))
    assert errors.max() < 1e-10


def test_tool_points_and_their_gradient_agree_with_the_shared_kinematics() -> None:
    chain = TASK.robot.kinematics
    position = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1))
    position.requires_grad_()
    reference, closed = ToolKinematics(chain, torch).points(position), ToolPoints(chain)(position)
    torch.testing.assert_close(closed, reference)
    weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(2))
    expected, = torch.autograd.grad((reference * weights).sum(), position)
    found, = torch.autograd.grad((closed * weights).sum(), position)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('kind', [StructuredDynamics, PlainDynamics])
def test_imagined_states_stay_within_the_data(kind: type) -> None:
    buffer = filled_buffer(4)
    model = kind(ModelConfig(**SMALL), TASK, torch.Generator().manual_seed(0))
    described = statistics(buffer, margin=0.5)
    model.normalise(described)
    torch.testing.assert_close(
        described.upper, buffer.next_states.amax(0) + 0.5 * buffer.next_states.std(0))
    wild = 100.0 * torch.ones(3, 2, TASK.action_size)
    state = buffer.states[:2].expand(3, -1, -1)
    with torch.no_grad():
        for part in model.parameters():
            part.mul_(50.0)
        free, clamped = (model.predict(state, wild, clamp=clamp) for clamp in (False, True))
    motion = slice(0, TASK.velocity.stop)
    assert (free[..., motion] > described.upper[motion]).any()
    assert (clamped[..., motion] <= described.upper[motion]).all()
    assert (clamped[..., motion] >= described.lower[motion]).all()
    assert torch.equal(clamped[..., TASK.previous_action], wild)


@pytest.mark.parametrize('kind', ['structured', 'plain'])
def test_model_learns_the_plant(kind: str) -> None:
    learner = ModelLearner(ModelConfig(kind=kind, **SMALL), TASK, seed=0)
    plant = learning_rig.Plant(TASK)
    assert not learner.step()
    learner.take(plant.explore(10))
    for _ in range(60):
        assert learner.step()
    assert 'validation_loss' not in learner.metrics()   # nothing had been learned before these
    learner.take(plant.explore(1))
    metrics = learner.metrics()
    assert metrics['validation_loss'] < 0.05
    assert metrics['open_loop_error_10_m'] < 0.05
    snapshot = learner.snapshot()
    assert snapshot.trained_on_transitions == 165
    assert snapshot.updates == learner.updates == 480
    learner.average.load_tensors(snapshot.tensors)
    with torch.no_grad():
        next(iter(learner.dynamics.parameters())).fill_(torch.nan)
    with pytest.raises(LearningDiverged, match='no longer finite'):
        learner.snapshot()


def test_an_episode_is_judged_by_the_model_from_before_it() -> None:
    episodes = learning_rig.Plant(TASK).explore(3)
    prompt, late = (ModelLearner(ModelConfig(**SMALL), TASK, seed=0) for _ in range(2))
    for learner in (prompt, late):
        learner.take(episodes[:30])
        for _ in range(5):
            learner.step()
    late.take(episodes[30:])
    for transition in episodes[30:]:
        prompt.take([transition])
        prompt.step()
    assert prompt.metrics()['validation_loss'] == pytest.approx(late.metrics()['validation_loss'])


def test_updates_for_each_transition_are_limited_if_asked() -> None:
    config = ModelConfig(max_updates_per_transition=0.5, **SMALL)
    learner = ModelLearner(config, TASK, seed=0)
    plant = learning_rig.Plant(TASK)
    learner.take(plant.explore(2))
    while learner.step():
        pass
    assert learner.updates == 15
    learner.take(plant.explore(2))
    while learner.step():
        pass
    assert learner.updates == 30


def test_early_stopping_follows_the_rule() -> None:
    stopping = EarlyStopping(3, persistence=0.5)
    # The averages begin at 1.5 L against 2 L before. Worked out by hand, member by member:
    # 1, 1, 1 gives 1.25, 1.125, 1.0625: it falls; 1, 4 gives 1.25, 2.625: it rises;
    # -1, -1, 3 gives -0.833 (after -0.5), -0.917, 1.042: it rises at last.
    for loss, active in (([1.0, 1.0, -1.0], [True, True, True]),
                         ([1.0, 4.0, -1.0], [True, False, True]),
                         ([1.0, 0.0, 3.0], [True, False, False])):
        stopping.epoch(np.array(loss))
        assert stopping.active.tolist() == active
    stopping.new_data()
    assert stopping.active.all()
    stopping.epoch(np.array([9.0, 9.0, 9.0]))   # held against itself only, not the past
    assert stopping.active.all()


def test_validation_rows_are_never_trained_on() -> None:
    split = ValidationSplit(4, 50, share=0.3)
    generator = torch.Generator().manual_seed(0)
    for first in range(0, 80, 20):
        split.append(first, 20, generator)
    rows, weights = split.validation_rows()
    drawn = split.draw(2000, generator)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    for member in range(4):
        kept_apart = set(rows[member, weights[member] > 0].tolist())
        trained_on = set(drawn[member].tolist())
        assert not kept_apart & trained_on
        assert kept_apart | trained_on == set(range(50))


@pytest.mark.parametrize('kind', ['structured', 'plain'])
def test_some_members_learn_what_they_would_among_all(kind: str) -> None:
    model = make_dynamics(ModelConfig(kind=kind, **SMALL), TASK, torch.Generator().manual_seed(0))
    transitions = learning_rig.Plant(TASK).explore(1)
    batch = [torch.from_numpy(np.stack(column)).expand(3, -1, -1) for column in zip(*(
        (t.observation[:TASK.state_size], t.action_applied, t.next_observation[:TASK.state_size])
        for t in transitions), strict=True)]
    members = torch.tensor([0, 2])
    everyone, some = model.errors(*batch), model.errors(*(each[members] for each in batch),
                                                        members)
    torch.testing.assert_close(some, everyone[members])
    parameters = list(model.parameters())
    expected = torch.autograd.grad(everyone[members].sum(), parameters)
    for found, gradient in zip(torch.autograd.grad(some.sum(), parameters), expected, strict=True):
        torch.testing.assert_close(found, gradient)
        assert not found[1].any()


def test_early_stopped_members_rest_until_new_data() -> None:
    config = ModelConfig(early_stopping=True, persistence=0.1, learning_rate=3e-3, **SMALL)
    learner = ModelLearner(config, TASK, seed=0)
    plant = learning_rig.Plant(TASK)
    learner.take(plant.explore(3))
    resting = None
    for _ in range(5000):
        active = learner.metrics().get('active_members', 3.0)
        if resting is None and active == 2.0:
            resting = [weight.detach().clone() for weight in learner.dynamics.network.weights]
        if not learner.step():
            break
    assert learner.metrics()['active_members'] == 0.0
    assert learner.epochs == pytest.approx(learner.updates / 2, rel=0.5)
    assert not learner.step()
    if resting is not None:
        same = [torch.equal(before[member], weight[member]) for before, weight in zip(
            resting[:1], learner.dynamics.network.weights, strict=False) for member in range(3)]
        assert same.count(True) == 1
    learner.take(plant.explore(1))
    assert learner.step()


def test_members_stop_early_while_data_keep_coming() -> None:
    config = ModelConfig(early_stopping=True, persistence=0.1, learning_rate=3e-3, **SMALL)
    learner = ModelLearner(config, TASK, seed=0)
    plant = learning_rig.Plant(TASK)
    learner.take(plant.explore(3))
    fewest = 3.0
    for _ in range(3):
        episode = plant.explore(1)
        for transition in episode[:-1]:   # ten a second, and some epochs in between
            learner.take([transition])
            for _ in range(10):
                learner.step()
            fewest = min(fewest, learner.metrics()['active_members'])
        learner.take(episode[-1:])        # only a whole episode lets all go on
        learner.step()
        assert learner.step()
    assert fewest < 3.0


def test_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    for early_stopping in (False, True):
        config = ModelConfig(early_stopping=early_stopping, **SMALL)
        folder = tmp_path / str(early_stopping)
        first = ModelLearner(config, TASK, seed=0)
        first.take(learning_rig.Plant(TASK).explore(3))
        first.step()
        first.save(folder)
        second = ModelLearner(config, TASK, seed=99)
        assert second.restore(folder) == 45
        for learner in (first, second):
            for _ in range(4):
                learner.step()
        before, after = first.snapshot(), second.snapshot()
        assert before.updates == after.updates
        for name, value in before.tensors.items():
            np.testing.assert_array_equal(value, after.tensors[name], err_msg=name)
