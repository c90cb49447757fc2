"""The real graph of sim_bridge, guard and controller, and the other nodes' parts in it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from async_mbrl_interfaces import msg
from rclpy.executors import SingleThreadedExecutor

from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.graph import describe, write_parameters
from async_mbrl.control.policy import PolicyLayout
from async_mbrl.core.network import policy_architecture
from async_mbrl.core.snapshot import HEADER_BYTES, Snapshot, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_to_message, parts_of, snapshot_to_messages
from async_mbrl.ros.streams import EPISODE_COMMANDS, StreamPublisher
from async_mbrl.tasks import make_task

READY_S = 30.0
_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23


def forbid_fifo() -> None:
    """Take from a process about to start what allows SCHED_FIFO, as a plain user has it."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)


class Graph:
    """The nodes around the loop, and the part of robot_interface and policy learner."""

    def __init__(self, composition: Composition, folder: Path, fifo: bool) -> None:
        """Start the nodes."""
        names = ('sim_bridge', 'guard', 'controller')
        nodes = tuple(node for node in describe(composition) if node.name in names)
        files = write_parameters(nodes, folder)
        self.robot = composition.robot
        self._task = make_task(composition.task, self.robot)
        self._network = composition.network
        self._node = rclpy.create_node('policy_learner')    # whose part it plays
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self.controller: msg.ControllerStatus | None = None
        self.bridge: msg.BridgeStatus | None = None
        self._versions = 0
        self.policy_bytes = 0
        self.intervals: list[tuple[int, int, bool]] = []
        """Ticks, late ticks, and whether the policy was replaced, between two statuses."""
        self._policies = self._node.create_publisher(
            msg.ParameterSnapshot, 'policy_parameters', qos.snapshots(
                parts_of(PolicyLayout(self._task, self._network).size + HEADER_BYTES)))
        self._orders = StreamPublisher(self._node, EPISODE_COMMANDS, session=time.time_ns())
        self._node.create_subscription(msg.ControllerStatus, 'controller_status',
                                       self._on_controller, qos.STATUS)
        self._node.create_subscription(msg.BridgeStatus, 'bridge_status',
                                       lambda status: setattr(self, 'bridge', status), qos.STATUS)
        self.processes = {
            node.name: subprocess.Popen(
                [sys.executable, '-m', f'async_mbrl.nodes.{node.executable}', '--ros-args',
                 '--params-file', str(files[node.name])],
                env={**os.environ, **node.env}, stdout=subprocess.DEVNULL,
                preexec_fn=None if fifo else forbid_fifo)
            for node in nodes}

    def _on_controller(self, status: msg.ControllerStatus) -> None:
        before, self.controller = self.controller, status
        if before is not None:
            self.intervals.append((status.ticks - before.ticks,
                                   status.late_ticks - before.late_ticks,
                                   status.policies_applied > before.policies_applied))

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Serve callbacks until a condition holds or time is up; say whether it holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            self._executor.spin_once(timeout_sec=0.05)
        return condition()

    def publish_policy(self) -> None:
        """Publish a policy of the size of the real one that keeps the arm about where it is."""
        rng = np.random.default_rng(self._versions)
        task, sizes = self._task, [self._task.feature_size, *self._network.hidden,
                                   self._task.action_size]
        tensors = {'state_mean': np.zeros(task.state_size, np.float32),
                   'state_std': np.ones(task.state_size, np.float32)}
        for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            tensors[f'layer{i}.weight'] = (0.01 * rng.normal(size=(outputs, inputs))
                                           ).astype(np.float32)
            tensors[f'layer{i}.bias'] = np.zeros(outputs, np.float32)
        snapshot = Snapshot('policy', Version(1, self._versions),
                            policy_architecture(self._network, task), tensors,
                            exploration_std=0.1, exploration_correlation=0.5)
        self._versions += 1
        messages = snapshot_to_messages(snapshot, 'benchmark',
                                        self._node.get_clock().now().to_msg())
        self.policy_bytes = messages[0].total_bytes
        for message in messages:
            self._policies.publish(message)

    def order(self) -> None:
        """Order an episode that outlasts any window."""
        self._orders.publish(command_to_message(EpisodeCommand(
            CommandKind.RUN_EPISODE, number=self._orders.next_number, mode=Mode.LEARNING,
            start_pose=np.array(self.robot.home), move_duration_s=1.0,
            goal=np.zeros(self._task.goal_size, np.float32), steps=1_000_000, seed=1),
            self._orders.session, self._node.get_clock().now().to_msg()))

    def run(self, seconds: float,
            swap_s: float = 0.5) -> tuple[msg.ControllerStatus, dict[str, float]]:
        """Have the arm move, its policy replaced every ``swap_s``, 0 for never.

        Gives the last status and CPU shares by process.
        """
        if not self.until(lambda: self.controller is not None and self.bridge is not None
                          and self._policies.get_subscription_count() > 0, READY_S):
            raise RuntimeError('the graph did not start')
        self.publish_policy()
        self.until(lambda: self.controller.policies_applied > 0, READY_S)
        self.order()
        pids = {name: process.pid for name, process in self.processes.items()}
        children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(pids['controller'])],
                                  capture_output=True, text=True, check=True).stdout.split()
        pids['control loop'] = int(children[0])
        self.until(lambda: self.controller.state == 'running', READY_S)
        self.intervals.clear()
        before, begin = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
        end = begin + seconds
        while time.monotonic() < end:
            self.until(lambda: False, min(swap_s or 0.5, end - time.monotonic()))
            if swap_s:
                self.publish_policy()
            if self.controller.state in ('idle', 'holding'):     # joint states were stale
                self.order()
        elapsed = time.monotonic() - begin
        self.until(lambda: False, 0.6)
        status = self.controller
        if status is None or status.fault:
            raise RuntimeError(f'the arm did not move: {status}')
        return status, {name: (cpu_s(pid) - before[name]) / (elapsed + 0.6)
                        for name, pid in pids.items()}

    def close(self) -> None:
        """Stop the nodes."""
        for name in ('controller', 'guard', 'sim_bridge'):
            self.processes[name].send_signal(signal.SIGINT)
            try:
                self.processes[name].wait(5.0)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()
                self.processes[name].wait()
        self._executor.shutdown()
        self._node.destroy_node()


def cpu_s(pid: int) -> float:
    """Give the CPU time a process has used, s."""
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(') ', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
