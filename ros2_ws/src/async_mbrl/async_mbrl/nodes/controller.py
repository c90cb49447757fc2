"""Moves the arm: policy steps, moves, holding. The loop itself is a process of its own."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import time
from dataclasses import dataclass

from rclpy.executors import SingleThreadedExecutor

from async_mbrl.control.process import LoopProcess
from async_mbrl.control.settings import ControllerSettings, LoopSettings, TakeoverSettings
from async_mbrl.control.watchdog import GuardSettings
from async_mbrl.core.config import param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.learning.settings import IMPROVEMENTS
from async_mbrl.ros.controller_bridge import ControllerBridge
from async_mbrl.ros.controller_gate import ControllerGate
from async_mbrl.ros.controller_watch import WatchOptions
from async_mbrl.ros.diagnostics import Diagnostics, Part
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.plan_intake import PlanIntake
from async_mbrl.ros.run import note_stops
from async_mbrl.ros.takeover_intake import TakeoverIntake
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
    guard: GuardSettings = param('when and how guard acts')
    takeover: TakeoverSettings = param('who may take over')


class Controller(ManagedNode):
    """The controller as a ROS node.

    Inactive it takes no orders and holds the arm, if it had it; see
    :class:`async_mbrl.ros.controller_gate.ControllerGate` for what activating needs.
    """

    def __init__(self, scheduler: str) -> None:
        """Read the parameters.

        Args:
            scheduler: what this process runs under, for the log.

        Raises:
            ConfigError: parameters are missing or do not fit each other.
        """
        super().__init__('controller')
        self._config = config_from_parameters(self, ControllerConfig)
        self._scheduler = scheduler
        self._bridge: ControllerBridge | None = None
        self._gate: ControllerGate | None = None

    def configure(self) -> None:
        """Start the control loop, which sends nothing yet."""
        config = self._config
        run, robot = config.run, config.robot
        settings = LoopSettings(robot, config.task, config.network, os.getpid(),
                                run.real_time_factor, LOOP_PRIORITY, run.dry_run)
        task = settings.make_task()
        options = WatchOptions(config.controller, config.guard.latch, run.mode == 'learn',
                               run.dry_run)
        loop = LoopProcess(settings)
        bridge = self._bridge = ControllerBridge(self, robot, task, config.network, loop,
                                                 run.real_time_factor, options)
        self._gate = ControllerGate(self, robot, loop, bridge, run.dry_run)
        warning_s = config.controller.policy_age_warning_s if run.mode == 'learn' else 0.0
        report, watch = bridge.report, bridge.watch
        parts = [self._motion_part, report.loop_part, report.joint_states_part]
        if run.mode == 'learn' and IMPROVEMENTS[run.algorithm].PLANS:
            parts.append(PlanIntake(self, robot.joints, loop).part)
        if run.mode == 'learn' and config.takeover.node:
            parts.append(TakeoverIntake(self, robot.joints, config.takeover.node, loop,
                                        run.real_time_factor).part)
        Diagnostics(
            self, *parts,
            lambda: report.policy_part(warning_s, watch.withheld,
                                       watch.learner_silent(time.monotonic())),
            self.events.part, hardware=robot.name)
        self.get_logger().info(
            f'{robot.name}: {robot.control_rate_hz:g} Hz, policy '
            f'{config.task.policy_rate_hz:g} Hz, {robot.command_interface} commands, '
            f'{self._scheduler}{", dry run: nothing is sent" if run.dry_run else ""}')

    def activate(self) -> None:
        """Take the arm, and orders."""
        assert self._gate is not None
        self._gate.open()

    def deactivate(self) -> None:
        """Stop the arm, and hold it or give it back."""
        assert self._gate is not None
        self._gate.close()

    def cleanup(self) -> None:
        """Send the safe command, if the arm is ours, end the loop, and give the arm back."""
        self._end()

    def on_failure(self) -> None:
        """End the loop in order, the safe command being the last; guard goes on with it."""
        self._end(f'the controller has failed: {self.failure!r}')

    def _end(self, reason: str = '') -> None:
        bridge, gate = self._bridge, self._gate
        self._bridge = self._gate = None
        if bridge is not None:
            bridge.close(reason)
        if gate is not None:
            gate.give_back()

    def check(self) -> None:
        """See to it that all that moves the arm lives.

        Raises:
            LoopDied: something of it does not.
        """
        if self._bridge is not None:
            self._bridge.check()

    def destroy_node(self) -> None:
        """End the loop before the node goes, if it has not yet."""
        self.cleanup()
        super().destroy_node()

    def _motion_part(self) -> Part:
        assert self._bridge is not None
        assert self._gate is not None
        part = self._bridge.report.motion_part()
        waiting = '' if self.label == 'active' else f'not active: {self.label}'
        return dataclasses.replace(
            part, warnings=(*part.warnings, self._gate.waits_for or waiting))


def spin(node: ManagedNode) -> None:
    """Serve callbacks until something of the controller dies or it is asked to stop."""
    assert isinstance(node, Controller)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    stops = note_stops()
    while not stops and not node.finalized:
        executor.spin_once(timeout_sec=0.1)
        node.check()


def main() -> None:
    """Run the controller."""
    # Before rclpy makes its threads: they inherit it. Deserialising must not delay commands.
    scheduler = use_fifo(PRIORITY)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.exit(run_managed(lambda: Controller(scheduler), spin))


if __name__ == '__main__':
    main()
