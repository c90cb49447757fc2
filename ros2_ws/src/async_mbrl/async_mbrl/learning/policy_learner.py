"""The worker that improves the policy: inside the newest model, or from the data alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, SnapshotError, Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.algorithms import ActsByEpisode, DrawsTransitions, make_algorithm
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, making_on
from async_mbrl.learning.dynamics import Dynamics, make_imagined
from async_mbrl.learning.experience import Experience
from async_mbrl.learning.exploration import ParameterNoise, exploration_std
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.normalisation import Statistics, StatisticsRefresh, statistics
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.settings import ImprovementConfig
from async_mbrl.learning.worker import Worker


class PolicyLearner(Worker):
    """Improves a policy by the algorithm that its settings belong to.

    Most algorithms imagine rollouts in the newest model; for the others there is none. The first
    snapshot, before any data, is a policy of mean 0: pure exploration.
    """

    def __init__(self, improvement: ImprovementConfig, model: ModelConfig,
                 network: PolicyNetworkConfig, exploration: ExplorationConfig, task: Any, *,
                 seed: int, incarnation: int = 1, device: torch.device = CPU) -> None:
        """Build a policy that has learned nothing.

        Args:
            improvement: settings; their class chooses the algorithm.
            model: settings of the model that will come, if the algorithm needs one.
            network: the policy network.
            exploration: noise that travels with the policy.
            task: see :mod:`async_mbrl.tasks`.
            seed: of the initial weights and of what is drawn.
            incarnation: which start of this learner it is; part of the versions it gives out.
            device: where it computes.

        Raises:
            ConfigError: algorithm, network, exploration, model and device do not fit.
        """
        improvement.check_network(network)
        improvement.check_exploration(exploration)
        improvement.check_model(model)
        super().__init__(task, improvement.capacity, seed, incarnation, device)
        self._improvement = improvement
        self._exploration = exploration
        self._goal_rng = np.random.default_rng(seed)
        with making_on(device):
            self.algorithm = make_algorithm(improvement, network, task, self._generators.noise)
        self._experience = Experience(self.buffer, self._generators)
        self._parameter_noise = ParameterNoise(exploration, self._experience)
        self._none = TransitionBuffer(1, task.state_size, task.action_size, task.goal_size,
                                      device)
        self._dynamics: Dynamics | None = None
        self._imagination: Imagination | None = None
        if improvement.NEEDS_MODEL:
            with making_on(device):
                self._dynamics = make_imagined(model, task, self._generators.noise)
            self._imagination = self._imagination_of(self._dynamics, self.pool)
        self._stochastic = network.stochastic
        self._model_version = NO_VERSION
        self._statistics = StatisticsRefresh(margin=0.0)
        self._stages: Iterator[None] | None = None
        self._next_model: Snapshot | None = None
        self._next_statistics: Statistics | None = None
        self.begun_from_another = False
        """Whether the run began with what another one had learned."""

    @property
    def ready(self) -> bool:
        """Whether there is something worth handing out yet: exploration is, from the start."""
        return True

    @property
    def model_version(self) -> Version:
        """Version of the model in use: the newest one taken, but for the rest of an update."""
        return self._model_version

    @property
    def model_architecture(self) -> dict[str, Any]:
        """Architecture that a model must have; empty for an algorithm that needs none."""
        return {} if self._dynamics is None else self._dynamics.architecture()

    @property
    def model_bytes(self) -> int:
        """Size of the tensors of such a model."""
        return 0 if self._dynamics is None else self._dynamics.learned_bytes

    def use_offline(self, offline: TransitionBuffer, digest: str = '') -> None:
        """Learn from offline data as well; see :class:`~async_mbrl.learning.worker.Worker`.

        What is imagined begins from states of both then.

        Raises:
            ConfigError: the algorithm learns only from what its own policy has done; or there are
                fewer than two transitions.
        """
        self._improvement.check_offline()
        super().use_offline(offline, digest)
        self._experience.offline = offline
        self._normalise(statistics(offline, margin=0.0))

    def begin_from(self, folder: Path) -> None:
        """Begin with the policy that another run has learned, where there is none yet.

        Of the same algorithm all else is taken, too: critics, optimisers, what was imagined. States
        stay normalised as they were for that policy, and the noise is that of a policy that has
        learned. Transitions are not taken.

        Args:
            folder: of the checkpoint of a policy learner.

        Raises:
            CheckpointError: it is damaged, or of another policy.
        """
        found = checkpoint.read_any(folder)
        mine = json.loads(json.dumps(self._identity()))
        theirs = {name: found.identity.get(name) for name in ('learner', 'policy')}
        wanted = {name: mine[name] for name in theirs}
        if theirs != wanted:
            raise CheckpointError(f'{folder}: {checkpoint.differences(theirs, wanted)}; begin from '
                                  'a run of the same robot, task and network')
        state = checkpoint.part('algorithm', found.tensors)
        if {**found.identity, 'capacity': 0, 'model': 0} == {**mine, 'capacity': 0, 'model': 0}:
            self.algorithm.load_state_dict(state)
            for name, optimizer in self.algorithm.optimizers().items():
                optimizer.load(checkpoint.part(f'optimizer.{name}', found.tensors))
        elif isinstance(self.algorithm, ActsByEpisode):
            raise CheckpointError(
                f'{folder} is of {found.identity.get("algorithm")}; what acts here are policies '
                f'adapted by {mine["algorithm"]}, which it has none of: begin from a run of that')
        else:
            policy = _policy_of(state, folder)
            for each in (self.algorithm.policy, self.algorithm.acting_policy):
                each.load_state_dict({**each.state_dict(), **{
                    name: value for name, value in policy.items() if name in each.state_dict()}})
        self.begun_from_another = True

    def learn_offline(self) -> None:
        """Take one update from the offline data alone; it is none of the run's.

        Raises:
            RuntimeError: there are no offline data, or no model yet to imagine in.
        """
        offline = self.pool.offline
        if offline is None:
            raise RuntimeError('there are no offline data')
        source: Experience | Imagination = Experience(self._none, self._generators, offline)
        if self._dynamics is not None:
            if self._model_version == NO_VERSION:
                raise RuntimeError('there is no model to imagine in; it is learned first')
            source = self._imagination_of(self._dynamics, Pool(self._none, offline))
        for _ in self.algorithm.update(source) or ():
            pass
        self.offline_updates += 1

    def take(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of their numbers, the first being the next one."""
        if not transitions:
            return
        self.buffer.append(transitions)
        if self.behind or not self._new(transitions):
            return
        self.follow(transitions[-1])
        self._keep_up()

    def follow(self, newest: Transition) -> None:
        """Act from now on as it is to be after a transition that is kept, the newest one."""
        if isinstance(self.algorithm, ActsByEpisode):
            self.algorithm.expect_episode(
                newest.episode + (newest.terminated or newest.truncated))

    def _keep_up(self) -> None:
        """Do what the newest transitions in the buffer ask for."""
        self._expect_statistics()
        self._take_over()

    def _expect_statistics(self) -> None:
        if not (self.offline_transitions or self.begun_from_another):
            self._next_statistics = self._statistics.due(self.buffer) or self._next_statistics

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take a model; one that is not newer is ignored.

        Raises:
            SnapshotError: a tensor is missing, unknown or of another shape; or no model is needed.
        """
        if self._dynamics is None:
            raise SnapshotError(f'model {snapshot.version}: this algorithm needs none')
        newest = self._model_version if self._next_model is None else self._next_model.version
        if snapshot.version <= newest:
            return
        # Before anything is taken over: a model that is half another one is none.
        wanted = {name: tuple(value.shape) for name, value in self._dynamics.state_dict().items()}
        found = {name: value.shape for name, value in snapshot.tensors.items()}
        for name in sorted({*wanted, *found}):
            if found.get(name) != wanted.get(name):
                raise SnapshotError(
                    f'model {snapshot.version}: tensor {name} has shape {found.get(name)}, '
                    f'expected {wanted.get(name)}')
        self._next_model = snapshot
        self._take_over()

    def step(self) -> bool:
        """Go on with an update of the policy; False before there is what it needs."""
        if self._stages is None:
            if not self._update_due():
                return False
            self._stages = iter(self.algorithm.update(self._imagination or self._experience) or ())
        for _ in self._stages:
            return True
        self._stages = None
        self._experience.acting_since = None
        self._take_over()
        self.updates += 1
        self.epochs += self.algorithm.samples_of_update / len(self._experience)
        return True

    def snapshot(self) -> Snapshot:
        """Give the policy with the exploration it should act with, under a new version.

        Raises:
            LearningDiverged: a parameter is not finite.
        """
        policy = self.algorithm.acting_policy
        # Not all that a checkpoint holds: it may keep a large buffer.
        self._check_finite('policy', {**dict(self.algorithm.named_parameters()),
                                      **policy.state_dict()})
        version = self._next_version()
        if self._experience.acting_since is None:
            self._experience.acting_since = version
        return Snapshot(
            kind='policy', version=version, architecture=policy.architecture,
            tensors=policy.tensors(), trained_on_transitions=self.transitions,
            updates=self.updates, model_version=self._model_version,
            exploration_std=self._exploration_std(),
            exploration_correlation=self._exploration.correlation,
            exploration_color=self._exploration.color,
            parameter_noise_std=self._parameter_noise.adapt(policy, *self._motion()),
            extra=self.algorithm.about if isinstance(self.algorithm, ActsByEpisode) else {})

    def metrics(self) -> dict[str, float]:
        """Scalars of the algorithm, the exploration that is asked for, and what was offline."""
        asked = {} if self._stochastic else {'exploration_std': self._exploration_std()}
        return {**self.algorithm.metrics(), **asked, **self._parameter_noise.metrics(),
                **self._offline_metrics()}

    def save(self, folder: Path, transitions: Path | None = None) -> None:
        """Write a checkpoint; see :class:`~async_mbrl.learning.learner.Learner`."""
        self._check_finite('policy', self.algorithm.state_dict())
        tensors = checkpoint.prefixed('algorithm', self.algorithm.state_dict())
        if self._dynamics is not None:
            tensors.update(checkpoint.prefixed('dynamics', self._dynamics.state_dict()))
        for name, optimizer in self.algorithm.optimizers().items():
            tensors.update(checkpoint.prefixed(f'optimizer.{name}', optimizer.tensors()))
        if isinstance(self.algorithm, DrawsTransitions):
            tensors.update(checkpoint.prefixed('sampling', self.algorithm.sampling.tensors()))
        self._write(folder, transitions, self._identity(), tensors, {
            'model_version': list(self._model_version),
            'begun_from_another': self.begun_from_another,
            'parameter_noise_std': self._parameter_noise.std,
            'goal_rng': self._goal_rng.bit_generator.state})

    def restore(self, folder: Path, transitions: Path | None = None) -> int:
        """Go on from what is on disk; see :class:`~async_mbrl.learning.learner.Learner`."""
        tensors, about = checkpoint.read(folder, self._identity()) or ({}, {})
        if about:
            self._load(folder, tensors, about)
        # The episode that acts next is known when a transition is taken, not from these.
        if self._take_back(transitions or folder, tensors, about):
            self._expect_statistics()
            # A policy that has learned goes on to act as it did: only an update changes it.
            if not self.updates:
                self._take_over()
        return self.buffer.next_number

    def _load(self, folder: Path, tensors: Mapping[str, torch.Tensor],
              about: Mapping[str, Any]) -> None:
        try:
            self.algorithm.load_state_dict(checkpoint.part('algorithm', tensors))
        except RuntimeError as error:
            raise CheckpointError(f'{folder} is of another version: {error}; begin a new run, or '
                                  'use the version that it was made with') from None
        if self._dynamics is not None:
            self._dynamics.load_state_dict(checkpoint.part('dynamics', tensors))
        for name, optimizer in self.algorithm.optimizers().items():
            optimizer.load(checkpoint.part(f'optimizer.{name}', tensors))
        if isinstance(self.algorithm, DrawsTransitions):
            self.algorithm.sampling.load(checkpoint.part('sampling', tensors))
        self._goal_rng.bit_generator.state = about['goal_rng']
        self._model_version = Version(*about['model_version'])
        self.begun_from_another = about.get('begun_from_another', False)
        self._parameter_noise.std = about.get('parameter_noise_std', 0.0)

    def _update_due(self) -> bool:
        config, rows = self._improvement, len(self.buffer)
        if rows < config.minimum_transitions or self.behind or (
                config.NEEDS_MODEL and self._model_version == NO_VERSION):
            return False
        if config.max_updates_per_transition and self.updates >= int(
                config.max_updates_per_transition * self.buffer.next_number):
            return False
        return (not config.on_policy_transitions
                or self._experience.complete(config.on_policy_transitions))

    def _exploration_std(self) -> float:
        """Give the standard deviation asked for; 0 where the policy has one of its own."""
        if self._stochastic:
            return 0.0
        return exploration_std(self._exploration, *self._motion())

    def _motion(self) -> tuple[int, float]:
        """Give the transitions that noise decays with, and the rate at which they come, Hz."""
        learned = self.begun_from_another or self.offline_updates
        steps = self._exploration.initial_steps if learned else 0
        return steps + self.transitions, self._task.config.policy_rate_hz

    def _take_over(self) -> None:
        """Take over what has arrived, unless an update is going on: it imagines in one model."""
        if self._stages is not None:
            return
        # A policy that acts stays the same until an update has changed it: its weights have been
        # learned with the statistics that it has, and what learns from its own actions needs them.
        settled = self.updates > 0 and self._experience.acting_since is not None
        if self._next_statistics is not None and not settled:
            described, self._next_statistics = self._next_statistics, None
            self._normalise(described)
        if self._next_model is not None and self._dynamics is not None:
            model, self._next_model = self._next_model, None
            self._dynamics.load_tensors(model.tensors)
            self._model_version = model.version

    def _imagination_of(self, dynamics: Dynamics, pool: Pool) -> Imagination:
        return Imagination(dynamics, self._task, pool, self._generators, self._goal_rng)

    def _normalise(self, described: Statistics) -> None:
        for policy in (self.algorithm.policy, self.algorithm.acting_policy):
            policy.normalise(described.state_mean, described.state_std)

    def _identity(self) -> dict[str, Any]:
        return {'learner': 'policy_learner', 'algorithm': type(self._improvement).__name__,
                'capacity': self._improvement.capacity,
                **self.algorithm.identity(),
                'policy': self.algorithm.policy.architecture,
                'model': self.model_architecture}


def _policy_of(state: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Give the tensors of the policy among those of any algorithm."""
    for prefix in ('policy.', 'actor_critic.policy.'):
        found = {name[len(prefix):]: value for name, value in state.items()
                 if name.startswith(prefix)}
        if found:
            return found
    raise CheckpointError(f'{folder}: no policy is in it')
