"""Processes of controller and guard, with a scripted driver and robot_interface around them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from async_mbrl_interfaces import msg
from control_rig import (
    JOINTS,
    NETWORK,
    InertiaPlant,
    episode,
    make_reach,
    make_robot,
    make_snapshot,
)
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from async_mbrl.bringup.graph import PROMPT
from async_mbrl.core.config import to_mapping
from async_mbrl.core.realtime import use_fifo
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_to_message, doubles, snapshot_to_messages
from async_mbrl.ros.driver import DRIVER_COMMAND, PolledGroup
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    StreamPublisher,
    StreamSubscriber,
)

LIMIT_S = 15.0
PERIOD_S = 0.002
ROBOT = make_robot()
TASK = make_reach(ROBOT)
STEP, END, MOVE_DONE, ABORTED = (msg.ControlStep.STEP, msg.ControlStep.END,
                                 msg.ControlStep.MOVE_DONE, msg.ControlStep.ABORTED)


class Rig:
    """Driver, robot_interface and policy learner of a test, and the processes under test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The driver must be as punctual as a real one, also when the machine is busy with tests:
        # all threads here, those of DDS too, run before others where that is allowed.
        use_fifo(30)
        self.node = rclpy.create_node('rig')
        self.names = list(ROBOT.joint_names)
        self.order = np.arange(JOINTS)
        self.plant = InertiaPlant(ROBOT)
        self.effort: np.ndarray | None = None
        self.commands: list[tuple[float, np.ndarray]] = []
        self.steps: list[msg.ControlStep] = []
        self.statuses: list[msg.ControllerStatus] = []
        self.safety: list[msg.SafetyStatus] = []
        self.guard: list[msg.SafetyStatus] = []
        self.processes: list[subprocess.Popen] = []
        self.number = 0
        self.spoil: Callable[[JointState], None] | None = None
        node = self.node
        self.states = node.create_publisher(JointState, 'joint_states', qos.COMMAND)
        self.learner = rclpy.create_node('policy_learner')
        self.policies = self.learner.create_publisher(
            msg.ParameterSnapshot, 'policy_parameters', qos.snapshots(4))
        self.orders = StreamPublisher(node, EPISODE_COMMANDS, session=7)
        self.received = node.create_subscription(
            Float64MultiArray, 'commands', self._on_command, DRIVER_COMMAND,
            callback_group=PolledGroup())
        node.create_subscription(msg.ControllerStatus, 'controller_status', self.statuses.append,
                                 qos.STATUS)
        node.create_subscription(msg.SafetyStatus, 'safety_status', self.safety.append, qos.FRESH)
        node.create_subscription(msg.SafetyStatus, 'guard_status', self.guard.append, qos.STATUS)
        self.stream = StreamSubscriber(node, CONTROL_STEPS, self._on_step)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(node)
        self.driving = threading.Event()
        self.driving.set()
        self.closing = False
        self.driver = threading.Thread(target=self._drive, daemon=True)
        self.driver.start()

    def _on_command(self, message: Float64MultiArray) -> None:
        self.effort = np.array(message.data)
        self.commands.append((time.monotonic(), self.effort))

    def _on_step(self, message: msg.ControlStep, _recovered: bool) -> None:
        self.steps.append(message)

    def _drive(self) -> None:
        next_s = time.monotonic()
        while not self.closing:
            next_s += PERIOD_S
            time.sleep(max(0.0, next_s - time.monotonic()))
            handle = self.received.handle
            while (taken := handle.take_message(Float64MultiArray, False)) is not None:
                self._on_command(taken[0])
            self.plant.step(self.effort, PERIOD_S)
            if self.driving.is_set():
                message = JointState(
                    name=self.names, position=doubles(self.plant.position[self.order]),
                    velocity=doubles(self.plant.velocity[self.order]))
                message.header.stamp = self.node.get_clock().now().to_msg()
                if self.spoil is not None:
                    self.spoil(message)
                self.states.publish(message)

    def start(self, name: str, robot: Any = ROBOT, dry_run: bool = False,
              **sections: Any) -> subprocess.Popen[str]:
        """Start a node; ``sections`` of its parameters besides the usual ones."""
        parameters = {'run': {'run_dir': str(self.folder), 'seed': 0, 'algorithm': 'me_ppo',
                              'dry_run': dry_run},
                      'robot': to_mapping(robot), **sections}
        if name == 'controller':
            parameters |= {'task': to_mapping(TASK.config), 'network': to_mapping(NETWORK)}
        path = self.folder / f'{name}.yaml'
        path.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
        process = subprocess.Popen(
            [sys.executable, '-m', f'async_mbrl.nodes.{name}', '--ros-args', '--params-file',
             str(path)], stderr=subprocess.PIPE, text=True, env={**os.environ, **PROMPT})
        self.processes.append(process)
        return process

    def until(self, condition: Callable[[], Any], what: str = '') -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() >= deadline:
                ended = [process.stderr.read() for process in self.processes
                         if process.stderr is not None and process.poll() is not None]
                pytest.fail(f'{what} {[(step.kind, step.reason) for step in self.steps[-3:]]} '
                            f'{self.statuses[-1:]} {"".join(ended)}')
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.01)

    def publish(self, snapshot: Any, publisher: str = 'first', spoil: Any = None) -> None:
        for message in snapshot_to_messages(snapshot, publisher, self.node.get_clock().now()
                                            .to_msg()):
            if spoil is not None:
                spoil(message)
            self.policies.publish(message)

    def ask(self, **fields: Any) -> None:
        command = episode(ROBOT, self.number, **fields)
        self.orders.publish(command_to_message(command, 7, self.node.get_clock().now().to_msg()))
        self.number += 1

    def ready(self, robot: Any = ROBOT, dry_run: bool = False, sections: Any = None,
              **policy: Any) -> subprocess.Popen[str]:
        """Start the controller and give it a policy."""
        process = self.start('controller', robot, dry_run, **(sections or {}))
        self.until(lambda: self.policies.get_subscription_count() > 0)
        self.publish(make_snapshot(TASK, **policy))
        self.until(lambda: self.statuses and self.statuses[-1].policies_applied == 1
                   and self.statuses[-1].motion != 'idle')
        return process

    def running(self, **options: Any) -> subprocess.Popen[str]:
        """Start the controller and a long episode, slow enough to come nowhere near a limit."""
        process = self.ready(**{'bias': 0.05, **options})
        self.run(STEP, steps=1000)
        return process

    def run(self, kind: int, **fields: Any) -> None:
        """Ask for an episode until a step of a kind comes: a busy machine may break one off."""
        for _ in range(5):
            self.ask(**fields)
            number = self.number - 1
            self.until(lambda number=number: self.steps and self.steps[-1].kind in (kind, ABORTED)
                       and self.steps[-1].command_number == number)
            if self.last(kind):
                return
        pytest.fail(f'{[step.reason for step in self.steps[-5:]]}')

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        """Call a service and give its answer."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(kind.Request() if request is None else request)
        self.until(future.done, name)
        self.node.destroy_client(client)
        return future.result()

    def last(self, kind: int) -> bool:
        return bool(self.steps) and self.steps[-1].kind == kind

    def close(self) -> None:
        self.closing = True
        self.driver.join()
        for process in self.processes:      # all at once: guard waits for the controller
            process.terminate()
        for process in self.processes:
            try:
                process.communicate(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        self.executor.shutdown()
        self.learner.destroy_node()
        self.node.destroy_node()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def gone(pid: int) -> bool:
    """Say whether a process has ended, whoever has to take note of it."""
    state = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True,
                           text=True).stdout
    return not state.strip() or state.startswith('Z')


def child(process: subprocess.Popen[str]) -> int:
    """Give the only child of a process: the control loop of a controller."""
    return int(subprocess.check_output(['ps', '-o', 'pid=', '--ppid', str(process.pid)]))
