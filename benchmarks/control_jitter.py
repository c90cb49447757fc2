"""How punctual the control loop is with everything running and the cores saturated.

Each window runs the real graph of sim_bridge, guard and controller, the arm executing a policy that
is replaced twice a second, beside learners that keep every core busy; then, in alternation, a bare
loop of the same schedule beside the same learners. Gaps that the bare loop has too are the
machine's. Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from async_mbrl_interfaces import msg
from rclpy.executors import SingleThreadedExecutor

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import Composition, compose
from async_mbrl.bringup.graph import describe, write_parameters
from async_mbrl.bringup.resources import share_folder
from async_mbrl.control.histogram import BINS, percentiles, record
from async_mbrl.control.pacer import Pacer
from async_mbrl.control.realtime import lock_memory, shorten_timer_slack
from async_mbrl.core.network import policy_architecture
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_to_message, snapshot_to_messages
from async_mbrl.ros.streams import EPISODE_COMMANDS, StreamPublisher
from async_mbrl.tasks import make_task

ROOT = Path(__file__).resolve().parents[1]
LOAD = 'sim_bridge, guard and controller, learners busy on every core at nice 10'
PRIORITY = 50
READY_S = 20.0
_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23


def forbid_fifo() -> None:
    """Take from a process about to start what allows SCHED_FIFO, as a plain user has it."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)


def learn() -> None:
    """Keep one core as busy as a learner does, until killed."""
    os.nice(10)
    a = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    while True:
        a = np.tanh(a @ a)


def twin(rate_hz: float, seconds: float, priority: int) -> None:
    """Run a bare loop and print its lateness."""
    shorten_timer_slack()
    if priority:
        use_fifo(priority)
    lock_memory()
    gc.disable()
    bins, longest_ns, ticks = [0] * BINS, 0, 0
    pacer = Pacer(round(1e9 / rate_hz))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        longest_ns = max(longest_ns, pacer.wait())
        # Deadlines left out count as in the control loop.
        for late_ns in pacer.lateness_ns:
            record(bins, late_ns * 1e-9)
        ticks += 1
    p50, p99, p999 = percentiles(bins, (0.5, 0.99, 0.999))
    print(json.dumps({'p50_ms': 1e3 * p50, 'p99_ms': 1e3 * p99, 'p999_ms': 1e3 * p999,
                      'max_ms': 1e-6 * longest_ns, 'missed': pacer.missed, 'ticks': ticks}))


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
        self._node = rclpy.create_node('benchmark')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self.controller: msg.ControllerStatus | None = None
        self.bridge: msg.BridgeStatus | None = None
        self._versions = 0
        self._policies = self._node.create_publisher(
            msg.ParameterSnapshot, 'policy_parameters', qos.snapshots(4))
        self._orders = StreamPublisher(self._node, EPISODE_COMMANDS, session=time.time_ns())
        self._node.create_subscription(msg.ControllerStatus, 'controller_status',
                                       lambda status: setattr(self, 'controller', status),
                                       qos.STATUS)
        self._node.create_subscription(msg.BridgeStatus, 'bridge_status',
                                       lambda status: setattr(self, 'bridge', status), qos.STATUS)
        self.processes = {
            node.name: subprocess.Popen(
                [sys.executable, '-m', f'async_mbrl.nodes.{node.executable}', '--ros-args',
                 '--params-file', str(files[node.name])],
                env={**os.environ, **node.env}, stdout=subprocess.DEVNULL,
                preexec_fn=None if fifo else forbid_fifo)
            for node in nodes}

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
        for message in snapshot_to_messages(snapshot, 'benchmark',
                                            self._node.get_clock().now().to_msg()):
            self._policies.publish(message)

    def order(self) -> None:
        """Order an episode that outlasts any window."""
        self._orders.publish(command_to_message(EpisodeCommand(
            CommandKind.RUN_EPISODE, number=self._orders.next_number, mode=Mode.LEARNING,
            start_pose=np.array(self.robot.home), move_duration_s=1.0,
            goal=np.zeros(self._task.goal_size, np.float32), steps=1_000_000, seed=1),
            self._orders.session, self._node.get_clock().now().to_msg()))

    def run(self, seconds: float) -> tuple[msg.ControllerStatus, dict[str, float]]:
        """Have the arm move for ``seconds``; give the last status and CPU shares by process."""
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
        before, begin = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
        end = begin + seconds
        while time.monotonic() < end:
            self.until(lambda: False, min(0.5, end - time.monotonic()))
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


def run_twin(rate_hz: float, seconds: float, fifo: bool) -> dict[str, Any]:
    """Run the bare loop in a process of its own and give what it printed."""
    done = subprocess.run(
        [sys.executable, __file__, '--twin', str(rate_hz), str(seconds),
         str(PRIORITY if fifo else 0)], capture_output=True, text=True, check=True,
        preexec_fn=None if fifo else forbid_fifo)
    return json.loads(done.stdout)


def window(composition: Composition, rate_hz: float, seconds: float,
           fifo: bool) -> tuple[dict[str, Any], msg.ControllerStatus]:
    """Measure one window and its twin; give the row and the status at its end."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(composition, Path(folder), fifo)
        try:
            status, shares = graph.run(seconds)
            bridge = graph.bridge
        finally:
            graph.close()
    bare = run_twin(rate_hz, seconds, fifo)
    row = {
        'rate_hz': rate_hz, 'load': LOAD, 'scheduler': status.scheduler,
        'p50_ms': status.jitter_p50_ms, 'p99_ms': status.jitter_p99_ms,
        'p999_ms': status.jitter_p999_ms, 'twin_p999_ms': bare['p999_ms'],
        'max_ms': status.jitter_max_ms, 'missed': status.late_ticks, 'ticks': status.ticks,
        'twin_p50_ms': bare['p50_ms'], 'twin_p99_ms': bare['p99_ms'],
        'twin_max_ms': bare['max_ms'], 'tick_p50_us': status.tick_p50_us,
        'tick_p99_us': status.tick_p99_us,
        'policy_latency_p99_ms': status.policy_latency_p99_ms,
        'command_gap_p99_ms': bridge.command_gap_p99_ms,
        'command_gap_p999_ms': bridge.command_gap_p999_ms,
        'stale_holds': status.stale_holds, 'limit_violations': bridge.limit_violations,
        'cpu_share': {name: round(share, 3) for name, share in shares.items()},
    }
    return row, status


def git_version() -> str:
    """Give the commit, marked if files differ from it."""
    done = subprocess.run(['git', 'describe', '--always', '--dirty', '--abbrev=12'], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or 'unknown'


def machine() -> dict[str, Any]:
    """Describe this machine."""
    models = [line.split(':', 1)[1].strip() for line in Path('/proc/cpuinfo').read_text()
              .splitlines() if line.startswith('model name')]
    return {'cpu': models[0] if models else 'unknown', 'cores': os.cpu_count(),
            'kernel': os.uname().release, 'python': sys.version.split()[0]}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=float, default=20.0, help='length of a window')
    parser.add_argument('--windows', type=int, default=5, help='windows under SCHED_FIFO')
    parser.add_argument('--plain-windows', type=int, default=2,
                        help='windows under the plain scheduler')
    parser.add_argument('--rate', type=float, default=500.0, help='rate of the loop, Hz')
    parser.add_argument('--quick', action='store_true', help='windows of 2 s, to see it work')
    parser.add_argument('--output', type=Path,
                        default=ROOT / 'benchmarks' / 'results' / 'control.json')
    return parser.parse_args()


def main() -> None:
    """Measure, print and write the result."""
    if sys.argv[1:2] == ['--twin']:
        twin(float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
        return
    if sys.argv[1:2] == ['--learn']:
        learn()
        return
    arguments = parse_arguments()
    seconds = 2.0 if arguments.quick else arguments.seconds
    # A domain of its own: a graph that runs beside must not be moved.
    os.environ['ROS_DOMAIN_ID'] = str(101)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    changes = (f'robot.control_rate_hz={arguments.rate}', f'plant.state_rate_hz={arguments.rate}',
               f'plant.physics_rate_hz={arguments.rate}')
    composition = compose(RunRequest(set=changes), share_folder(), Path('unused'))
    learners = [subprocess.Popen([sys.executable, __file__, '--learn'],
                                 env={**os.environ, 'OMP_NUM_THREADS': '1',
                                      'OPENBLAS_NUM_THREADS': '1'})
                for _ in range(os.cpu_count() or 1)]
    rows, statuses = [], []
    rclpy.init()
    try:
        plan = [True] * arguments.windows + [False] * arguments.plain_windows
        for fifo in plan:
            row, status = window(composition, arguments.rate, seconds, fifo)
            rows.append(row)
            statuses.append(status)
            print(f'{row["scheduler"]:14} p50 {row["p50_ms"]:.3f}  p99 {row["p99_ms"]:.3f}  '
                  f'p99.9 {row["p999_ms"]:.3f}  max {row["max_ms"]:.2f} ms   twin p99.9 '
                  f'{row["twin_p999_ms"]:.3f}  max {row["twin_max_ms"]:.2f} ms   late '
                  f'{row["missed"]} of {row["ticks"]}   CPU {row["cpu_share"]}', flush=True)
    finally:
        for learner in learners:
            learner.kill()
            learner.wait()
        rclpy.try_shutdown()
    medians = {}
    for scheduler in dict.fromkeys(row['scheduler'] for row in rows):
        over = [row['p999_ms'] - row['twin_p999_ms'] for row in rows
                if row['scheduler'] == scheduler]
        medians[scheduler] = statistics.median(over)
        print(f'{scheduler}: p99.9 above the bare twin {medians[scheduler]:.3f} ms, median of '
              f'{len(over)} windows of {seconds:g} s')
    result = {
        'command': shlex.join(['python', 'benchmarks/control_jitter.py', *sys.argv[1:]]),
        'git': git_version(), 'machine': machine(), 'seeds': [0],
        'tick_us': {'p50': statistics.median(status.tick_p50_us for status in statuses),
                    'p99': statistics.median(status.tick_p99_us for status in statuses)},
        'p999_above_twin_ms': medians, 'rows': rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + '\n')
    print(f'written: {arguments.output}')


if __name__ == '__main__':
    main()
