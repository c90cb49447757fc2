"""Learns the dynamics from all transitions of the run and publishes the model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rclpy.node import Node

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.ros.learner_bridge import LearnerBridge, LearnerFiles
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import run_node
from async_mbrl.tasks import TaskConfig, make_task

NAME = 'model_learner'


@dataclass(frozen=True)
class ModelLearnerConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    model: ModelConfig = param('the dynamics ensemble')


class ModelLearnerNode(Node):
    """The model learner as a ROS node."""

    def __init__(self) -> None:
        """Read the parameters and go on from the checkpoint, if there is one.

        Raises:
            ConfigError: parameters do not fit, or the checkpoint cannot be used.
        """
        super().__init__(NAME)
        config = config_from_parameters(self, ModelLearnerConfig)
        folder = RunFolder(Path(config.run.run_dir)).learner(NAME)
        task = make_task(config.task, config.robot)
        try:
            incarnation = raise_incarnation(folder)
            learner = ModelLearner(config.model, task, incarnation=incarnation,
                                   seed=learner_seed(config.run.seed, NAME))
            self.bridge = LearnerBridge(
                self, learner, LearnerFiles(folder), topic='model_parameters',
                publish_interval_s=config.model.publish_interval_s)
        except CheckpointError as error:
            raise ConfigError(str(error)) from None


def spin(node: Node) -> None:
    """Learn until the run is over.

    Raises:
        ConfigError: the checkpoint does not fit the run.
    """
    assert isinstance(node, ModelLearnerNode)
    node.bridge.run()


def main() -> None:
    """Run the model learner."""
    torch.set_num_threads(1)
    sys.exit(run_node(ModelLearnerNode, spin))


if __name__ == '__main__':
    main()
