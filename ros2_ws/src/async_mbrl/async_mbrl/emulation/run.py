"""A run on an emulated clock: robot, collector and learners in lockstep in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.control.core import ControlCore
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.plan import Plan
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import ControlStep, EpisodeCommand
from async_mbrl.emulation.pace import Pace, Sequential, SideBySide
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import find_device
from async_mbrl.learning.learner import Learner, learner_seed
from async_mbrl.learning.learners import make_learners
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.predictive_control import PredictiveControl
from async_mbrl.learning.pretraining import Pretraining, read_offline
from async_mbrl.learning.sequential import SequentialLearner
from async_mbrl.learning.settings import ImprovementConfig, PetsConfig
from async_mbrl.simulation.body import make_physics
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.offline import SETTLE_S, OfflineArm
from async_mbrl.tasks import TaskConfig, make_task

_PLANT = 21
"""Number that keeps the sensor noise apart from other random streams of the seed."""


class Control(Protocol):
    """Gives actions ahead of the steps that they are for."""

    def plan(self, event: ControlStep) -> Plan | None:
        """Plan on from an event of the control loop; None for no plan."""
        ...

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take a model that is learned meanwhile."""
        ...


class EmulationError(RuntimeError):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class EmulationSettings:
    """All that a run on the emulated clock depends on."""

    seed: int
    robot: RobotConfig
    plant: PlantConfig
    task: TaskConfig
    collection: CollectionConfig
    model: ModelConfig
    network: PolicyNetworkConfig
    exploration: ExplorationConfig
    improvement: ImprovementConfig
    schedule: ScheduleConfig
    dataset: str = ''
    device: str = 'cpu'


@dataclass
class Progress:
    """How far an emulated run is.

    Attributes:
        samples: transitions so far.
        robot_time_s: data time: motion time and the configured duration of each reset.
        elapsed_s: computing time of this process until here, which what runs beside it hardly
            changes; of all the figures the only one that is another one each time.
        curve: after each whole episode: samples, robot_time_s, return (mean of the last 5),
            success_rate (the same), wall_time_s (``elapsed_s`` then: computing time).
        updates: of the model and of the policy.
        model_epochs: passes of the model over its data.
        aborted: episodes that were aborted.
        planned_steps: policy steps that were acted as planned.
    """

    samples: int = 0
    robot_time_s: float = 0.0
    elapsed_s: float = 0.0
    curve: list[dict[str, float | None]] = field(default_factory=list)
    updates: dict[str, int] = field(default_factory=dict)
    model_epochs: float = 0.0
    aborted: int = 0
    planned_steps: int = 0

    @property
    def updates_per_transition(self) -> dict[str, float]:
        """Updates of each learner for each transition."""
        return {name: count / max(1, self.samples) for name, count in self.updates.items()}


class EmulatedRun:
    """Episodes on a simulated robot, and the learners between two ticks of its control loop.

    The robot starts each episode in its start pose, and what is learned takes no robot time. All
    random numbers follow from the seed, so a run can be repeated exactly on the same machine.

    Attributes:
        progress: how far it is.
    """

    def __init__(self, settings: EmulationSettings, samples: int, *, pace: Pace | None = None,
                 control: Control | None = None) -> None:
        """Set up robot and learners; what is learned from a dataset alone is learned here.

        Args:
            settings: of the run.
            samples: transitions to collect, at least 1.
            pace: what takes the transitions and gives policies, in place of learners.
            control: what plans the actions, in place of the planner of the settings.

        Raises:
            ConfigError: parts do not fit each other.
        """
        if samples < 1:
            raise ConfigError(f'samples: {samples} is below the minimum 1')
        device = find_device(settings.device)
        self._task = make_task(settings.task, settings.robot)
        self._samples = samples
        self._config = replace(settings.collection,
                               motion_time_s=samples / settings.task.policy_rate_hz)
        self._collector = Collector(self._task, self._config, settings.seed)
        self._core = ControlCore(settings.robot, self._task, settings.network)
        self._arm = OfflineArm(
            make_physics(settings.plant, settings.robot,
                         np.random.default_rng([settings.seed, _PLANT])), self._core, FakeClock())
        self._model: ModelLearner | None = None
        self._policy: PolicyLearner | None = None
        self._control = control
        if isinstance(settings.improvement, PetsConfig) and control is None:
            self._control = PredictiveControl(settings.improvement, settings.model, self._task,
                                              seed=learner_seed(settings.seed, 'planner'),
                                              device=device)
        self._planned_with = -1     # one that was learned from a dataset has no updates yet
        if pace is None:
            model, policy = make_learners(settings, self._task, settings.seed, device)
            if settings.dataset:
                training = Pretraining(
                    read_offline(self._task, Path(settings.dataset), device), policy, model)
                for _ in training.run(settings.improvement.offline_updates,
                                      settings.model.offline_updates):
                    pass
            pace = _pace(settings.schedule, model, policy)
            self._model, self._policy = model, policy
        self._pace = pace
        self._newest: Snapshot | None = None
        self._since_s = 0.0
        self.progress = Progress()

    def run(self, watch: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Collect and learn to the end.

        Args:
            watch: called after each transition.

        Raises:
            EmulationError: too many episodes in a row were aborted.
            LearningDiverged: parameters are no longer finite.
        """
        self._since_s = time.process_time()
        self._act_by(self._pace.first())
        number = aborts = 0
        while not self._collector.used_up:
            command = replace(self._collector.learning_command(number), move_duration_s=SETTLE_S)
            reason = self._episode(command, watch)
            number += 1
            if reason is None:
                aborts = 0
                continue
            aborts, self.progress.aborted = aborts + 1, self.progress.aborted + 1
            if aborts >= self._config.maximum_aborts:
                raise EmulationError(f'{aborts} episodes in a row were aborted: {reason}')
        return self.progress

    @property
    def offline_updates(self) -> dict[str, int]:
        """Updates of each learner from a dataset alone; none of them is one of ``progress``."""
        return {'model': 0 if self._model is None else self._model.offline_updates,
                'policy': 0 if self._policy is None else self._policy.offline_updates}

    def first_policy(self) -> Snapshot:
        """Give the policy that the run begins with, before it does."""
        return self._pace.first()

    def policy_bytes(self) -> bytes:
        """Give the newest policy, encoded."""
        assert self._newest is not None
        return snapshots.encode(self._newest)

    def _episode(self, command: EpisodeCommand, watch: Callable[[Progress], None]) -> str | None:
        """Run an episode; give the reason if it was aborted."""
        collector = self._collector
        collector.commanded(command, self._arm.time_s)
        for event in self._arm.events(command, teleport=True):
            taken = collector.take(event, event.time_s)
            curve = collector.learning_curve
            self._count()
            if len(curve) > len(self.progress.curve):
                robot_time_s, ret, success = curve[-1]
                self.progress.curve.append({
                    'samples': collector.transitions, 'robot_time_s': robot_time_s,
                    'return': ret, 'success_rate': success,
                    'wall_time_s': self.progress.elapsed_s})
            for transition in taken.transitions:
                newer = self._pace.take(transition)
                if newer is not None:
                    self._act_by(newer)
                self._count()
                watch(self.progress)
            if taken.aborted is not None:
                return taken.aborted
            if self._control is not None:
                self._plan(self._control, event)
        return None

    def _plan(self, control: Control, event: ControlStep) -> None:
        """Plan for the step after this one, in the newest model; planning takes no robot time."""
        model = self._model
        if model is not None and model.ready and model.updates > self._planned_with:
            control.take_snapshot(model.snapshot())
            self._planned_with = model.updates
        plan = control.plan(event)
        if plan is not None:
            self._core.set_plan(plan)

    def _act_by(self, snapshot: Snapshot) -> None:
        self._newest = snapshot
        self._core.set_policy(PolicyParameters.from_snapshot(snapshot))

    def _count(self) -> None:
        progress, model = self.progress, self._model
        progress.samples = self._collector.transitions
        progress.robot_time_s = self._collector.robot_time_s
        progress.elapsed_s = time.process_time() - self._since_s
        progress.updates = {'model': 0 if model is None else model.updates,
                            'policy': 0 if self._policy is None else self._policy.updates}
        progress.planned_steps = self._core.planned_steps
        progress.model_epochs = 0.0 if model is None else model.epochs


def _pace(schedule: ScheduleConfig, model: Learner | None, policy: Learner) -> Pace:
    if schedule.sequential:
        return Sequential(SequentialLearner(schedule, model, policy))
    return SideBySide(schedule, model, policy)
