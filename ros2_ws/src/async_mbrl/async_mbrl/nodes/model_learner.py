"""Learns the dynamics from all transitions of the run and publishes the model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from async_mbrl.core.config import param
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.device import find_device_again
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.ros.bounds import StreamBounds
from async_mbrl.ros.learner_bridge import LearnerBridge, LearnerFiles
from async_mbrl.ros.learner_node import LearnerNode, begin_from, spin, use_dataset
from async_mbrl.ros.lifecycle import run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.tasks import TaskConfig, make_task

NAME = 'model_learner'


@dataclass(frozen=True)
class ModelLearnerConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    model: ModelConfig = param('the dynamics ensemble')


class ModelLearnerNode(LearnerNode):
    """The model learner as a managed node."""

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they do not fit.
        """
        super().__init__(NAME)
        self.config = config_from_parameters(self, ModelLearnerConfig)
        self.task = make_task(self.config.task, self.config.robot)

    def build(self) -> LearnerBridge:
        """Build the learner and what carries its messages."""
        config, task = self.config, self.task
        folder = RunFolder(Path(config.run.run_dir)).learner(NAME)
        learner = ModelLearner(config.model, task, incarnation=raise_incarnation(folder),
                               seed=learner_seed(config.run.seed, NAME),
                               device=find_device_again(config.run.device, folder))
        use_dataset(self, learner, NAME, config.run, folder, config.model.offline_updates, task)
        begin_from(self, learner, NAME, config.run, folder)
        self.get_logger().info(f'matrix product of the ensemble: {learner.product} '
                               f'(model.product: {config.model.product})')
        return LearnerBridge(
            self, learner, LearnerFiles(folder), topic='model_parameters',
            publish_interval_s=config.model.publish_interval_s, bounds=StreamBounds.of(task),
            dry_run=config.run.dry_run)


def main() -> None:
    """Run the model learner."""
    torch.set_num_threads(1)
    sys.exit(run_managed(ModelLearnerNode, spin))


if __name__ == '__main__':
    main()
