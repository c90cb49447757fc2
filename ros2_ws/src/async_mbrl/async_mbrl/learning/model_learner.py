"""The worker that learns the dynamics ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from async_mbrl.core.snapshot import NO_VERSION, Snapshot, Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.device import CPU, making_on
from async_mbrl.learning.dynamics import make_dynamics
from async_mbrl.learning.early_stopping import EarlyStopping
from async_mbrl.learning.normalisation import StatisticsRefresh, statistics
from async_mbrl.learning.pool import Pool
from async_mbrl.learning.split import ValidationSplit
from async_mbrl.learning.worker import Worker

_HORIZONS = (10, 30)


class ModelLearner(Worker):
    """Learns an ensemble from all transitions so far, continuously or until members stop early.

    What is published is a running average of the weights. Each episode is first predicted by the
    ensemble as it was before the episode began, and only judged by that.

    Offline data are drawn in proportion to their share of all transitions. Where members may stop
    early, they are data to learn from for all of them: what judges a member is of this robot.
    """

    def __init__(self, config: ModelConfig, task: Any, *, seed: int, incarnation: int = 1,
                 device: torch.device = CPU) -> None:
        """Build an ensemble that has learned nothing.

        Args:
            config: settings.
            task: see :mod:`async_mbrl.tasks`.
            seed: of the initial weights and of what is drawn.
            incarnation: which start of this learner it is; part of the versions it gives out.
            device: where it computes.
        """
        super().__init__(task, config.capacity, seed, incarnation, device)
        self._config = config
        noise = self._generators.noise
        with making_on(device):
            self.dynamics = make_dynamics(config, task, noise)
            self.average, self._before_episode = (
                make_dynamics(config, task, noise).requires_grad_(False) for _ in range(2))
            self.average.load_state_dict(self.dynamics.state_dict())
            self._parameters: list[torch.Tensor] = list(self.dynamics.parameters())
            self._averaged: list[torch.Tensor] = list(self.average.parameters())
            self._optimizer = Adam(self._parameters, config.learning_rate, config.weight_decay)
        self._statistics = StatisticsRefresh(config.clamp_margin)
        self._stopping: EarlyStopping | None = None
        self._split: ValidationSplit | None = None
        if config.early_stopping:
            self._stopping = EarlyStopping(config.members, config.persistence)
            self._split = ValidationSplit(config.members, config.capacity,
                                          config.validation_share)
        self._episode: list[Transition] = []
        self._judged = False
        self._epoch_updates = 0
        self.begun_from_another = False
        """Whether the run began with what another one had learned."""
        self._metrics: dict[str, float] = {}
        self._training_loss = torch.zeros(())

    @property
    def product(self) -> str:
        """Matrix product that the ensemble computes with: ``batched`` or ``onednn``."""
        return self.dynamics.network.product

    @property
    def ready(self) -> bool:
        """Whether there is something worth handing out yet: a model that has learned."""
        return self._updates_in_all > 0 or self.begun_from_another

    @property
    def _updates_in_all(self) -> int:
        return self.offline_updates + self.updates

    @property
    def model_version(self) -> Version:
        """None: the model depends on data only."""
        return NO_VERSION

    def take(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of their numbers, the first being the next one."""
        if not transitions:
            return
        self.buffer.append(transitions)
        new = self._new(transitions)
        for transition in new:
            self._follow_episode(transition)
        self._keep_up(len(new), any(each.terminated or each.truncated for each in new))

    def _keep_up(self, count: int, ended: bool) -> None:
        """Do what the newest transitions in the buffer ask for.

        Args:
            count: how many are new.
            ended: whether an episode has ended among them.
        """
        if not count:
            return
        if self._split is not None:
            self._split.append(self.buffer.next_number - count, count, self._generators.rows)
        # A member that has stopped learns what new statistics change only after a whole episode.
        described = (self._statistics.due(self.buffer)
                     if self._stopping is None or ended or not self.updates else None)
        if described is not None:
            for each in (self.dynamics, self.average):
                if self.begun_from_another or self.offline_transitions:
                    each.widen(described)
                else:
                    each.normalise(described)
        # Transitions come faster than members stop: new data are those of a whole episode.
        if self._stopping is not None and ended:
            self._stopping.new_data()

    def use_offline(self, offline: TransitionBuffer, digest: str = '') -> None:
        """Learn from offline data as well; see :class:`~async_mbrl.learning.worker.Worker`.

        The range that imagined states may have is theirs, and grows with the data of the robot.

        Raises:
            ConfigError: there are fewer than two transitions.
        """
        super().use_offline(offline, digest)
        described = statistics(offline, self._config.clamp_margin)
        for each in (self.dynamics, self.average):
            each.normalise(described)

    def learn_offline(self) -> None:
        """Take one update from the offline data alone; it is none of the run's.

        Raises:
            RuntimeError: there are no offline data.
        """
        offline = self.pool.offline
        if offline is None:
            raise RuntimeError('there are no offline data')
        self._update(Pool(offline), self._any_rows(len(offline)))
        self.offline_updates += 1
        self._average(1)

    def begin_from(self, folder: Path) -> None:
        """Begin with the model that another run has learned, where there is none yet.

        States and changes stay normalised as they were there. Transitions are not taken.

        Args:
            folder: of the checkpoint of a model learner.

        Raises:
            CheckpointError: it is damaged, or of another ensemble.
        """
        found = checkpoint.read_any(folder)
        wanted = json.loads(json.dumps({'learner': 'model_learner',
                                        **self.dynamics.architecture()}))
        theirs = {name: found.identity.get(name) for name in wanted}
        if theirs != wanted:
            raise CheckpointError(f'{folder}: {checkpoint.differences(theirs, wanted)}; begin from '
                                  'a run of the same task and model')
        self.dynamics.load_state_dict(checkpoint.part('dynamics', found.tensors))
        self.average.load_state_dict(checkpoint.part('average', found.tensors))
        self._optimizer.load(checkpoint.part('optimizer', found.tensors))
        self.begun_from_another = True

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore it: the model depends on data only."""

    def step(self) -> bool:
        """Take a few updates; False before there are data, or if all members stopped early.

        With offline data alone there is nothing to do: how often they are learned from before the
        run is settled.
        """
        config = self._config
        if len(self.pool) < config.minimum_transitions or not len(self.buffer) or self.behind:
            return False
        if self._stopping is not None and not self._stopping.active.any():
            return False
        allowed = config.updates_per_step
        if config.max_updates_per_transition:
            limit = int(config.max_updates_per_transition * self.buffer.next_number)
            allowed = min(allowed, limit - self.updates)
        if self._split is not None:
            # At least one: the set that an epoch passes over may have shrunk meanwhile.
            allowed = min(allowed, max(1, self._epoch_length() - self._epoch_updates))
        if allowed <= 0:
            return False
        for _ in range(allowed):
            self._update(self.pool, self._training_rows())
        self.updates += allowed
        self._average(allowed)
        self.epochs += allowed / self._epoch_length()
        if self._stopping is not None:
            self._epoch_updates += allowed
            if self._epoch_updates >= self._epoch_length():
                self._epoch_updates = 0
                self._end_epoch()
        return True

    def snapshot(self) -> Snapshot:
        """Give the averaged ensemble with normalisation and data range, under a new version.

        Raises:
            LearningDiverged: a parameter is not finite.
        """
        self._check_finite('model', self.dynamics.state_dict())
        return Snapshot(
            kind='model', version=self._next_version(), architecture=self.dynamics.architecture(),
            tensors=self.average.tensors(), trained_on_transitions=self.transitions,
            updates=self.updates, model_version=NO_VERSION)

    def metrics(self) -> dict[str, float]:
        """Training loss, and how the newest complete episode was predicted before learning from it.

        ``validation_loss``: one-step, as it is minimised. ``open_loop_error_<steps>_m``: mean
        distance of the tool points that many steps after the start, predicted from the first state
        and the actions alone.
        """
        return {'training_loss': float(self._training_loss), **self._metrics,
                **self._offline_metrics()}

    def save(self, folder: Path, transitions: Path | None = None) -> None:
        """Write a checkpoint; see :class:`~async_mbrl.learning.learner.Learner`."""
        self._check_finite('model', self.dynamics.state_dict())
        tensors = {
            **checkpoint.prefixed('dynamics', self.dynamics.state_dict()),
            **checkpoint.prefixed('average', self.average.state_dict()),
            **checkpoint.prefixed('optimizer', self._optimizer.tensors())}
        if self._split is not None:
            tensors.update(checkpoint.prefixed('split', self._split.tensors()))
        self._write(folder, transitions, self._identity(), tensors, {
            'epoch_updates': self._epoch_updates, 'metrics': self._metrics,
            'begun_from_another': self.begun_from_another,
            'stopping': None if self._stopping is None else self._stopping.state()})

    def restore(self, folder: Path, transitions: Path | None = None) -> int:
        """Go on from what is on disk; see :class:`~async_mbrl.learning.learner.Learner`."""
        tensors, about = checkpoint.read(folder, self._identity()) or ({}, {})
        if about:
            self._load(tensors, about)
        more = self._take_back(transitions or folder, tensors, about)
        self._keep_up(more, self.buffer.over_since(self.buffer.next_number - more))
        return self.buffer.next_number

    def _load(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        self.dynamics.load_state_dict(checkpoint.part('dynamics', tensors))
        self.average.load_state_dict(checkpoint.part('average', tensors))
        self._optimizer.load(checkpoint.part('optimizer', tensors))
        if self._split is not None and self._stopping is not None:
            self._split.load(checkpoint.part('split', tensors), about['next_transition'])
            self._stopping.load(about['stopping'])
        self._epoch_updates, self._metrics = about['epoch_updates'], about['metrics']
        self.begun_from_another = about.get('begun_from_another', False)

    def _identity(self) -> dict[str, Any]:
        architecture = self.dynamics.architecture()
        return {'learner': 'model_learner', 'capacity': self._config.capacity,
                'early_stopping': self._config.early_stopping, **architecture}

    def _epoch_length(self) -> int:
        """Give the updates that pass over the training data once."""
        rows = len(self.pool)
        if self._split is not None:
            rows = self.pool.offline_rows + self._split.largest_training_set
        return max(1, -(-rows // self._config.batch))

    def _training_rows(self) -> torch.Tensor:
        """Draw rows of the pool (members, batch) to learn from."""
        if self._split is None:
            return self._any_rows(len(self.pool))
        return self._split.draw(self._config.batch, self._generators.rows, self.pool.offline_rows)

    def _any_rows(self, count: int) -> torch.Tensor:
        return torch.randint(count, (self._config.members, self._config.batch),
                             generator=self._generators.rows)

    def _update(self, pool: Pool, rows: torch.Tensor) -> None:
        """Take one gradient step on rows (members, batch) of a pool, a batch for each member."""
        active = None if self._stopping is None else self._stopping.active
        if active is None or active.all():
            loss = self.dynamics.errors(*pool.batch(rows)).mean(1)
            self._optimizer.step(torch.autograd.grad(loss.sum(), self._parameters))
        else:
            members = torch.from_numpy(np.flatnonzero(active))
            loss = self.dynamics.errors(*pool.batch(rows[members]),
                                        members.to(self._device)).mean(1)
            self._step_without(~active, torch.autograd.grad(loss.sum(), self._parameters))
        self._training_loss = loss.detach().mean()

    @torch.no_grad()
    def _average(self, updates: int) -> None:
        """Move the running average on by a number of updates, as if all had led to here.

        So it costs a pass over the parameters for several updates, not one for each.
        """
        rate = max(1.0 - (1.0 - self._config.average) ** updates,
                   min(1.0, updates / self._updates_in_all))
        torch._foreach_lerp_(self._averaged, [p.detach() for p in self._parameters], rate)

    @torch.no_grad()
    def _step_without(self, stopped: np.ndarray, gradients: Sequence[torch.Tensor]) -> None:
        """Let the optimiser step, but leave stopped members and their moments as they are."""
        members = torch.from_numpy(np.flatnonzero(stopped)).to(self._device)
        kept = [(tensor, tensor[members].clone())
                for tensors in (self._parameters, *self._optimizer.moments) for tensor in tensors]
        self._optimizer.step(gradients)
        for tensor, before in kept:
            tensor[members] = before

    @torch.no_grad()
    def _end_epoch(self) -> None:
        """Judge each member by its validation data and stop those that no longer gain."""
        assert self._split is not None and self._stopping is not None
        rows, weights = self._split.validation_rows()
        # At first a member may have nothing to be judged by, or next to nothing: beside offline
        # data learning begins with the first transition of the robot.
        if len(self.buffer) < self._config.minimum_transitions or not (weights > 0).any(1).all():
            return
        errors = self.dynamics.errors(*self.buffer.batch(rows))
        loss = (errors * weights.to(self._device)).sum(1).cpu()
        self._stopping.epoch(loss.numpy().astype(float))
        self._metrics['holdout_loss'] = float(loss.mean())
        self._metrics['active_members'] = float(self._stopping.active.sum())

    def _follow_episode(self, transition: Transition) -> None:
        """Collect the transitions of an episode; judge the prediction of it when it is over."""
        if transition.step == 0:
            self._episode = []
            self._judged = self.ready
            if self._judged:
                self._before_episode.load_state_dict(self.average.state_dict())
        self._episode.append(transition)
        if (transition.terminated or transition.truncated) and self._judged:
            self._judged = False
            self._judge_episode()

    @torch.inference_mode()
    def _judge_episode(self) -> None:
        members, size = self._config.members, self._task.state_size
        observed = torch.from_numpy(np.stack(
            [self._episode[0].observation, *(t.next_observation for t in self._episode)])
        ).to(self._device)
        states = observed[:, :size].expand(members, -1, -1)
        actions = torch.from_numpy(np.stack(
            [t.action_applied for t in self._episode])).to(self._device).expand(members, -1, -1)
        model = self._before_episode
        errors = model.errors(states[:, :-1], actions, states[:, 1:])
        self._metrics['validation_loss'] = float(errors.mean())
        tool = getattr(self._task, 'tool', None)
        if tool is None:
            return
        predicted = states[:, :1]
        for step in range(min(max(_HORIZONS), len(self._episode))):
            predicted = model.predict(predicted, actions[:, step:step + 1])
            if step + 1 in _HORIZONS:
                error = (predicted - states[:, step + 1:step + 2])[..., tool]
                distance = error.unflatten(-1, (-1, 3)).norm(dim=-1).mean()
                self._metrics[f'open_loop_error_{step + 1}_m'] = float(distance)
