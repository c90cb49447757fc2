"""The worker that plans: control steps and models in, plans out; it knows no clock and no topic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from async_mbrl.core.plan import MOST_STEPS, Plan
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, SnapshotError, Version
from async_mbrl.core.transition import ControlStep, StepKind
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.device import CPU, Generators, making_on
from async_mbrl.learning.dynamics import make_imagined
from async_mbrl.learning.planning import Planner
from async_mbrl.learning.settings.pets import PetsConfig


class PredictiveControl:
    """Plans for the steps to come of the episode that is executed, in the newest model."""

    def __init__(self, improvement: PetsConfig, model: ModelConfig, task: Any, *,
                 seed: int, device: torch.device = CPU) -> None:
        """Begin without a model.

        Args:
            improvement: settings of the planner.
            model: settings of the model that will come.
            task: see :mod:`async_mbrl.tasks`.
            seed: of what is drawn.
            device: where it plans.
        """
        self._task = task
        self._device = device
        generator = Generators.on(device, seed).noise
        with making_on(device):
            self._dynamics = make_imagined(model, task, generator)
            self._planner = Planner(improvement, self._dynamics, task, generator)
        self._config = improvement
        self._newest: Plan | None = None
        self._first = 0
        self.model_version: Version = NO_VERSION
        """Version of the model in use."""

    @property
    def model_architecture(self) -> dict[str, Any]:
        """Architecture that a model must have."""
        return self._dynamics.architecture()

    @property
    def model_bytes(self) -> int:
        """Size of the tensors of such a model."""
        return self._dynamics.learned_bytes

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take a model; one that is not newer is ignored.

        Raises:
            SnapshotError: a tensor is missing, unknown or of another shape.
        """
        if snapshot.version <= self.model_version:
            return
        wanted = {name: tuple(value.shape) for name, value in self._dynamics.state_dict().items()}
        found = {name: value.shape for name, value in snapshot.tensors.items()}
        if found != wanted:
            raise SnapshotError(f'model {snapshot.version} has tensors of shapes {found}, expected '
                                f'{wanted}')
        self._dynamics.load_tensors(snapshot.tensors)
        self.model_version = snapshot.version

    def plan(self, event: ControlStep, lead: int = 1) -> Plan | None:
        """Plan on from a policy step.

        Args:
            event: what the controller has published; its action is being executed.
            lead: the first step, counted from that one, for which a plan can be there in time, at
                least 1. Until then what was planned before is followed.

        Returns:
            Actions from the next step on; None without a model, or after other events.
        """
        if self.model_version == NO_VERSION or event.kind != StepKind.STEP:
            return None
        committed = self._committed(event, min(lead, MOST_STEPS - self._config.handed_out))
        first = event.step + len(committed)
        before = self._newest
        if before is None or (before.command_number, before.episode) != (
                event.command_number, event.episode) or first < self._first:
            self._planner.forget()
        else:
            self._planner.shift(first - self._first)
        self._first = first
        observation = torch.from_numpy(np.array(event.observation, np.float32))
        actions = self._planner.plan(observation.to(self._device), torch.from_numpy(committed).to(
            self._device)).cpu().numpy()
        self._newest = Plan(event.command_number, event.episode, event.step + 1, np.concatenate(
            [committed[1:], actions[:self._config.handed_out]]))
        return self._newest

    def _committed(self, event: ControlStep, lead: int) -> np.ndarray:
        """Give the actions (at most lead, n) that are executed before a new plan is there."""
        actions = [np.clip(event.action_requested, -1.0, 1.0)]
        for step in range(event.step + 1, event.step + lead):
            before = self._newest
            planned = None if before is None else before.action(
                event.command_number, event.episode, step)
            actions.append(np.zeros(self._task.action_size) if planned is None else planned)
        return np.stack(actions).astype(np.float32)
