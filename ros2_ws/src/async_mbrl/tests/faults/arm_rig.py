"""Real sim_bridge, guard and controller; the rig plays robot_interface and policy learner.

The driver has no timeout of its own, so the arm goes on with the last command until somebody stops
it. What is sent is judged from outside (:mod:`faults.judge`).
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
import yaml
from async_mbrl_interfaces import msg
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import describe
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core.realtime import use_fifo
from async_mbrl.ros import qos
from async_mbrl.tasks import make_task
from faults.judge import Command, driving, follows, hold_ms
from faults.ledger import NotSurvived, Outcome
from faults.processes import begin
from faults.roles import PolicyLearnerPlayer, RobotInterfacePlayer
from faults.wire import DRIVER_STATES, PRIORITY, Wire

NODES = ('sim_bridge', 'guard', 'controller')
START_S = 20.0
REST_RAD_S = 0.05
T = TypeVar('T')
Predicate = Callable[[Command], bool]


class ArmRig:
    """The partial graph, kept running from trial to trial."""

    def __init__(self, folder: Path, rng: np.random.Generator, *, factor: float = 1.0) -> None:
        """Start the nodes.

        Args:
            folder: for parameter files and logs.
            rng: draws start poses and actions.
            factor: real-time factor; other than 1 makes the driver publish ``/clock``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        composition = compose(
            RunRequest(real_time_factor=factor, set=('plant.driver_timeout=none',)),
            share_folder(), folder)
        self.robot = composition.robot
        self.scale = np.array(self.robot.action_scale)
        self.network = composition.network
        self.task = make_task(composition.task, composition.robot)
        self._folder, self._rng = folder, rng
        self._descriptions = {item.name: item for item in describe(composition)
                              if item.name in NODES}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.controller: msg.ControllerStatus | None = None
        self.safety: msg.SafetyStatus | None = None
        self.guard: msg.SafetyStatus | None = None
        self.bridge: msg.BridgeStatus | None = None
        self.restarts = -1
        self._heartbeat_s = -math.inf
        # The instrument must be punctual: threads made from here on, those of DDS too, inherit it.
        use_fifo(PRIORITY)
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node('fault_rig', context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self.node.create_subscription(msg.SafetyStatus, 'safety_status', self._on_heartbeat,
                                      qos.FRESH)
        for kind, topic, name, profile in (
                (msg.ControllerStatus, 'controller_status', 'controller', qos.STATUS),
                (msg.SafetyStatus, 'guard_status', 'guard', qos.STATUS),
                (msg.BridgeStatus, 'bridge_status', 'bridge', qos.STATUS)):
            self.node.create_subscription(
                kind, topic, lambda message, name=name: setattr(self, name, message), profile)
        self.clock = self.node.create_publisher(Clock, '/clock', QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self.button = self.node.create_publisher(Bool, 'emergency_stop', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self.stop = self.node.create_client(Trigger, 'controller/emergency_stop')
        self.clear = self.node.create_client(Trigger, 'controller/clear_fault')
        self.wire = Wire(self.node, self.robot)
        # Who publishes policies is known by the name of its node.
        self._learner_node = Node('policy_learner', context=self._context, enable_rosout=False)
        self.learner = PolicyLearnerPlayer(
            self._learner_node, self.task, self.network, self.scale, rng)
        self._executor.add_node(self.node)
        self._executor.add_node(self._learner_node)
        self._actions: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue())
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name='executor', daemon=True)
        self._thread.start()
        for name in NODES[:-1]:
            self.start(name)
        self.interface = self.do(self._join)
        self._violations = np.zeros(2, int)
        self.learner.publish()
        try:
            self.recover()      # which starts the controller
        except NotSurvived:
            self.close()
            raise

    # ---- processes ----

    def start(self, name: str) -> None:
        """Start a node as a process."""
        parameters = copy.deepcopy(dict(self._descriptions[name].parameters))
        if name == 'sim_bridge':
            parameters['robot']['joint_states_topic'] = DRIVER_STATES
        path = self._folder / f'{name}.yaml'
        path.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
        with open(self._folder / f'{name}.log', 'ab') as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, '-m', 'async_mbrl.bringup.child', str(os.getpid()), '0',
                 'now', name,
                 '--ros-args', '--params-file', str(path)], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **self._descriptions[name].env}, start_new_session=True,
                preexec_fn=begin)

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a node; give when, ns."""
        now_ns = time.time_ns()
        self.processes[name].send_signal(number)
        return now_ns

    def loop_pid(self) -> int:
        """Give the process of the control loop."""
        parent = self.processes['controller'].pid
        children = Path(f'/proc/{parent}/task/{parent}/children').read_text().split()
        for thread in Path(f'/proc/{parent}/task').iterdir():
            children += (thread / 'children').read_text().split()
        for child in children:
            if b'async_mbrl.control.loop' in Path(f'/proc/{child}/cmdline').read_bytes():
                return int(child)
        raise NotSurvived(f'the controller has no control loop among {children}')

    def end_session(self, name: str) -> None:
        """Kill a node and all that it started, and wait for its end."""
        process = self.processes.get(name)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _join(self) -> RobotInterfacePlayer:
        return RobotInterfacePlayer(self._context, self._executor, self.robot,
                                    self.task.goal_size, self._rng)

    def renew_interface(self) -> None:
        """Have robot_interface come back, as another session."""
        self.do(self.interface.close)
        self.interface = self.do(self._join)

    # ---- waiting ----

    def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until a condition holds.

        Raises:
            NotSurvived: it does not, in time.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise NotSurvived(f'{what}: not within {timeout_s:g} s; {self.state()}')
            time.sleep(0.005)

    def state(self) -> str:
        """Say in what state the controller was last heard to be."""
        said = self.controller
        if said is None:
            return 'no status'
        return (f'controller: {said.state} {said.fault} {list(said.fault_causes)}, control steps '
                f'{self.interface.next_step} of {said.next_control_step} here, orders '
                f'{said.next_episode_command} of {self.interface.next_order} there')

    def recover(self) -> None:
        """Bring the rig to where the arm moves, however the last trial left it.

        Raises:
            NotSurvived: that does not succeed.
        """
        self.wire.broken, self.wire.alteration = False, None
        self.learner.silent = False
        for name in ('sim_bridge', 'guard'):
            if not self._runs(name):
                self.end_session(name)
                self.start(name)
        # A controller whose heart has stopped is dying, and is not waited for.
        ended = (not self._runs('controller')
                 or time.monotonic() - self._heartbeat_s > 0.5)
        if ended:
            self.end_session('controller')
            self.controller = self.safety = None
            self.restarts += 1
            self.start('controller')
        if ended or self.interface.child.poll() is not None:
            self.renew_interface()
        self.until(lambda: self._said() or not self._runs('controller'), START_S,
                   'status of the controller')
        if not self._said():
            raise NotSurvived('the controller does not start: '
                              + (self._folder / 'controller.log').read_text()[-500:])
        if ended:
            # The newest snapshot, which a late joiner is given, may be one that was damaged.
            self.do(self.learner.publish)
        self.until(lambda: self._applied() in self.learner.verified, START_S, 'the policy applied')
        if self._faulted():
            self._clear()
        self.until(lambda: self.controller.motion != 'idle', START_S, 'readiness')
        self.interface.paused = False
        seen = len(self.interface.steps)
        self.do(self.interface.order)
        self.until(lambda: any(step.kind == msg.ControlStep.MOVE_DONE
                               for step in self.interface.steps[seen:]), 6.0, 'a move')

    def _runs(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def _on_heartbeat(self, message: msg.SafetyStatus) -> None:
        self._heartbeat_s = time.monotonic()
        self.safety = message

    def _said(self) -> bool:
        return self.controller is not None and self.safety is not None

    def _applied(self) -> tuple[int, int]:
        version = self.controller.policy_version if self.controller else msg.SnapshotVersion()
        return version.incarnation, version.counter

    def _faulted(self) -> bool:
        return self.safety.state in (msg.SafetyStatus.FAULT, msg.SafetyStatus.ESTOP)

    def call(self, client: Any) -> Trigger.Response:
        """Call a service of the controller.

        Raises:
            NotSurvived: no answer.
        """
        self.until(client.service_is_ready, 3.0, client.srv_name)
        future = self.do(lambda: client.call_async(Trigger.Request()))
        self.until(future.done, 3.0, f'answer of {client.srv_name}')
        return future.result()

    def _clear(self) -> None:
        """Clear the fault, as soon as its cause is gone."""
        end = time.monotonic() + 4.0
        while self._faulted():
            answer = self.call(self.clear)
            if time.monotonic() > end:
                raise NotSurvived(f'the fault cannot be cleared: {answer.message}')
            time.sleep(0.05)

    # ---- moments and measures ----

    def in_motion(self, rng: np.random.Generator, *, episode: bool = False) -> None:
        """Wait for a random moment at which the arm moves: three of four within an episode."""
        wanted = msg.ControlStep.STEP
        if not episode and rng.random() < 0.25:
            wanted = msg.ControlStep.END        # the move to the next start follows
        seen = len(self.interface.steps)
        self.until(lambda: any(step.kind == wanted for step in self.interface.steps[seen:]), 6.0,
                   'motion')
        self.until(lambda: self.wire.speed() > 2 * REST_RAD_S, 6.0, 'speed')
        time.sleep(rng.uniform(0.0, 0.3))

    def as_policy(self, command: Command) -> bool:
        """Whether a command is what the policy in use asks for."""
        return follows(command, self.learner.wanted)

    def stopped(self, fault_ns: int, *, limit_ms: float, watch_s: float = 0.3,
                unsafe: Predicate | None = None, rest_s: float = 0.0) -> Outcome:
        """Watch how the arm is stopped.

        Args:
            fault_ns: when the fault was injected.
            limit_ms: time in which the first safe command must be on the wire.
            watch_s: how long only safe commands may follow.
            unsafe: tells an unsafe command; whatever moves the arm is one without it.
            rest_s: time in which the arm must be at rest; 0: it is not looked at.

        Raises:
            NotSurvived: it is not stopped, or not in time.
        """
        time.sleep(max(0.0, watch_s - (time.time_ns() - fault_ns) * 1e-9))
        commands = self.wire.since(fault_ns)
        flags = [unsafe(c) for c in commands] if unsafe else driving(commands, self.scale)
        took = hold_ms(commands, fault_ns, flags)
        if took is None:
            last = commands[-1] if commands else None
            raise NotSurvived(f'the arm is still driven {watch_s:g} s after the fault, by {last}; '
                              f'{self.state()}')
        if took > limit_ms:
            raise NotSurvived(f'safe after {took:.1f} ms, {limit_ms:g} ms are allowed')
        facts: dict[str, Any] = {}
        if rest_s:
            self.until(lambda: self.wire.speed() < REST_RAD_S, rest_s, 'rest of the arm')
            facts['rest_s'] = (time.time_ns() - fault_ns) * 1e-9
        return Outcome(hold_ms=took, facts=facts)

    def begins_anew(self, resumed_ns: int, watch_s: float) -> None:
        """Watch that a controller that goes on sends nothing of what it sent before.

        Args:
            resumed_ns: when it went on.
            watch_s: time for which what the policy asks for is still out of place; the arm has to
                go to a start first.

        Raises:
            NotSurvived: it does, or it does not go on.
        """
        self.until(lambda: bool(self.wire.commands)
                   and self.wire.commands[-1].received_ns > resumed_ns + watch_s * 1e9, 2.0,
                   'commands after the stop')
        after = [command for command in self.wire.since(resumed_ns)
                 if resumed_ns < command.received_ns < resumed_ns + watch_s * 1e9]
        old = sum(map(self.as_policy, after))
        if old:
            raise NotSurvived(f'{old} of {len(after)} commands after the stop are what the policy '
                              'asked for before it')

    def acted(self, seen: int) -> int:
        """Count control steps of policies that were not to act, from a position in the list on."""
        return sum((step.policy_version.incarnation, step.policy_version.counter)
                   not in self.learner.verified
                   for step in self.interface.steps[seen:] if step.kind == msg.ControlStep.STEP)

    def violations(self) -> int:
        """Count commands beyond the limits since the last call, as the rig and the driver saw."""
        counted = np.array([self.wire.beyond, 0 if self.bridge is None else
                            self.bridge.limit_violations + self.bridge.commands_refused])
        more, self._violations = counted - self._violations, counted
        return int(max(0, more.max()))

    def close(self) -> None:
        """End everything."""
        for name, process in self.processes.items():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
            self.end_session(name)
        self.do(self.interface.close)
        self.wire.close()
        self._closing = True
        self._thread.join(2.0)
        self._learner_node.destroy_node()
        self.node.destroy_node()
        self._context.try_shutdown()

    def do(self, action: Callable[[], T]) -> T:
        """Do something in the thread that serves callbacks: nodes change only between two."""
        future: Future[T] = Future()
        self._actions.put((action, future))
        return future.result(timeout=10.0)

    def _spin(self) -> None:
        while not self._closing:
            while not self._actions.empty():
                action, future = self._actions.get()
                try:
                    future.set_result(action())
                except Exception as error:
                    future.set_exception(error)
            self._executor.spin_once(timeout_sec=0.02)
