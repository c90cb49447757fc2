"""A small known system for tests of learning: a point mass that is pushed to the origin."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from async_mbrl.control.blend import BlendedPolicy
from async_mbrl.control.exploration import CorrelatedNoise
from async_mbrl.control.policy import NumpyPolicy, PolicyParameters
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import NO_VERSION, Snapshot
from async_mbrl.core.transition import Transition
from async_mbrl.learning.buffer import Samples

PERIOD_S = 0.1
STEPS = 30


class PointMass:
    """A task: observation (position, velocity), action a push; v' = 0.9 v + 0.4 a, x' = x + 0.1 v'.

    The reward is 1 - x'^2 - 0.1 v'^2 - 0.01 a^2. If it ``ends``, then by itself beyond |x| = 1.5.
    """

    name = 'point_mass'
    state_size = observation_size = feature_size = 2
    action_size, goal_size = 1, 0
    feature_description = 'normalised state'

    def __init__(self, ends: bool = False) -> None:
        self._ends = ends
        self.config = SimpleNamespace(policy_rate_hz=1.0 / PERIOD_S)

    def features(self, xp: Any, observation: Any, state_mean: Any, state_std: Any) -> Any:
        del xp
        return (observation - state_mean) / state_std

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        del xp
        return (1.0 - next_observation[..., 0] ** 2 - 0.1 * next_observation[..., 1] ** 2
                - 0.01 * (action ** 2).sum(-1))

    def terminated(self, observation: np.ndarray) -> np.ndarray:
        return self._ends & (np.abs(observation[..., 0]) > 1.5)

    def sample_goals(self, rng: np.random.Generator, count: int) -> np.ndarray:
        del rng
        return np.zeros((count, 0), np.float32)

    def start(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.uniform(-1.0, 1.0), 0.0], np.float32)

    @staticmethod
    def advance(xp: Any, observation: Any, action: Any) -> Any:
        velocity = 0.9 * observation[..., 1:] + 0.4 * action
        return xp.concatenate([observation[..., :1] + PERIOD_S * velocity, velocity], -1)


class ExactModel:
    """The motion of the point mass in the place of a learned ensemble."""

    members = 2

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return PointMass.advance(torch, state, action)

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter(())


class Robot:
    """Acts as the controller does, and gives transitions."""

    def __init__(self, task: PointMass, network: PolicyNetworkConfig, seed: int = 0) -> None:
        self.task = task
        self._rng = np.random.default_rng(seed)
        self._policy = BlendedPolicy(task, network, 0.0)
        self._noise = CorrelatedNoise(task.action_size)
        self._number = self._episode = 0

    def act_by(self, snapshot: Snapshot) -> None:
        self._policy.use(PolicyParameters.from_snapshot(snapshot), 0.0, at_once=True)

    def episode(self) -> list[Transition]:
        """Give the transitions of an episode of learning."""
        task, found = self.task, []
        observation = task.start(self._rng)
        self._noise.restart(int(self._rng.integers(2**31)))
        parameters = self._policy.parameters
        for step in range(STEPS):
            action, log_density, _ = self._policy.explore(observation, 0.0, self._noise)
            action = action.astype(np.float32)
            following = task.advance(np, observation, action).astype(np.float32)
            over = task.terminated(following)
            found.append(Transition(
                number=self._number, episode=self._episode, step=step, observation=observation,
                action_requested=action, action_applied=action, next_observation=following,
                reward=float(task.reward(np, following, action)), terminated=over,
                truncated=step == STEPS - 1 and not over, log_probability=log_density,
                policy_version=parameters.version if parameters else NO_VERSION))
            self._number += 1
            observation = following
            if over:
                break
        self._episode += 1
        return found


def mean_return(task: PointMass, network: PolicyNetworkConfig, snapshot: Snapshot) -> float:
    """Mean reward of a step of episodes in which the mean of a policy acts."""
    policy, rng = NumpyPolicy(task, network), np.random.default_rng(7)
    policy.use(PolicyParameters.from_snapshot(snapshot))
    rewards = []
    for _ in range(20):
        observation = task.start(rng)
        for _ in range(STEPS):
            action = policy.mean(observation)
            observation = task.advance(np, observation, action).astype(np.float32)
            rewards.append(float(task.reward(np, observation, action)))
    return float(np.mean(rewards))


def batch(rows: int = 6) -> Samples:
    """Random transitions in double precision, every third one the last of its episode."""
    generator = torch.Generator().manual_seed(4)
    observation, following = torch.randn(2, rows, 2, generator=generator, dtype=torch.double)
    return Samples(observation, torch.rand(rows, 1, generator=generator, dtype=torch.double),
                   following, torch.randn(rows, generator=generator, dtype=torch.double),
                   (torch.arange(rows) % 3 == 0).double())
