"""Lets a person take over by a joystick: ``sensor_msgs/Joy`` in, ``takeover`` out."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from async_mbrl.control.settings import TELEOP, TakeoverSettings
from async_mbrl.core.config import param
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros.bridged_node import BridgedNode, serve
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.teleop_bridge import TeleopBridge
from async_mbrl.tasks import TaskConfig


@dataclass(frozen=True)
class TeleopConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    takeover: TakeoverSettings = param('the joystick')


class TeleopNode(BridgedNode[TeleopBridge]):
    """The joystick as a managed node; inactive it sends nothing."""

    def __init__(self) -> None:
        """Read the parameters.

        Raises:
            ConfigError: they do not fit.
        """
        super().__init__(TELEOP)
        self.config = config_from_parameters(self, TeleopConfig)

    def configure(self) -> None:
        """Join the graph."""
        config = self.config
        self.bridge = TeleopBridge(self, config.takeover, config.robot,
                                   config.task.policy_rate_hz, config.run.real_time_factor)

    def cleanup(self) -> None:
        """Leave the graph."""
        self.bridge = None

    def on_failure(self) -> None:
        """Leave the graph."""
        self.bridge = None


def spin(node: ManagedNode) -> None:
    """Serve callbacks until the run is over or a signal."""
    assert isinstance(node, TeleopNode)
    serve(node)


def main() -> None:
    """Run the joystick."""
    sys.exit(run_managed(TeleopNode, spin))


if __name__ == '__main__':
    main()
