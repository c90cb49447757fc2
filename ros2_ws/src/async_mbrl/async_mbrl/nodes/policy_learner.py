"""Improves the policy inside the newest model and publishes it with its exploration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rclpy.node import Node

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunFolder, RunSettings
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.config import ExplorationConfig, MePpoConfig, ModelConfig, SvgConfig
from async_mbrl.learning.incarnation import raise_incarnation
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.ros.learner_bridge import LearnerBridge, LearnerFiles
from async_mbrl.ros.model_intake import ModelIntake
from async_mbrl.ros.params import config_from_parameters, peek
from async_mbrl.ros.run import run_node
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


class PolicyLearnerNode(Node):
    """The policy learner as a ROS node."""

    def __init__(self) -> None:
        """Read the parameters and go on from the checkpoint, if there is one.

        Raises:
            ConfigError: parameters do not fit, or the checkpoint cannot be used.
        """
        super().__init__(NAME)
        algorithm = peek(self, 'run.algorithm')
        if algorithm not in CONFIGS:
            raise ConfigError(f'run.algorithm: {algorithm!r} is not one of {", ".join(CONFIGS)}')
        config = config_from_parameters(self, CONFIGS[algorithm])
        run_folder = RunFolder(Path(config.run.run_dir))
        folder = run_folder.learner(NAME)
        task = make_task(config.task, config.robot)
        try:
            incarnation = raise_incarnation(folder)
            learner = PolicyLearner(
                config.improvement, config.model, config.network, config.exploration, task,
                incarnation=incarnation, seed=learner_seed(config.run.seed, NAME))
            self.bridge = LearnerBridge(
                self, learner,
                LearnerFiles(folder, run_folder.first_policy, run_folder.policy),
                topic='policy_parameters',
                publish_interval_s=config.improvement.publish_interval_s,
                models=ModelIntake(self, learner.model_architecture, learner.model_bytes,
                                   learner.take_snapshot))
        except CheckpointError as error:
            raise ConfigError(str(error)) from None


def spin(node: Node) -> None:
    """Learn until the run is over.

    Raises:
        ConfigError: the checkpoint does not fit the run.
    """
    assert isinstance(node, PolicyLearnerNode)
    node.bridge.run()


def main() -> None:
    """Run the policy learner."""
    torch.set_num_threads(1)
    sys.exit(run_node(PolicyLearnerNode, spin))


if __name__ == '__main__':
    main()
