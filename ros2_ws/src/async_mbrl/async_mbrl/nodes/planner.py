"""Plans the steps to come in the newest model, and streams the actions to the controller."""

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
from async_mbrl.learning.learner import learner_seed
from async_mbrl.learning.predictive_control import PredictiveControl
from async_mbrl.learning.settings import PetsConfig
from async_mbrl.ros.bridged_node import BridgedNode, serve
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.planner_bridge import PlannerBridge
from async_mbrl.tasks import TaskConfig, make_task

NAME = 'planner'


@dataclass(frozen=True)
class PlannerConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    model: ModelConfig = param('the dynamics ensemble')
    improvement: PetsConfig = param('the planner')


class PlannerNode(BridgedNode[PlannerBridge]):
    """The planner as a managed node; inactive it takes models, but the policy acts."""

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they do not fit.
        """
        super().__init__(NAME)
        self.config = config_from_parameters(self, PlannerConfig)

    def configure(self) -> None:
        """Build the planner and what carries its messages."""
        config = self.config
        task = make_task(config.task, config.robot)
        learned = RunFolder(Path(config.run.run_dir)).learner('policy_learner')
        control = PredictiveControl(config.improvement, config.model, task,
                                    seed=learner_seed(config.run.seed, NAME),
                                    device=find_device_again(config.run.device, learned))
        self.bridge = PlannerBridge(self, control, task, config.run.real_time_factor)

    def cleanup(self) -> None:
        """Leave the graph."""
        bridge, self.bridge = self.bridge, None
        if bridge is not None:
            bridge.stop()
            if bridge.error is not None:
                raise bridge.error

    def on_failure(self) -> None:
        """Leave the graph."""
        bridge, self.bridge = self.bridge, None
        if bridge is not None:
            bridge.stop()


def spin(node: ManagedNode) -> None:
    """Serve callbacks until the run is over or a signal.

    Raises:
        RuntimeError: planning has failed; the cause is chained.
    """
    assert isinstance(node, PlannerNode)
    serve(node)
    error = None if node.bridge is None else node.bridge.error
    if error is not None:
        raise RuntimeError(f'{NAME} has failed') from error


def main() -> None:
    """Run the planner."""
    torch.set_num_threads(1)
    sys.exit(run_managed(PlannerNode, spin))


if __name__ == '__main__':
    main()
