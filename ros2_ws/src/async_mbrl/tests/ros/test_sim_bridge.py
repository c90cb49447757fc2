"""The simulated arm as a process of its own, seen through its topics and services."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arm7
import numpy as np
import pytest
import rclpy
import yaml
from async_mbrl_interfaces.msg import BridgeStatus
from async_mbrl_interfaces.srv import StepSimulation
from builtin_interfaces.msg import Duration
from controller_manager_msgs.srv import ListControllers, SwitchController
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from async_mbrl.core.config import to_mapping
from async_mbrl.nodes.sim_bridge import SimBridge
from async_mbrl.ros import qos

ROBOT = arm7.robot()
PUSH = [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
STILL = [0.0] * 7


def _start(folder: Path, namespace: str, *, factor: float = 1.0,
           robot: dict[str, Any] | None = None, **plant: Any) -> subprocess.Popen:
    robot = {**to_mapping(ROBOT), **(robot or {})}
    parameters = {
        'run': {'run_dir': str(folder), 'seed': 0, 'algorithm': 'me_ppo',
                'real_time_factor': factor},
        'robot': robot, 'plant': to_mapping(arm7.plant(**plant))}
    file = folder / f'{namespace}.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
    return subprocess.Popen(
        [sys.executable, '-m', 'async_mbrl.nodes.sim_bridge', '--ros-args', '--params-file',
         str(file), '-r', f'__ns:=/{namespace}'], stderr=subprocess.PIPE, text=True)


class Client:
    """Everything that talks to one bridge."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor, namespace: str,
                 command: Any = Float64MultiArray) -> None:
        self._node, self._executor, self._namespace = node, executor, namespace
        self.latest: dict[str, Any] = {}
        for topic, kind, profile in (
                (f'/{namespace}/joint_states', JointState, qos.FRESH),
                (f'/{namespace}/ground_truth/joint_states', JointState, qos.FRESH),
                (f'/{namespace}/bridge_status', BridgeStatus, qos.STATUS),
                ('/clock', Clock, qos.FRESH), ('/diagnostics', DiagnosticArray, 10)):
            name = topic.removeprefix(f'/{namespace}').strip('/')
            node.create_subscription(
                kind, topic, lambda message, name=name: self.latest.update({name: message}),
                profile)
        self._commands = node.create_publisher(command, f'/{namespace}/commands', qos.COMMAND)
        self.until(lambda: 'bridge_status' in self.latest
                   and self._commands.get_subscription_count() > 0)

    def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f'did not come about in time; latest: {self.latest}'
            self._executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def send(self, values: list[float]) -> None:
        self._commands.publish(Float64MultiArray(data=values))

    def send_point(self, position: list[float], after_s: float) -> None:
        point = JointTrajectoryPoint(positions=position, time_from_start=Duration(
            nanosec=round(1e9 * after_s)))
        self._commands.publish(JointTrajectory(joint_names=ROBOT.joint_names, points=[point]))

    def transition(self, number: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = number
        return self.call(ChangeState, 'change_state', request).success

    def call(self, kind: Any, service: str, request: Any, node: str = 'sim_bridge') -> Any:
        client = self._node.create_client(kind, f'/{self._namespace}/{node}/{service}')
        assert client.wait_for_service(30.0)
        future = client.call_async(request)
        self.until(future.done)
        self._node.destroy_client(client)
        return future.result()

    def fresh_status(self) -> BridgeStatus:
        self.latest.pop('bridge_status', None)
        self.until(lambda: 'bridge_status' in self.latest)
        return self.latest['bridge_status']

    @property
    def pan(self) -> tuple[float, float]:
        """True position and velocity of the first joint."""
        self.latest.pop('ground_truth/joint_states', None)
        self.until(lambda: 'ground_truth/joint_states' in self.latest)
        state = self.latest['ground_truth/joint_states']
        return state.position[0], state.velocity[0]


@pytest.fixture(scope='module')
def graph() -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node('bridge_test', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node, executor
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def _bridge(graph, folder, namespace, kind=Float64MultiArray, **options) -> Iterator[Client]:
    process = _start(folder, namespace, **options)
    try:
        yield Client(*graph, namespace, kind)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15.0)
        assert process.returncode == 0, errors
        assert 'Traceback' not in errors
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope='module')
def bridge(graph, tmp_path_factory) -> Iterator[Client]:
    yield from _bridge(graph, tmp_path_factory.mktemp('none'), 'none')


@pytest.fixture(scope='module')
def fast_holding_bridge(graph, tmp_path_factory) -> Iterator[Client]:
    yield from _bridge(graph, tmp_path_factory.mktemp('hold'), 'hold', factor=2.0,
                       driver_timeout='hold')


@pytest.fixture
def managed_bridge(graph, tmp_path) -> Iterator[Client]:
    yield from _bridge(graph, tmp_path, 'managed', JointTrajectory, robot={
        'command_interface': 'position', 'command_adapter': 'joint_trajectory',
        'controller_manager': 'controller_manager', 'controllers': ['streamed'],
        'other_controllers': ['other']}, friction_ratio=0.0)


def test_controllers_are_handed_over_and_the_driver_is_managed(managed_bridge):
    bridge = managed_bridge
    target = list(ROBOT.home)
    target[0] = 0.3

    def listed() -> dict[str, str]:
        answer = bridge.call(ListControllers, 'list_controllers', ListControllers.Request(),
                             'controller_manager')
        return {one.name: one.state for one in answer.controller}

    def switch(on: list[str], off: list[str]) -> bool:
        return bridge.call(SwitchController, 'switch_controller', SwitchController.Request(
            activate_controllers=on, deactivate_controllers=off,
            strictness=SwitchController.Request.STRICT), 'controller_manager').ok

    # Not ours yet: held, and deaf.
    assert listed() == {'joint_state_broadcaster': 'active', 'streamed': 'inactive',
                        'other': 'active'}
    bridge.send_point(target, 0.1)
    bridge.spin(0.5)
    status = bridge.fresh_status()
    assert status.holding and status.commands_received == 0
    assert bridge.pan[0] == pytest.approx(0.0, abs=0.01)

    # Ours: the point is gone to.
    assert not switch(['streamed'], [])
    assert switch(['streamed'], ['other'])
    assert listed()['other'] == 'inactive'

    def arrived() -> bool:
        bridge.send_point(target, 0.1)
        return abs(bridge.pan[0] - 0.3) < 0.02
    bridge.until(arrived)

    # Inactive it holds the arm where it is, active again it does not go back to what was sent.
    assert bridge.transition(Transition.TRANSITION_DEACTIVATE)
    bridge.send_point(list(ROBOT.home), 0.1)
    bridge.spin(0.5)
    assert bridge.fresh_status().holding
    assert bridge.transition(Transition.TRANSITION_ACTIVATE)
    bridge.until(lambda: not bridge.fresh_status().holding)
    assert bridge.pan[0] == pytest.approx(0.3, abs=0.03)

    # Unconfigured it is silent, and can be brought back.
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert bridge.transition(transition)
    bridge.spin(0.3)
    bridge.latest.clear()
    bridge.spin(0.8)
    assert 'joint_states' not in bridge.latest
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert bridge.transition(transition)
    bridge.until(lambda: 'joint_states' in bridge.latest)
    assert bridge.pan[0] == pytest.approx(0.0, abs=0.01)
    assert listed()['streamed'] == 'inactive'


def test_states_are_those_of_the_robot_and_time_is_the_clock(bridge):
    bridge.until(lambda: 'joint_states' in bridge.latest)
    state = bridge.latest['joint_states']
    assert tuple(state.name) == ROBOT.joint_names
    assert np.array(state.position) == pytest.approx(ROBOT.home, abs=0.01)
    assert len(state.velocity) == len(state.effort) == 7
    assert abs(state.header.stamp.sec - time.time()) < 5.0
    assert bridge.fresh_status().real_time_factor == pytest.approx(1.0, abs=0.05)
    assert 'clock' not in bridge.latest


def test_without_timeout_the_last_effort_stays_in_force(bridge):
    bridge.send(PUSH)
    bridge.spin(0.5)
    position, velocity = bridge.pan
    assert velocity > 0.1
    bridge.spin(0.3)
    assert bridge.pan[0] > position + 0.03
    assert not bridge.fresh_status().holding
    bridge.send(STILL)


def test_reset_puts_the_arm_home_and_forgets_the_command(bridge):
    bridge.send(PUSH)
    bridge.until(lambda: bridge.pan[0] > 0.05)
    assert bridge.call(Trigger, 'reset_world', Trigger.Request()).success
    bridge.spin(0.2)
    assert bridge.pan == pytest.approx((0.0, 0.0), abs=1e-3)


def test_pause_and_step(bridge):
    refused = bridge.call(StepSimulation, 'step_simulation', StepSimulation.Request(steps=5))
    assert not refused.success
    assert 'not paused' in refused.message
    assert bridge.call(SetBool, 'set_pause', SetBool.Request(data=True)).success
    before = bridge.fresh_status()
    assert before.paused
    assert bridge.fresh_status().simulation_time_s == before.simulation_time_s
    bridge.send(PUSH)
    bridge.until(lambda: bridge.fresh_status().commands_received > before.commands_received)
    done = bridge.call(StepSimulation, 'step_simulation', StepSimulation.Request(steps=250))
    assert done.success
    after = bridge.fresh_status()
    assert after.simulation_time_s == pytest.approx(before.simulation_time_s + 0.5)
    assert bridge.call(SetBool, 'set_pause', SetBool.Request(data=False)).success
    assert not bridge.fresh_status().paused
    bridge.send(STILL)


def test_a_request_that_fails_is_answered_and_the_services_go_on():
    def fail() -> None:
        raise RuntimeError('the physics is unstable')

    bridge = SimpleNamespace(_requests=queue.SimpleQueue(), _looping=True)
    bridge._do = lambda action: SimBridge._do(bridge, action)
    answers = []
    for action in (fail, lambda: None):
        answering = threading.Thread(target=lambda action=action: answers.append(
            SimBridge._in_loop(bridge, action, Trigger.Response(), 'done')))
        answering.start()
        while answering.is_alive():
            SimBridge._serve_requests(bridge)
            answering.join(0.01)
    assert [(answer.success, answer.message) for answer in answers] == [
        (False, 'RuntimeError: the physics is unstable'), (True, 'done')]


def test_bad_commands_are_counted_and_told(bridge):
    before = bridge.fresh_status()
    for values in ([0.0] * 6, [float('nan')] * 7, [31.0] + [0.0] * 6, STILL):
        bridge.send(values)
        bridge.spin(0.02)
    bridge.until(lambda: bridge.latest['bridge_status'].commands_received
                 >= before.commands_received + 4)
    after = bridge.latest['bridge_status']
    assert after.commands_refused == before.commands_refused + 2
    assert after.limit_violations == before.limit_violations + 1
    bridge.until(lambda: any(
        'beyond the limits' in status.message for status in bridge.latest['diagnostics'].status))


def test_a_driver_with_a_timeout_stops_the_arm(fast_holding_bridge):
    bridge = fast_holding_bridge
    for _ in range(20):
        bridge.send(PUSH)
        bridge.spin(0.02)
    assert bridge.pan[1] > 0.1
    bridge.spin(1.0)
    assert bridge.pan[1] == pytest.approx(0.0, abs=0.01)
    status = bridge.fresh_status()
    assert status.holding
    assert status.command_gap_max_ms >= status.command_gap_p50_ms > 0.0

    def let_go() -> bool:
        bridge.send(STILL)
        return not bridge.latest['bridge_status'].holding
    bridge.until(let_go)


def test_faster_than_real_time_it_is_the_clock(fast_holding_bridge):
    bridge = fast_holding_bridge
    bridge.until(lambda: 'clock' in bridge.latest and 'joint_states' in bridge.latest)
    assert bridge.fresh_status().real_time_factor > 1.0
    begin_s, begin = time.monotonic(), bridge.fresh_status().simulation_time_s
    bridge.spin(1.5)
    end = bridge.fresh_status().simulation_time_s
    assert (end - begin) / (time.monotonic() - begin_s) == pytest.approx(2.0, abs=0.7)
    clock = bridge.latest['clock'].clock
    stamp = bridge.latest['joint_states'].header.stamp
    assert abs((stamp.sec - clock.sec) + 1e-9 * (stamp.nanosec - clock.nanosec)) < 0.5


def test_joint_names_of_another_robot_end_it_with_one_line(tmp_path):
    names = ['waist', *ROBOT.joint_names[1:]]
    process = _start(tmp_path, 'wrong', robot={'joint_names': names})
    _, errors = process.communicate(timeout=15.0)
    assert process.returncode == 2
    lines = errors.strip().splitlines()
    assert 'Traceback' not in errors
    assert 'waist' in lines[-1]
    assert 'shoulder_pan' in lines[-1]
