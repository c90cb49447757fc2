"""The controller and guard as processes, with a scripted driver and robot_interface around them."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from async_mbrl_interfaces import msg
from control_rig import JOINTS, NETWORK, make_snapshot
from process_rig import ABORTED, END, LIMIT_S, MOVE_DONE, ROBOT, STEP, TASK, Rig, child, gone

from async_mbrl.control.acceptance import PUBLISHER_TIMEOUT_S
from async_mbrl.control.core import STALL_S
from async_mbrl.control.process import Adoption
from async_mbrl.core.clock import RobotClock
from async_mbrl.core.snapshot import Version
from async_mbrl.nodes.controller import Controller
from async_mbrl.ros import controller_bridge, controller_report, qos
from async_mbrl.ros.controller_bridge import ControllerBridge, LoopDied
from async_mbrl.ros.controller_report import ControllerReport
from async_mbrl.ros.convert import snapshot_to_messages, step_from_message, to_seconds

pytestmark = pytest.mark.usefixtures('ros')


class Unheard:
    """A publisher whose messages are all lost."""

    def publish(self, _message) -> None:
        pass


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
    other = rig.learner.create_publisher(msg.ParameterSnapshot, 'policy_parameters',
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

    # Whoever else may publish is not believed at all, however new the version.
    stranger = rclpy.create_node('stranger')
    other = stranger.create_publisher(msg.ParameterSnapshot, 'policy_parameters', qos.snapshots(4))
    rig.until(lambda: other.get_subscription_count() > 0)
    for message in snapshot_to_messages(make_snapshot(TASK, Version(3, 0)), 'stranger',
                                        rig.node.get_clock().now().to_msg()):
        other.publish(message)
    refused = rig.statuses[-1].policies_rejected
    rejected('/stranger may publish policies, too')
    for message in snapshot_to_messages(make_snapshot(TASK, Version(2, 1)), 'second',
                                        rig.node.get_clock().now().to_msg()):
        other.publish(message)      # it has copied who it says it is
    refused = rig.statuses[-1].policies_rejected
    rejected('/stranger may publish policies, too')
    assert rig.statuses[-1].policies_applied == 2
    stranger.destroy_node()


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
    rig.running()
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
    process = rig.running()
    rig.until(lambda: rig.guard and rig.guard[-1].state == msg.SafetyStatus.ACTIVE)
    loop = child(process)
    assert rig.effort.any()
    killed_s = time.monotonic()
    process.kill()
    rig.until(lambda: any(when > killed_s and not command.any() for when, command in rig.commands))
    stopped_s = next(when for when, command in rig.commands
                     if when > killed_s and not command.any())
    assert stopped_s - killed_s < 0.05
    rig.until(lambda: rig.guard[-1].state == msg.SafetyStatus.FAULT)
    rig.spin(0.3)
    assert len([when for when, _ in rig.commands if when > stopped_s]) > 15
    assert gone(loop)


def test_guard_is_told_before_the_first_command_of_a_sequence(monkeypatch):
    active, fault, idle = (msg.SafetyStatus.ACTIVE, msg.SafetyStatus.FAULT,
                           msg.SafetyStatus.IDLE)
    said = []
    stand = SimpleNamespace(
        _loop=SimpleNamespace(count=lambda _: 0, pid=1), _host='here', _closing=False,
        _guard_armed=False, _node=rclpy.create_node('stand'),
        _safety=SimpleNamespace(publish=lambda message: said.append(message.state)),
        _commands=SimpleNamespace(publish=said.append))
    stand._publish_safety = lambda *state: ControllerBridge._publish_safety(stand, *state)
    for state in (idle, fault, active, fault, idle):
        stand._publish_safety(state)
        ControllerBridge._send(stand, b'first')
        ControllerBridge._send(stand, b'second')
    first, second = b'first', b'second'
    assert said == [idle, active, first, second, fault, first, second, active, first, second,
                    fault, first, second, idle, active, first, second]
    stand._node.destroy_node()


def test_the_age_of_a_policy_does_not_depend_on_the_clock_of_its_publisher(monkeypatch):
    node = rclpy.create_node('stand')
    robot = SimpleNamespace(control_rate_hz=500.0)
    report = ControllerReport(node, robot, None, None, 1, False)
    monkeypatch.setattr(controller_report.time, 'monotonic', lambda: 107.0)
    assert report.policy_age_s == 0.0
    for published_ns in (1, 2**62):
        report.policy_adopted(Adoption(Version(1, 0), published_ns, time.time_ns()), 100.0)
        assert report.policy_age_s == 7.0
    node.destroy_node()


def test_joint_states_of_another_robot_that_come_first_are_a_fault_only_if_no_others_follow(
        monkeypatch):
    causes, clock = [], SimpleNamespace(now_s=10.0)
    stand = SimpleNamespace(
        _joints_known=False, _wrong_since_s=float('inf'), _drop_state=lambda _: None,
        _loop=SimpleNamespace(set_cause=lambda *cause: causes.append(cause)))
    monkeypatch.setattr(controller_bridge.time, 'monotonic', lambda: clock.now_s)
    for clock.now_s in (10.0, 10.5, 10.9):
        ControllerBridge._on_wrong_joints(stand, 'a gripper')
    assert causes == []
    clock.now_s = 11.1
    ControllerBridge._on_wrong_joints(stand, 'a gripper')
    assert causes == [('joint_names', True, 'a gripper')]
    stand._joints_known = True
    ControllerBridge._on_wrong_joints(stand, 'a gripper')
    assert len(causes) == 1


def test_a_command_thread_that_fails_ends_the_controller(monkeypatch):
    sent, said = [], []
    bridge = ControllerBridge.__new__(ControllerBridge)
    bridge._died = ''
    bridge._interface, bridge._joints = 'effort', JOINTS
    bridge.measured = (0.0, np.ones(JOINTS), np.ones(JOINTS))
    bridge._loop = SimpleNamespace(count=lambda _name: 1)
    bridge._commands = SimpleNamespace(publish=sent.append, flush=lambda: None)
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


def test_after_a_stall_only_commands_that_begin_anew_are_sent():
    """Guard has stopped the arm meanwhile, and the loop, which went on, does not know."""
    sent, asked, ended = [], [], []
    clock = RobotClock(1.0)
    wake = os.eventfd(1)
    commands = iter([b'before', b'old', b'new', b'last'])

    def clear_wake() -> None:
        if len(sent) == 1 and not asked:
            time.sleep(3.0 * STALL_S)

    def newest_command() -> tuple[float, bytes]:
        command = next(commands)
        if command == b'new':
            ended.append(True)      # that is, when the next one is sent
        # The old one is of the tick that was just over when the stall was.
        return clock.now() - (0.001 if command in (b'old', b'last') else -0.001), command

    bridge = ControllerBridge.__new__(ControllerBridge)
    bridge._period_s, bridge._clock, bridge._resets, bridge._closing = 0.002, clock, None, True
    bridge._loop = SimpleNamespace(
        pid=os.getpid(), wake=wake, clear_wake=clear_wake, newest_command=newest_command,
        restart=lambda: asked.append(True), count=lambda _name: bool(ended), exit_status=None)
    bridge.watch = SimpleNamespace(descriptors=(), look=lambda: None)
    bridge._take_joint_state = bridge._publish_events = bridge._beat = lambda: None
    bridge._send = sent.append
    bridge._serve()
    os.close(wake)
    # The last one is the safe command, whenever it was due.
    assert sent == [b'before', b'new', b'last'] and len(asked) == 1


@pytest.mark.parametrize(('reason', 'state'), [
    ('', msg.SafetyStatus.SHUTDOWN), ('a callback failed', msg.SafetyStatus.FAULT)])
def test_guard_is_told_how_the_end_went_once_the_last_commands_are_out(reason, state):
    """The thread ends only after the loop, which may take all the time that is waited for it."""
    told, sent = [], []
    ended = SimpleNamespace(joined=0)

    def join(_timeout_s: float) -> None:
        ended.joined += 1

    bridge = ControllerBridge.__new__(ControllerBridge)
    bridge._closing, bridge._died = False, ''
    bridge._thread = SimpleNamespace(join=join, is_alive=lambda: ended.joined < 2)
    bridge._loop = SimpleNamespace(
        ask_to_stop=lambda: None, join=lambda timeout_s: 0 if timeout_s <= 1.5 else 1,
        count=lambda _name: 1, close=lambda: None)
    bridge.watch = SimpleNamespace(close=lambda: None)
    bridge._intake = SimpleNamespace(failure='', close=lambda: None)
    publisher = SimpleNamespace(wait_for_all_acked=lambda _limit: None)
    bridge._commands = SimpleNamespace(flush=lambda: None, publisher=publisher)
    bridge._safety = publisher
    bridge._safety_state = lambda: (msg.SafetyStatus.ACTIVE, '')
    bridge._publish_safety = lambda *said: told.append(said)
    bridge._send_safe = lambda: sent.append(0)
    bridge.close(reason)
    assert told[-1] == (state, reason)
    assert not sent


def test_a_controller_that_fails_tells_guard_and_gives_the_arm_back():
    done = []
    controller = Controller.__new__(Controller)
    controller.failure = RuntimeError('a callback')
    controller._bridge = SimpleNamespace(close=done.append)
    controller._gate = SimpleNamespace(give_back=lambda: done.append('given back'))
    controller.on_failure()
    assert len(done) == 2
    assert 'a callback' in done[0]
    assert done[1] == 'given back'
    controller.cleanup()
    assert len(done) == 2


def test_death_of_the_loop_ends_the_controller_with_an_error(rig):
    process = rig.running()
    os.kill(child(process), signal.SIGKILL)
    killed_s = time.monotonic()
    rig.until(lambda: rig.commands[-1][0] > killed_s and not rig.commands[-1][1].any())
    rig.until(lambda: process.poll() is not None)
    assert process.returncode == 1
    assert 'the control loop ended' in process.stderr.read()
