"""Moves the arm: policy steps, moves, holding. The loop itself is a process of its own."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from async_mbrl.control.process import LoopProcess
from async_mbrl.control.settings import ControllerSettings, LoopSettings
from async_mbrl.core.config import param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros.controller_bridge import ControllerBridge
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import note_stops, run_node
from async_mbrl.tasks import TaskConfig

LOOP_PRIORITY = 50
PRIORITY = 40
SWITCH_INTERVAL_S = 0.0002


@dataclass(frozen=True)
class ControllerConfig:
    """Parameters of the node."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    task: TaskConfig = param('the task')
    network: PolicyNetworkConfig = param('the policy network')
    controller: ControllerSettings = param('what is watched')


class Controller(Node):
    """The controller as a ROS node."""

    def __init__(self, scheduler: str) -> None:
        """Read the parameters and start the control loop.

        Args:
            scheduler: what this process runs under, for the log.

        Raises:
            ConfigError: parameters are missing or do not fit each other.
        """
        super().__init__('controller')
        config = config_from_parameters(self, ControllerConfig)
        factor = config.run.real_time_factor
        settings = LoopSettings(config.robot, config.task, config.network, os.getpid(), factor,
                                LOOP_PRIORITY)
        task = settings.make_task()
        self._loop = LoopProcess(settings)
        self.bridge = ControllerBridge(self, config.robot, task, config.network, self._loop,
                                       factor)
        self.get_logger().info(
            f'{config.robot.name}: {config.robot.control_rate_hz:g} Hz, policy '
            f'{config.task.policy_rate_hz:g} Hz, {config.robot.command_interface} commands, '
            f'{scheduler}')

    def destroy_node(self) -> None:
        """Hold the arm and end the loop before the node goes."""
        if hasattr(self, 'bridge'):
            self.bridge.close()
        super().destroy_node()


def spin(node: Node) -> None:
    """Serve callbacks until something of the controller dies or it is asked to stop."""
    assert isinstance(node, Controller)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    stops = note_stops()
    while not stops:
        executor.spin_once(timeout_sec=0.1)
        node.bridge.check()


def main() -> None:
    """Run the controller."""
    # Before rclpy makes its threads: they inherit it. Deserialising must not delay commands.
    scheduler = use_fifo(PRIORITY)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.exit(run_node(lambda: Controller(scheduler), spin))


if __name__ == '__main__':
    main()
