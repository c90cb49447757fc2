"""Improves the policy inside the newest model and publishes it with its exploration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.learning.config import ExplorationConfig, MePpoConfig, ModelConfig, SvgConfig
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.learner import Learner, learner_seed
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.policy_server import PolicyServer
from async_mbrl.ros.bounds import StreamBounds
from async_mbrl.ros.learner_bridge import LearnerBridge, LearnerFiles
from async_mbrl.ros.learner_node import LearnerNode, spin
from async_mbrl.ros.lifecycle import run_managed
from async_mbrl.ros.model_intake import ModelIntake
from async_mbrl.ros.params import config_from_parameters, peek
from async_mbrl.tasks import TaskConfig, make_task

NAME = 'policy_learner'


@dataclass(frozen=True)
class PolicyLearnerConfig:
    """Parameters that the node has with every algorithm."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    model: ModelConfig = param('the dynamics ensemble')
    network: PolicyNetworkConfig = param('the policy network')
    exploration: ExplorationConfig = param('the exploration noise')


@dataclass(frozen=True)
class MePpoLearnerConfig(PolicyLearnerConfig):
    """Parameters of the node with ME-PPO."""

    improvement: MePpoConfig = param('the algorithm')


@dataclass(frozen=True)
class SvgLearnerConfig(PolicyLearnerConfig):
    """Parameters of the node with SVG."""

    improvement: SvgConfig = param('the algorithm')


CONFIGS = {'me_ppo': MePpoLearnerConfig, 'svg': SvgLearnerConfig}


class PolicyLearnerNode(LearnerNode):
    """The policy learner as a managed node; in mode use it hands out what another run learned."""

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
        config = self.config
        learner = PolicyLearner(
            config.improvement, config.model, config.network, config.exploration, self.task,
            incarnation=raise_incarnation(folder), seed=learner_seed(config.run.seed, NAME))
        return self._bridge(learner, files, ModelIntake(
            self, learner.model_architecture, learner.model_bytes, learner.take_snapshot))

    def _server(self, incarnation: int) -> PolicyServer:
        run = self.config.run
        server = PolicyServer(run.policy_from, self.config.network, self.task,
                              incarnation=incarnation)
        self.get_logger().info(
            f'policy {server.origin.version} of {run.policy_from}, learned from '
            f'{server.origin.trained_on_transitions} transitions, is handed out as {incarnation}.0')
        return server

    def _bridge(self, learner: Learner, files: LearnerFiles,
                models: ModelIntake | None = None) -> LearnerBridge:
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
