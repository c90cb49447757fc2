"""Planning on a linear point mass, whose best plan follows from the Riccati recursion."""

from __future__ import annotations

import dataclasses
from typing import Any

import bodies
import numpy as np
import pytest
import torch
from point_mass import ExactModel, PointMass

from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.plan import MOST_STEPS, Plan
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.core.transition import ControlStep, Mode, StepKind, Transition
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.planning import Planner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.predictive_control import PredictiveControl
from async_mbrl.learning.settings import PetsConfig

CEM = PetsConfig(horizon=15, candidates=400, iterations=10, elites=40, kept=5, initial_std=0.3,
                 correlation=0.0)
MPPI = dataclasses.replace(CEM, planner='mppi', candidates=2000, iterations=20, initial_std=0.1,
                           temperature=0.15)
MODEL = ModelConfig(kind='plain', members=2, hidden=(8,), product='batched')
NETWORK = PolicyNetworkConfig((16,), 'silu', 'tanh')
NOTHING = torch.zeros(0, 1)
START = np.array([0.15, 0.1], np.float32)

A = np.array([[1.0, 0.09], [0.0, 0.9]])
B = np.array([[0.04], [0.4]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.01]])


def cost(start: np.ndarray, actions: np.ndarray) -> float:
    """Cost of actions (steps, 1), step by step."""
    state, total = start.astype(float), 0.0
    for action in actions.astype(float):
        state = A @ state + B @ action
        total += float(state @ Q @ state + action @ R @ action)
    return total


def best_actions(start: np.ndarray, horizon: int) -> np.ndarray:
    """Actions of least cost, from the Riccati recursion backwards in time."""
    value, gains = Q, []
    for _ in range(horizon):
        gain = np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
        gains.append(gain)
        value = Q + A.T @ value @ (A - B @ gain)
    state, actions = start.astype(float), []
    for gain in reversed(gains):
        actions.append(-gain @ state)
        state = A @ state + B @ actions[-1]
    return np.array(actions)


def planner(config: PetsConfig, seed: int = 0, model: Any = None, task: Any = None) -> Planner:
    return Planner(config, model or ExactModel(), task or PointMass(),
                   torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('config', [CEM, MPPI], ids=['cem', 'mppi'])
def test_a_plan_is_nearly_the_best_one(config: PetsConfig) -> None:
    best = best_actions(START, config.horizon)
    assert np.abs(best).max() < 1.0     # so that the range of actions does not matter
    plan = planner(config).plan(torch.from_numpy(START), NOTHING).numpy()
    assert plan.shape == best.shape
    assert cost(START, plan) < 1.03 * cost(START, best)
    assert cost(START, best) < 0.5 * cost(START, 0.0 * best)    # there is something to be found


@pytest.mark.parametrize('config', [CEM, MPPI], ids=['cem', 'mppi'])
def test_what_is_drawn_depends_on_the_seed_alone(config: PetsConfig) -> None:
    config = dataclasses.replace(config, iterations=2, candidates=50)
    first, same, other = (planner(config, seed).plan(torch.from_numpy(START), NOTHING)
                          for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_plan_begins_with_the_one_before_moved_on() -> None:
    config = dataclasses.replace(CEM, iterations=1, candidates=50, initial_std=1e-4)
    made = planner(config)
    made.plan(torch.from_numpy(START), NOTHING)
    wide = planner(CEM)
    before = wide.plan(torch.from_numpy(START), NOTHING)
    made._mean = before.clone()
    made.shift(2)
    moved = made.plan(torch.from_numpy(START), NOTHING)
    assert torch.allclose(moved[:-2], before[2:], atol=1e-3)
    assert torch.allclose(moved[-2:], torch.zeros(2, 1), atol=1e-3)
    made.forget()
    assert made.plan(torch.from_numpy(START), NOTHING).abs().max() < 1e-3


def test_the_plan_before_makes_few_candidates_enough() -> None:
    config = dataclasses.replace(CEM, iterations=1, candidates=60, elites=6, initial_std=0.1)

    def closed_loop(warm: bool) -> float:
        made, state, total = planner(config), START.astype(float), 0.0
        for _ in range(30):
            action = made.plan(torch.from_numpy(state.astype(np.float32)), NOTHING)[0].numpy()
            state = A @ state + B @ action
            total += float(state @ Q @ state + action @ R @ action)
            if warm:
                made.shift(1)
            else:
                made.forget()
        return total

    best = cost(START, best_actions(START, 30))
    warm, cold = closed_loop(warm=True) - best, closed_loop(warm=False) - best
    assert 0.0 < warm < 0.6 * cold


def test_actions_that_are_committed_come_first() -> None:
    committed = np.array([[-0.3], [0.1]], np.float32)
    plan = planner(CEM).plan(torch.from_numpy(START), torch.from_numpy(committed)).numpy()
    later = START.astype(float)
    for action in committed:
        later = A @ later + B @ action
    best = best_actions(later, CEM.horizon)
    assert cost(later, plan) < 1.03 * cost(later, best)


class Members:
    """Three members that are pushed by different amounts; notes the shapes it is asked for."""

    members = 3
    GAINS = torch.tensor([0.5, 1.0, 2.0])[:, None, None]

    def __init__(self) -> None:
        self.shapes: set[tuple[torch.Size, torch.Size]] = set()

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        self.shapes.add((state.shape, action.shape))
        return PointMass.advance(torch, state, self.GAINS * action)


class Bounded(PointMass):
    """Ends by itself beyond |x| = 0.3, or does not."""

    def terminated(self, observation: np.ndarray) -> np.ndarray:
        return self._ends & (np.abs(observation[..., 0]) >= 0.3)


@pytest.mark.parametrize('ends', [False, True])
def test_a_candidate_is_judged_by_each_member_to_its_end(ends: bool) -> None:
    model, task = Members(), Bounded(ends)
    config = dataclasses.replace(CEM, horizon=8)
    actions = torch.rand(5, 8, 1, generator=torch.Generator().manual_seed(1)) * 2.0 - 0.5
    found = planner(config, model=model, task=task).returns(
        torch.from_numpy(START).expand(3, 1, -1), actions)
    assert model.shapes == {(torch.Size([3, 5, 2]), torch.Size([3, 5, 1]))}
    cut, expected = 0, []
    for candidate in actions.numpy():
        total = 0.0
        for gain in (0.5, 1.0, 2.0):
            state = START.copy()
            for action in candidate:
                state = task.advance(np, state, (gain * action).astype(np.float32))
                total += float(task.reward(np, state, action))
                if ends and abs(state[0]) >= 0.3:
                    cut += 1
                    break
        expected.append(total / 3.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (cut > 0) == ends


class Broken(ExactModel):
    """Goes to infinity where it is pushed forwards."""

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.where(action > 0.0, torch.nan, super().predict(state, action))


@pytest.mark.parametrize('config', [CEM, MPPI], ids=['cem', 'mppi'])
def test_what_is_imagined_without_end_is_avoided(config: PetsConfig) -> None:
    config = dataclasses.replace(config, horizon=1, iterations=3, handed_out=1)
    plan = planner(config, model=Broken()).plan(torch.from_numpy(START), NOTHING)
    assert torch.isfinite(plan).all()
    assert float(plan[0, 0]) < 0.0


@pytest.mark.parametrize('name', ['hopper', 'walker2d', 'ant', 'inverted_pendulum'])
@pytest.mark.parametrize('ends', [False, True])
def test_bodies_say_of_many_states_at_once_whether_they_end(name: str, ends: bool) -> None:
    task = bodies.task(name, terminate=ends)
    rng = np.random.default_rng(0)
    seen = rng.uniform(-1.0, 2.0, (4, 50, task.observation_size)).astype(np.float32)
    seen[0, 0] = np.nan
    found = task.terminated(seen)
    single = [[bool(task.terminated(row)) for row in block] for block in seen]
    assert found.tolist() == single
    assert found[0, 0] == found.any() == ends


@pytest.mark.parametrize(('changes', 'named'), [
    ({'elites': 500}, 'elites: 500'), ({'kept': 41}, 'kept: 41'),
    ({'handed_out': 16}, 'handed_out: 16')])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(CEM, **changes)


def test_a_network_that_cannot_imitate_is_refused() -> None:
    with pytest.raises(ConfigError, match='network.distribution'):
        CEM.check_network(PolicyNetworkConfig((16,), 'silu', 'clip'))


# ---- the worker ----

CONTROL = PetsConfig(horizon=8, candidates=20, iterations=2, elites=4, kept=1, handed_out=3)


def model_snapshot(counter: int = 1) -> Snapshot:
    learner = ModelLearner(MODEL, PointMass(), seed=5)
    return dataclasses.replace(learner.snapshot(), version=Version(1, counter))


def control(seed: int = 0) -> PredictiveControl:
    made = PredictiveControl(CONTROL, MODEL, PointMass(), seed=seed)
    made.take_snapshot(model_snapshot())
    return made


def event(step: int, command: int = 4, episode: int = 2,
          kind: StepKind = StepKind.STEP) -> ControlStep:
    return ControlStep(kind, 0.0, command, episode, step, Mode.LEARNING, observation=START,
                       action_requested=np.array([0.3], np.float32))


def test_there_is_no_plan_without_a_model_or_a_step() -> None:
    assert PredictiveControl(CONTROL, MODEL, PointMass(), seed=0).plan(event(0)) is None
    assert control().plan(event(3, kind=StepKind.END)) is None


def test_a_plan_says_what_it_is_for() -> None:
    plan = control().plan(event(5))
    assert plan is not None
    assert (plan.command_number, plan.episode, plan.step) == (4, 2, 6)
    assert plan.actions.shape == (3, 1)
    assert plan.actions.dtype == np.float32
    assert np.abs(plan.actions).max() <= 1.0
    same, other = control().plan(event(5)), control(1).plan(event(5))
    assert same is not None and other is not None
    np.testing.assert_array_equal(plan.actions, same.actions)
    assert not np.array_equal(plan.actions, other.actions)


def test_a_late_plan_goes_on_from_the_one_before() -> None:
    made = control()
    before = made.plan(event(5))
    late = made.plan(event(6), lead=3)
    assert before is not None and late is not None
    assert late.step == 7
    assert len(late.actions) == 2 + CONTROL.handed_out
    np.testing.assert_array_equal(late.actions[:2], before.actions[1:])
    other = made.plan(event(7, command=5, episode=3), lead=3)
    assert other is not None
    np.testing.assert_array_equal(other.actions[:2], 0.0)
    longest = made.plan(event(8, command=5, episode=3), lead=1000)
    assert longest is not None
    assert len(longest.actions) <= MOST_STEPS


def test_a_plan_has_no_action_for_other_steps() -> None:
    plan = Plan(4, 2, 6, np.array([[0.1], [0.2]], np.float32))
    assert plan.action(4, 2, 7) == np.float32(0.2)
    for command, episode, step in ((4, 2, 5), (4, 2, 8), (4, 3, 6), (5, 2, 6)):
        assert plan.action(command, episode, step) is None


def test_only_newer_models_that_fit_are_taken() -> None:
    made = control()
    made.take_snapshot(model_snapshot(counter=7))
    assert made.model_version == Version(1, 7)
    made.take_snapshot(model_snapshot(counter=6))
    assert made.model_version == Version(1, 7)
    damaged = model_snapshot(counter=8)
    tensors = {name: value[..., :1] for name, value in damaged.tensors.items()}
    with pytest.raises(SnapshotError, match='shapes'):
        made.take_snapshot(dataclasses.replace(damaged, tensors=tensors))
    assert made.model_version == Version(1, 7)


def test_the_policy_imitates_what_was_planned_and_nothing_else() -> None:
    config = dataclasses.replace(CONTROL, batch=64, imitation_learning_rate=1e-2)
    learner = PolicyLearner(config, MODEL, NETWORK, ExplorationConfig(), PointMass(), seed=0)
    rng = np.random.default_rng(0)
    for number in range(100):
        seen = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
        planned = number % 2 == 0
        action = -seen[:1] if planned else np.array([0.9], np.float32)
        learner.take([Transition(
            number, 0, number, seen, action, action, seen, 0.0, False, False,
            log_probability=0.0 if planned else -1.0)])
    learner.take_snapshot(model_snapshot())
    while learner.updates < 400:
        assert learner.step()
    policy = learner.algorithm.acting_policy
    probe = torch.tensor([[-0.4, 0.1], [0.0, -0.2], [0.3, 0.2]])
    found = policy.mean(policy.features(probe))
    torch.testing.assert_close(found, -probe[:, :1], atol=0.05, rtol=0.0)
    assert 0.0 < learner.metrics()['planned_share'] < 1.0
