"""Improves the policy and publishes it with its exploration."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import torch

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import find_device_again
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.learner import Learner, learner_seed
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.policy_server import PolicyServer
from async_mbrl.learning.sequential import SequentialLearner
from async_mbrl.learning.settings import IMPROVEMENTS
from async_mbrl.ros.bounds import StreamBounds
from async_mbrl.ros.learner_bridge import LearnerBridge, LearnerFiles
from async_mbrl.ros.learner_node import LearnerNode, begin_from, spin, use_dataset
from async_mbrl.ros.lifecycle import run_managed
from async_mbrl.ros.params import config_from_parameters, peek
from async_mbrl.ros.snapshot_intake import SnapshotIntake
from async_mbrl.tasks import TaskConfig, make_task

NAME = 'policy_learner'
MODEL_BACKLOG = 2
"""One model may come while another waits to be taken; older ones go."""


@dataclass(frozen=True)
class PolicyLearnerConfig:
    """Parameters that the node has with every algorithm."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    model: ModelConfig = param('the dynamics ensemble')
    network: PolicyNetworkConfig = param('the policy network')
    exploration: ExplorationConfig = param('the exploration noise')
    schedule: ScheduleConfig = param('how collecting and learning take turns')


CONFIGS: dict[str, Any] = {
    algorithm: make_dataclass(f'{settings.__name__}Node', [
        ('improvement', settings, param('the algorithm'))],
        bases=(PolicyLearnerConfig,), frozen=True)
    for algorithm, settings in IMPROVEMENTS.items()}
"""Parameters of the node with each algorithm."""


class PolicyLearnerNode(LearnerNode):
    """The policy learner as a managed node; in mode use it hands out what another run learned.

    With a sequential schedule it learns the model, too.
    """

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they do not fit.
        """
        super().__init__(NAME)
        algorithm = peek(self, 'run.algorithm')
        if algorithm not in CONFIGS:
            raise ConfigError(f'run.algorithm: {algorithm!r} is not one of {", ".join(CONFIGS)}')
        self.config = config_from_parameters(self, CONFIGS[algorithm])
        self.task = make_task(self.config.task, self.config.robot)

    def build(self) -> LearnerBridge:
        """Build the learner, or what stands in its place, and what carries its messages."""
        run_folder = RunFolder(Path(self.config.run.run_dir))
        folder = run_folder.learner(NAME)
        files = LearnerFiles(folder, run_folder.first_policy, run_folder.policy)
        if self.config.run.mode == 'use':
            return self._bridge(self._server(raise_incarnation(folder)), files)
        config, incarnation = self.config, raise_incarnation(folder)
        if config.schedule.sequential:      # the arm waits: nobody else needs the cores
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        device = find_device_again(config.run.device, folder)
        learner = PolicyLearner(
            config.improvement, config.model, config.network, config.exploration, self.task,
            incarnation=incarnation, seed=learner_seed(config.run.seed, NAME), device=device)
        use_dataset(self, learner, NAME, config.run, folder, config.improvement.offline_updates,
                    self.task)
        begin_from(self, learner, NAME, config.run, folder)
        if config.schedule.sequential:
            model = ModelLearner(
                config.model, self.task, incarnation=incarnation,
                seed=learner_seed(config.run.seed, 'model_learner'), device=device
            ) if config.improvement.NEEDS_MODEL else None
            if model is not None:
                begin_from(self, model, 'model_learner', config.run, folder)
            return self._bridge(SequentialLearner(config.schedule, model, learner), files)
        if not config.improvement.NEEDS_MODEL:
            return self._bridge(learner, files)
        return self._bridge(learner, files, SnapshotIntake(
            self, 'model', learner.model_architecture, learner.model_bytes, backlog=MODEL_BACKLOG,
            decode=lambda model, _published_ns: model, take=learner.take_snapshot))

    def _server(self, incarnation: int) -> PolicyServer:
        run = self.config.run
        server = PolicyServer(run.policy_from, self.config.network, self.task,
                              incarnation=incarnation)
        self.get_logger().info(
            f'policy {server.origin.version} of {run.policy_from}, learned from '
            f'{server.origin.trained_on_transitions} transitions, is handed out as {incarnation}.0')
        return server

    def _bridge(self, learner: Learner, files: LearnerFiles,
                models: SnapshotIntake[Snapshot] | None = None) -> LearnerBridge:
        return LearnerBridge(
            self, learner, files, topic='policy_parameters',
            publish_interval_s=self.config.improvement.publish_interval_s,
            bounds=StreamBounds.of(self.task), dry_run=self.config.run.dry_run, models=models)


def main() -> None:
    """Run the policy learner."""
    torch.set_num_threads(1)
    sys.exit(run_managed(PolicyLearnerNode, spin))


if __name__ == '__main__':
    main()
