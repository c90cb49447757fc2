"""What ros2_control offers beside joint states, played for a simulated arm."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers, SwitchController
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from async_mbrl.core.robot import RobotConfig
from async_mbrl.ros.driver import DRIVER_COMMAND, PolledGroup
from async_mbrl.simulation.controllers import ControllerStates
from async_mbrl.simulation.driver import SimulatedDriver


class CommandIntake:
    """Take the commands of the adapter that a robot has, by polling."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Subscribe."""
        self._trajectories = robot.command_adapter == 'joint_trajectory'
        self._kind = JointTrajectory if self._trajectories else Float64MultiArray
        self.subscription = node.create_subscription(
            self._kind, robot.commands_topic, lambda _message: None, DRIVER_COMMAND,
            callback_group=PolledGroup())
        """The subscription itself."""

    def drop(self) -> None:
        """Throw away what has arrived."""
        while self.subscription.handle.take_message(self._kind, True) is not None:
            pass

    def hand(self, driver: SimulatedDriver, neutral: np.ndarray, time_s: float) -> str | None:
        """Hand what has arrived to the driver; give what was wrong with the last bad command."""
        fault = None
        while (taken := self.subscription.handle.take_message(self._kind, False)) is not None:
            message, info = taken
            receipt_ns = info['received_timestamp'] or time.time_ns()
            if not self._trajectories:
                flaw = driver.receive(message.data, time_s, receipt_ns)
            elif len(message.points) != 1:
                flaw = driver.receive_point((), (), 0.0, neutral, time_s, receipt_ns)
            else:
                point = message.points[0]
                after = point.time_from_start
                flaw = driver.receive_point(
                    list(message.joint_names), point.positions, after.sec + 1e-9 * after.nanosec,
                    neutral, time_s, receipt_ns)
            fault = flaw or fault
        return fault


class ControllerManagerServices:
    """Play the services of a controller_manager that clients need to hand an arm over."""

    def __init__(self, node: Node, robot: RobotConfig, states: ControllerStates,
                 switch: Callable[[SwitchController.Request], str]) -> None:
        """Offer the services under the name that the robot gives.

        Args:
            node: offers them.
            robot: names the controller manager and the controllers.
            states: what is listed.
            switch: switches controllers; gives what is wrong with it, empty if nothing.
        """
        self._node, self._robot, self._states, self._switch = node, robot, states, switch
        name = robot.controller_manager
        node.create_service(ListControllers, f'{name}/list_controllers', self._on_list)
        node.create_service(SwitchController, f'{name}/switch_controller', self._on_switch)

    def _on_list(self, _request: ListControllers.Request,
                 response: ListControllers.Response) -> ListControllers.Response:
        robot = self._robot
        interfaces = [f'{joint}/{robot.command_interface}' for joint in robot.joint_names]
        for name in self._states.names:
            moves, active = self._states.moves(name), self._states.active(name)
            response.controller.append(ControllerState(
                name=name, state='active' if active else 'inactive',
                type=f'simulated/{"Controller" if moves else "JointStateBroadcaster"}',
                required_command_interfaces=interfaces if moves else [],
                claimed_interfaces=interfaces if moves and active else []))
        return response

    def _on_switch(self, request: SwitchController.Request,
                   response: SwitchController.Response) -> SwitchController.Response:
        flaw = self._switch(request)
        response.ok = not flaw
        if flaw:
            self._node.get_logger().error(f'switch_controller: {flaw}')
        return response
