"""The worker that improves the policy inside the newest model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, SnapshotError, Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.algorithms import make_algorithm
from async_mbrl.learning.config import (
    ExplorationConfig,
    MePpoConfig,
    ModelConfig,
    SvgConfig,
    check_network,
)
from async_mbrl.learning.dynamics import make_dynamics
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.normalisation import StatisticsRefresh
from async_mbrl.learning.worker import Worker


def exploration_std(config: ExplorationConfig, transitions: int, policy_rate_hz: float) -> float:
    """Give the standard deviation of the exploration noise after a number of transitions."""
    if transitions < config.initial_steps:
        return config.initial_std
    decay = math.exp(-transitions / policy_rate_hz / config.time_constant_s)
    return config.end_std + (config.start_std - config.end_std) * decay


class PolicyLearner(Worker):
    """Improves a policy on rollouts that the newest model imagines from states seen.

    Its first snapshot, before any data, is a policy of mean 0: pure exploration.
    """

    def __init__(self, improvement: MePpoConfig | SvgConfig, model: ModelConfig,
                 network: PolicyNetworkConfig, exploration: ExplorationConfig, task: Any, *,
                 seed: int, incarnation: int = 1) -> None:
        """Build a policy that has learned nothing.

        Args:
            improvement: settings; their class chooses the algorithm.
            model: settings of the model that will come.
            network: the policy network.
            exploration: noise that travels with the policy.
            task: see :mod:`async_mbrl.tasks`.
            seed: of the initial weights and of what is drawn.
            incarnation: which start of this learner it is; part of the versions it gives out.

        Raises:
            ConfigError: algorithm and network do not fit.
        """
        check_network(improvement, network)
        super().__init__(task, improvement.capacity, seed, incarnation)
        self._improvement = improvement
        self._exploration = exploration
        self._goal_rng = np.random.default_rng(seed)
        self.algorithm = make_algorithm(improvement, network, task, self._generator)
        self._dynamics = make_dynamics(model, task, self._generator).requires_grad_(False)
        self._model_version = NO_VERSION
        self._statistics = StatisticsRefresh(margin=0.0)
        self._imagination = Imagination(self._dynamics, task, self.buffer, self._generator,
                                        self._goal_rng)

    @property
    def ready(self) -> bool:
        """Whether there is something worth handing out yet: exploration is, from the start."""
        return True

    @property
    def model_version(self) -> Version:
        """Version of the newest model taken."""
        return self._model_version

    @property
    def model_architecture(self) -> dict[str, Any]:
        """Architecture that a model must have."""
        return self._dynamics.architecture()

    @property
    def model_bytes(self) -> int:
        """Size of the tensors of such a model."""
        return sum(tensor.nbytes for tensor in self._dynamics.tensors().values())

    def take(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of their numbers, the first being the next one."""
        if not transitions:
            return
        self.buffer.append(transitions)
        described = self._statistics.due(self.buffer)
        if described is not None:
            self.algorithm.policy.normalise(described.state_mean, described.state_std)
            self.algorithm.acting_policy.normalise(described.state_mean, described.state_std)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take a model; one that is not newer is ignored.

        Raises:
            SnapshotError: a tensor is missing, unknown or of another shape.
        """
        if snapshot.version <= self._model_version:
            return
        # Before anything is taken over: a model that is half another one is none.
        wanted = {name: tuple(value.shape) for name, value in self._dynamics.state_dict().items()}
        found = {name: value.shape for name, value in snapshot.tensors.items()}
        for name in sorted({*wanted, *found}):
            if found.get(name) != wanted.get(name):
                raise SnapshotError(
                    f'model {snapshot.version}: tensor {name} has shape {found.get(name)}, '
                    f'expected {wanted.get(name)}')
        self._dynamics.load_tensors(snapshot.tensors)
        self._model_version = snapshot.version

    def step(self) -> bool:
        """Improve the policy once; False before there are data and a model."""
        if (self._model_version == NO_VERSION
                or len(self.buffer) < self._improvement.minimum_transitions):
            return False
        self.algorithm.update(self._imagination)
        self.updates += 1
        self.epochs += self._improvement.rollouts / len(self.buffer)
        return True

    def snapshot(self) -> Snapshot:
        """Give the policy with the exploration it should act with, under a new version.

        Raises:
            LearningDiverged: a parameter is not finite.
        """
        self._check_finite('policy', self.algorithm.state_dict())
        policy = self.algorithm.acting_policy
        return Snapshot(
            kind='policy', version=self._next_version(), architecture=policy.architecture,
            tensors=policy.tensors(), trained_on_transitions=self.buffer.next_number,
            updates=self.updates, model_version=self._model_version,
            exploration_std=exploration_std(self._exploration, self.buffer.next_number,
                                            self._task.config.policy_rate_hz),
            exploration_correlation=self._exploration.correlation)

    def metrics(self) -> dict[str, float]:
        """Scalars of the algorithm, and the exploration asked for."""
        return {**self.algorithm.metrics(),
                'exploration_std': exploration_std(self._exploration, self.buffer.next_number,
                                                   self._task.config.policy_rate_hz)}

    def save(self, folder: Path) -> None:
        """Write a checkpoint.

        Raises:
            LearningDiverged: a parameter is not finite; the checkpoint before stands.
        """
        self._check_finite('policy', self.algorithm.state_dict())
        tensors = {**checkpoint.prefixed('algorithm', self.algorithm.state_dict()),
                   **checkpoint.prefixed('dynamics', self._dynamics.state_dict())}
        for name, optimizer in self.algorithm.optimizers().items():
            tensors.update(checkpoint.prefixed(f'optimizer.{name}', optimizer.tensors()))
        self._write(folder, self._identity(), tensors, {
            'model_version': list(self._model_version),
            'goal_rng': self._goal_rng.bit_generator.state})

    def restore(self, folder: Path) -> int:
        """Go on from a checkpoint, if there is one; give the number of the next transition wanted.

        Raises:
            CheckpointError: it is damaged or belongs to something else.
        """
        found = self._read(folder, self._identity())
        if found is None:
            return self.buffer.next_number
        tensors, about = found
        self.algorithm.load_state_dict(checkpoint.part('algorithm', tensors))
        self._dynamics.load_state_dict(checkpoint.part('dynamics', tensors))
        for name, optimizer in self.algorithm.optimizers().items():
            optimizer.load(checkpoint.part(f'optimizer.{name}', tensors))
        self._goal_rng.bit_generator.state = about['goal_rng']
        self._model_version = Version(*about['model_version'])
        return self.buffer.next_number

    def _identity(self) -> dict[str, Any]:
        return {'learner': 'policy_learner', 'algorithm': type(self._improvement).__name__,
                'capacity': self._improvement.capacity,
                'value_hidden': list(self._improvement.value_hidden),
                'policy': self.algorithm.policy.architecture,
                'model': self._dynamics.architecture()}
