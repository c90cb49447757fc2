"""The controller and guard as processes, with a scripted driver and robot_interface around them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

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

from async_mbrl.control.acceptance import PUBLISHER_TIMEOUT_S
from async_mbrl.core.config import to_mapping
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.snapshot import Version
from async_mbrl.ros import qos
from async_mbrl.ros.controller_bridge import ControllerBridge, LoopDied
from async_mbrl.ros.convert import (
    command_to_message,
    doubles,
    snapshot_to_messages,
    step_from_message,
    to_seconds,
)
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

    def __init__(self, folder) -> None:
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
        node = self.node
        self.states = node.create_publisher(JointState, 'joint_states', qos.COMMAND)
        self.policies = node.create_publisher(msg.ParameterSnapshot, 'policy_parameters',
                                              qos.snapshots(4))
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
                self.states.publish(JointState(
                    name=self.names, position=doubles(self.plant.position[self.order]),
                    velocity=doubles(self.plant.velocity[self.order])))

    def start(self, name: str, robot=ROBOT) -> subprocess.Popen:
        parameters = {'run': {'run_dir': str(self.folder), 'seed': 0, 'algorithm': 'me_ppo'},
                      'robot': to_mapping(robot)}
        if name == 'controller':
            parameters |= {'task': to_mapping(TASK.config), 'network': to_mapping(NETWORK)}
        path = self.folder / f'{name}.yaml'
        path.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
        process = subprocess.Popen(
            [sys.executable, '-m', f'async_mbrl.nodes.{name}', '--ros-args', '--params-file',
             str(path)], stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def until(self, condition, what: str = '') -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, (
                what, [(step.kind, step.reason) for step in self.steps[-3:]], self.statuses[-1:])
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.01)

    def publish(self, snapshot, publisher: str = 'first', spoil=None) -> None:
        for message in snapshot_to_messages(snapshot, publisher, self.node.get_clock().now()
                                            .to_msg()):
            if spoil is not None:
                spoil(message)
            self.policies.publish(message)

    def ask(self, **fields) -> None:
        command = episode(ROBOT, self.number, **fields)
        self.orders.publish(command_to_message(command, 7, self.node.get_clock().now().to_msg()))
        self.number += 1

    def ready(self, **policy) -> subprocess.Popen:
        """Start the controller and give it a policy."""
        process = self.start('controller')
        self.until(lambda: self.policies.get_subscription_count() > 0)
        self.publish(make_snapshot(TASK, **policy))
        self.until(lambda: self.statuses and self.statuses[-1].policies_applied == 1)
        return process

    def last(self, kind: int) -> bool:
        return bool(self.steps) and self.steps[-1].kind == kind

    def close(self) -> None:
        self.closing = True
        self.driver.join()
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
            try:
                process.communicate(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Unheard:
    """A publisher whose messages are all lost."""

    def publish(self, _message) -> None:
        pass


def gone(pid: str) -> bool:
    state = subprocess.run(['ps', '-o', 'stat=', '-p', pid], capture_output=True, text=True).stdout
    return not state.strip() or state.startswith('Z')


@pytest.fixture(scope='module', autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_episode_runs_and_steps_are_numbered_whatever_the_order_of_joints(rig):
    rig.order = np.array([3, 1, 6, 0, 5, 2, 4])
    rig.names = [ROBOT.joint_names[i] for i in rig.order]
    process = rig.ready(bias=0.1)
    rig.ask(start_pose=np.array(ROBOT.home) + 0.05, move_duration_s=0.8)
    rig.until(lambda: rig.last(END))
    assert [step.kind for step in rig.steps] == [MOVE_DONE, STEP, STEP, STEP, END]
    assert [step.number for step in rig.steps] == list(range(5))
    assert len({step.session for step in rig.steps}) == 1
    times = [to_seconds(step.header.stamp) for step in rig.steps]
    assert times[-1] - times[1] == pytest.approx(0.3, abs=1e-3)
    assert times[-1] == pytest.approx(time.time(), abs=LIMIT_S)
    first, *_, end = (step_from_message(step) for step in rig.steps[1:])
    assert first.observation[:JOINTS] == pytest.approx(np.array(ROBOT.home) + 0.05, abs=0.03)
    assert end.previous_action_applied == pytest.approx(np.full(JOINTS, 0.1), abs=1e-5)
    assert first.policy_version == Version(1, 0)
    for _, command in rig.commands:
        assert np.isfinite(command).all()
        assert (np.abs(command) <= ROBOT.limits.effort).all()
    assert rig.safety[-1].state == msg.SafetyStatus.ACTIVE

    # Asked to end, it sends the safe command last and says that it ended as asked.
    process.send_signal(signal.SIGTERM)
    rig.until(lambda: process.poll() is not None)
    rig.until(lambda: rig.safety[-1].state == msg.SafetyStatus.SHUTDOWN)
    rig.spin(0.05)
    assert process.returncode == 0
    assert not rig.commands[-1][1].any()


def test_only_verified_policies_of_one_publisher_are_applied(rig):
    rig.ready(version=Version(1, 5))
    refused = 0

    def rejected(word: str) -> None:
        nonlocal refused
        refused += 1
        rig.until(lambda: rig.statuses[-1].policies_rejected == refused,
                  f'expected refusal {refused}: {word}')
        assert word in rig.statuses[-1].last_rejection

    def flip(message) -> None:
        message.data[len(message.data) // 2] ^= 1

    rig.publish(make_snapshot(TASK, Version(1, 6)), spoil=flip)
    rejected('damaged')
    rig.publish(make_snapshot(TASK, Version(1, 6), network=dataclasses.replace(
        NETWORK, hidden=(8,))))
    rig.publish(make_snapshot(TASK, Version(1, 6), **{
        'layer0.bias': np.full(16, np.nan, np.float32)}))
    rig.publish(make_snapshot(TASK, Version(1, 4)))
    refused += 2
    rejected('not newer')
    other = rig.node.create_publisher(msg.ParameterSnapshot, 'policy_parameters',
                                      qos.snapshots(4))
    rig.until(lambda: other.get_subscription_count() > 0)
    rig.publish(make_snapshot(TASK, Version(1, 5)))       # the first one still lives
    rejected('not newer')
    for message in snapshot_to_messages(make_snapshot(TASK, Version(2, 0)), 'second',
                                        rig.node.get_clock().now().to_msg()):
        other.publish(message)
    rejected('still lives')
    status = rig.statuses[-1]
    assert (status.policy_version.incarnation, status.policy_version.counter) == (1, 5)
    assert status.policies_applied == 1
    # With nothing new to publish the first lives on as long as its heartbeats do.
    beats = rig.node.create_publisher(msg.LearnerStatus, 'learner_status', qos.STATUS)
    end_s = time.monotonic() + 1.5 * PUBLISHER_TIMEOUT_S
    while time.monotonic() < end_s:
        beats.publish(msg.LearnerStatus(name='policy_learner', session='first'))
        rig.spin(0.2)
    assert rig.statuses[-1].policies_applied == 1
    # Fallen silent, the first gives way, and the second need not say it again.
    rig.until(lambda: rig.statuses[-1].policies_applied == 2)
    assert rig.statuses[-1].policy_version.incarnation == 2


def test_joints_of_another_robot_are_a_fault_and_nothing_is_sent(rig):
    rig.names = [f'other_{i}' for i in range(JOINTS)]
    rig.start('controller')
    rig.until(lambda: rig.statuses and rig.statuses[-1].state == 'fault')
    fault = rig.statuses[-1].fault
    assert 'other_0' in fault
    assert 'shoulder_pan' in fault
    rig.until(lambda: rig.policies.get_subscription_count() > 0)
    rig.publish(make_snapshot(TASK))
    rig.ask()
    rig.until(lambda: rig.last(ABORTED))
    rig.until(lambda: rig.safety and rig.safety[-1].state == msg.SafetyStatus.FAULT)
    assert not rig.commands


def test_joint_states_of_another_robot_beside_the_right_ones_are_dropped(rig):
    rig.ready()
    names, rig.names = rig.names, [f'other_{i}' for i in range(JOINTS)]
    rig.spin(0.05)
    rig.names = names
    rig.spin(0.05)
    rig.ask()
    rig.until(lambda: rig.last(END))
    assert rig.statuses[-1].fault == ''


def test_orders_of_before_are_not_obeyed_by_a_restarted_controller(rig):
    status = rig.node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
    for _ in range(3):
        rig.ask()
    rig.spin(1.6)
    rig.ready()
    status.publish(msg.RunStatus(session=7, next_episode_command=rig.number))
    rig.until(lambda: rig.last(ABORTED) and rig.steps[-1].command_number == 2)
    assert {step.kind for step in rig.steps} == {ABORTED}
    assert 'too late' in rig.steps[-1].reason
    assert not rig.commands
    rig.ask()
    rig.until(lambda: rig.last(END))
    assert rig.steps[-1].command_number == 3


def test_a_recent_order_that_was_lost_is_obeyed_all_the_same(rig):
    rig.ready()
    status = rig.node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
    rig.until(lambda: status.get_subscription_count() > 0)
    publish, rig.orders._publisher = rig.orders._publisher, Unheard()
    rig.ask()
    rig.orders._publisher = publish
    status.publish(msg.RunStatus(session=7, next_episode_command=1))
    rig.until(lambda: rig.last(END))


def test_silence_of_the_driver_stops_the_arm_in_time(rig):
    rig.ready(bias=0.3)
    rig.ask(steps=1000)
    rig.until(lambda: rig.last(STEP))
    rig.driving.clear()
    silent_s = time.monotonic()
    rig.until(lambda: rig.last(ABORTED))
    rig.until(lambda: not rig.effort.any())
    zero_s = next(when for when, command in rig.commands if when > silent_s and not command.any())
    assert zero_s - silent_s < 0.1
    rig.plant.velocity[:] = 0.0
    rig.driving.set()
    rig.spin(0.1)
    rig.ask()
    rig.until(lambda: rig.last(END))
    rig.until(lambda: rig.statuses[-1].stale_holds == 1)


def test_guard_stops_the_arm_when_the_controller_is_killed(rig):
    rig.start('guard')
    process = rig.ready(bias=0.3)
    rig.ask(steps=1000)
    rig.until(lambda: rig.guard and rig.guard[-1].state == msg.SafetyStatus.ACTIVE
              and rig.last(STEP))
    children = subprocess.check_output(['ps', '-o', 'pid=', '--ppid', str(process.pid)],
                                       text=True).split()
    assert rig.effort.any()
    killed_s = time.monotonic()
    process.kill()
    rig.until(lambda: any(when > killed_s and not command.any() for when, command in rig.commands))
    stopped_s = next(when for when, command in rig.commands
                     if when > killed_s and not command.any())
    assert stopped_s - killed_s < 0.1
    rig.until(lambda: rig.guard[-1].state == msg.SafetyStatus.FAULT)
    rig.spin(0.3)
    assert len([when for when, _ in rig.commands if when > stopped_s]) > 15
    assert all(gone(child) for child in children)


def test_guard_holds_a_position_controlled_arm_where_it_was(rig):
    rig.start('guard', make_robot(command_interface='position'))
    heartbeats = rig.node.create_publisher(msg.SafetyStatus, 'safety_status', qos.FRESH)
    rig.until(lambda: heartbeats.get_subscription_count() > 1 and rig.guard)

    def beat(state: int) -> None:
        heartbeats.publish(msg.SafetyStatus(source='controller', state=state))

    beat(msg.SafetyStatus.IDLE)
    rig.spin(0.2)
    assert not rig.commands
    beat(msg.SafetyStatus.ACTIVE)
    where = rig.plant.position.copy()
    rig.until(lambda: rig.commands)
    assert rig.commands[0][1] == pytest.approx(where)
    beat(msg.SafetyStatus.SHUTDOWN)
    rig.spin(0.1)
    sent = len(rig.commands)
    rig.spin(0.2)
    assert len(rig.commands) == sent


def test_guard_asked_to_stop_waits_for_the_controller_to_end(rig):
    guard = rig.start('guard')
    heartbeats = rig.node.create_publisher(msg.SafetyStatus, 'safety_status', qos.FRESH)
    rig.until(lambda: heartbeats.get_subscription_count() > 1 and rig.guard)

    def beat(state: int, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            heartbeats.publish(msg.SafetyStatus(source='controller', state=state))
            rig.spin(0.02)

    beat(msg.SafetyStatus.ACTIVE, 0.1)
    guard.send_signal(signal.SIGINT)
    beat(msg.SafetyStatus.ACTIVE, 0.5)
    assert guard.poll() is None
    beat(msg.SafetyStatus.SHUTDOWN, 0.05)
    assert guard.wait(1.0) == 0
    assert not rig.commands


def test_guard_leaves_the_safe_command_if_the_controller_does_not_end(rig):
    guard = rig.start('guard')
    heartbeats = rig.node.create_publisher(msg.SafetyStatus, 'safety_status', qos.FRESH)
    rig.until(lambda: heartbeats.get_subscription_count() > 1 and rig.guard)
    asked_s = 0.0
    while guard.poll() is None:
        heartbeats.publish(msg.SafetyStatus(source='controller', state=msg.SafetyStatus.ACTIVE))
        rig.spin(0.02)
        if not asked_s:
            rig.spin(0.05)
            guard.send_signal(signal.SIGTERM)
            asked_s = time.monotonic()
    assert 1.4 < time.monotonic() - asked_s < 2.5
    assert guard.returncode == 0
    rig.until(lambda: rig.commands)
    assert not rig.commands[-1][1].any()


def test_a_command_thread_that_fails_ends_the_controller(monkeypatch):
    sent, said = [], []
    bridge = ControllerBridge.__new__(ControllerBridge)
    bridge._died = ''
    bridge._interface, bridge._position = 'effort', np.ones(JOINTS)
    bridge._loop = SimpleNamespace(count=lambda _name: 1)
    bridge._commands = SimpleNamespace(publish=sent.append)
    bridge._intake = SimpleNamespace(failure='')
    bridge._node = SimpleNamespace(get_logger=lambda: SimpleNamespace(error=said.append,
                                                                      fatal=said.append))
    bridge.check()
    monkeypatch.setattr(bridge, '_serve', lambda: [][0])
    bridge._run()
    assert np.frombuffer(sent[0]).tolist() == [0.0] * JOINTS
    with pytest.raises(LoopDied, match='IndexError'):
        bridge.check()
    bridge._died, bridge._intake.failure = '', 'no policies are taken in any more'
    with pytest.raises(LoopDied, match='no policies'):
        bridge.check()


def test_death_of_the_loop_ends_the_controller_with_an_error(rig):
    process = rig.ready(bias=0.3)
    rig.ask(steps=1000)
    rig.until(lambda: rig.last(STEP))
    child = int(subprocess.check_output(['ps', '-o', 'pid=', '--ppid', str(process.pid)]))
    os.kill(child, signal.SIGKILL)
    killed_s = time.monotonic()
    rig.until(lambda: rig.commands[-1][0] > killed_s and not rig.commands[-1][1].any())
    rig.until(lambda: process.poll() is not None)
    assert process.returncode == 1
    assert 'the control loop ended' in process.stderr.read()
