"""The controller stops the arm for whatever goes wrong around it, and goes on only when cleared."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from async_mbrl_interfaces import msg
from control_rig import JOINTS, make_robot
from controller_manager_rig import FakeControllerManager
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from process_rig import ABORTED, END, STEP, Rig
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from async_mbrl.core.host import host_id
from async_mbrl.ros import qos
from async_mbrl.ros.commands import DRY_RUN_TOPIC

pytestmark = pytest.mark.usefixtures('ros')

ESTOP, FAULT = msg.SafetyStatus.ESTOP, msg.SafetyStatus.FAULT


class SafetyRig(Rig):
    """Adds what an operator does and sees."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.runs = self.node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, f'controller/{name}')

    def change(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, 'controller/change_state', request).success

    def until_motion(self, motion: str) -> msg.ControllerStatus:
        self.until(lambda: self.statuses and self.statuses[-1].motion == motion, motion)
        return self.statuses[-1]

    def until_cause(self, name: str, motion: str = 'fault') -> str:
        """Wait for a cause; give its reason."""
        def present() -> list[str]:
            return [cause for cause in self.statuses[-1].fault_causes
                    if cause.startswith(f'{name}: ')]

        self.until(lambda: self.statuses[-1].motion == motion and present(), name)
        return present()[0].partition(': ')[2]

    def stopped_after(self, since_s: float) -> float:
        """Wait until the arm is braked, and at rest; give the time until the braking began.

        The policy of an episode that runs asks for the same all the time.
        """
        before = [command for when, command in self.commands if when <= since_s][-1]

        def other() -> list[float]:
            return [when for when, command in self.commands
                    if when > since_s and np.abs(command - before).max() > 1e-9]

        self.until(other, 'braking')
        self.until(lambda: np.abs(self.plant.velocity).max() < 0.05, 'rest')
        return other()[0] - since_s

    def clears(self) -> None:
        answer = self.trigger('clear_fault')
        assert answer.success, answer.message

    def runs_again(self) -> None:
        self.run(END)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SafetyRig]:
    rig = SafetyRig(tmp_path)
    yield rig
    rig.close()


def test_an_emergency_stop_is_latched_until_it_is_released_and_cleared(rig):
    button = rig.node.create_publisher(Bool, 'emergency_stop', QoSProfile(depth=1))
    rig.running()
    pressed_s = time.monotonic()
    button.publish(Bool(data=True))
    assert rig.stopped_after(pressed_s) < 0.1
    assert rig.until_cause('emergency_stop', 'estop')
    assert rig.last(ABORTED)
    rig.until(lambda: rig.safety[-1].state == ESTOP)
    assert 'emergency_stop' in rig.trigger('clear_fault').message
    rig.ask()
    rig.until(lambda: rig.steps[-1].command_number == rig.number - 1)
    assert rig.last(ABORTED)
    assert 'emergency stop' in rig.steps[-1].reason
    button.publish(Bool(data=False))
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.spin(0.1)
    assert rig.statuses[-1].motion == 'estop', 'released is not cleared'
    rig.clears()
    rig.until_motion('holding')
    rig.runs_again()

    assert rig.trigger('emergency_stop').success
    rig.until_motion('estop')
    rig.clears()
    rig.runs_again()


def test_death_of_robot_interface_stops_the_arm_until_another_one_is_there(rig):
    def robot_interface(session: int, **fields) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(['sleep', '100'])
        rig.runs.publish(msg.RunStatus(session=session, host=host_id(), process=process.pid,
                                       phase=msg.RunStatus.LEARNING, **fields))
        return process

    rig.running()
    first = robot_interface(8)
    rig.spin(0.1)
    killed_s = time.monotonic()
    first.kill()
    assert rig.stopped_after(killed_s) < 0.05
    assert str(first.pid) in rig.until_cause('robot_interface')
    first.wait()
    assert not rig.trigger('clear_fault').success
    second = robot_interface(9)
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.clears()
    rig.runs_again()

    # Silent, though alive: held, but no fault.
    rig.run(STEP, steps=1000)
    rig.until(lambda: rig.last(ABORTED))
    assert 'silent for more than 2 s' in rig.steps[-1].reason
    assert rig.until_motion('holding').fault == ''
    # What says that it ends may.
    rig.runs.publish(msg.RunStatus(session=9, host=host_id(), process=second.pid,
                                   phase=msg.RunStatus.DONE))
    rig.spin(0.1)
    second.kill()
    second.wait()
    rig.spin(0.6)
    assert rig.statuses[-1].motion == 'holding'


def test_a_second_publisher_of_commands_is_a_fault_while_it_is_there(rig):
    rig.running()
    stranger = rclpy.create_node('stranger')
    stranger.create_publisher(Float64MultiArray, 'commands', qos.COMMAND)
    assert '/stranger may publish on /commands' in rig.until_cause('second_publisher')
    assert not rig.trigger('clear_fault').success
    stranger.destroy_node()
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.clears()
    # Another controller of this graph has the same name, and tells itself apart.
    twin = rig.node.create_publisher(msg.ControllerStatus, 'controller_status', qos.STATUS)
    rig.until(lambda: twin.get_subscription_count() > 1)
    twin.publish(msg.ControllerStatus(session=1))
    assert 'another controller' in rig.until_cause('second_publisher')


def test_joint_states_that_cannot_be_are_dropped_and_in_a_row_are_a_fault(rig):
    rig.running()
    ticks = iter(range(1_000_000))

    def every_seventh(spoil) -> None:
        rig.spoil = lambda message: next(ticks) % 7 or spoil(message)
        dropped = rig.statuses[-1].states_dropped
        rig.until(lambda: rig.statuses[-1].states_dropped > dropped + 10)
        rig.spoil = None
        assert rig.statuses[-1].motion == 'running'

    def turn_nan(message) -> None:
        message.position[2] = float('nan')

    def go_back(message) -> None:
        message.header.stamp.sec -= 100

    def jump(message) -> None:
        message.position[4] += 1.0

    for spoil in (turn_nan, go_back, jump):
        every_seventh(spoil)
    jumped_s = time.monotonic()
    offsets = iter(np.arange(1.0, 1e6))

    def leap(message) -> None:
        message.position[4] += next(offsets)

    rig.spoil = leap
    assert rig.stopped_after(jumped_s) < 0.1
    assert 'joint 4 jumped' in rig.until_cause('joint_states')
    assert not rig.trigger('clear_fault').success
    rig.spoil = None
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.clears()
    rig.runs_again()
    rig.spoil = turn_nan
    rig.ask(steps=1000)
    rig.until(lambda: rig.last(ABORTED))


def test_a_deactivated_controller_holds_the_arm_and_takes_no_orders(rig):
    rig.running()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.until(lambda: rig.last(ABORTED))
    assert 'deactivated' in rig.steps[-1].reason
    rig.ask()
    rig.until(lambda: rig.steps[-1].command_number == rig.number - 1)
    assert rig.last(ABORTED)
    assert 'not active' in rig.steps[-1].reason
    assert rig.until_motion('holding').fault == ''
    sent = len(rig.commands)
    rig.spin(0.1)
    assert len(rig.commands) > sent + 20
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.runs_again()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert rig.change(Transition.TRANSITION_CLEANUP)
    rig.until(lambda: rig.safety[-1].state == msg.SafetyStatus.SHUTDOWN)
    rig.spin(0.1)
    sent = len(rig.commands)
    rig.spin(0.1)
    assert len(rig.commands) == sent
    assert not rig.commands[-1][1].any()
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.change(Transition.TRANSITION_ACTIVATE)


def test_the_arm_is_taken_from_other_controllers_and_given_back(rig):
    manager = FakeControllerManager(rig.node, '/manager', {'ours': 'inactive', 'other': 'active'})
    process = rig.running(robot=make_robot(
        controller_manager='/manager', controllers=['ours'], other_controllers=['other']))
    assert manager.active() == {'ours'}
    # Guard may have let go of it meanwhile; clearing a fault takes it again.
    assert rig.trigger('emergency_stop').success
    manager.states['ours'] = 'inactive'
    rig.clears()
    assert manager.active() == {'ours'}
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert manager.active() == {'other'}
    rig.effort = None
    rig.until_motion('idle')
    rig.spin(0.1)
    sent = len(rig.commands)
    rig.spin(0.2)
    assert len(rig.commands) == sent, 'the arm is not ours any more'
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    assert manager.active() == {'ours'}
    rig.runs_again()

    # Guard lets go of it in an emergency stop: the others get it back all the same, and in an
    # emergency stop it is not taken.
    def stop() -> None:
        assert rig.trigger('emergency_stop').success
        rig.until_motion('estop')
        manager.states['ours'] = 'inactive'

    stop()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert manager.active() == {'other'}
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    assert manager.active() == {'other'}
    rig.clears()
    assert manager.active() == {'ours'}
    rig.runs_again()
    stop()
    process.send_signal(signal.SIGTERM)
    rig.until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert manager.active() == {'other'}


def test_controllers_that_somebody_deactivates_are_a_fault_until_it_is_cleared(rig):
    manager = FakeControllerManager(rig.node, '/manager', {'ours': 'inactive'})
    rig.running(robot=make_robot(controller_manager='/manager', controllers=['ours']))
    manager.states['ours'] = 'inactive'
    assert 'ours is inactive' in rig.until_cause('controllers')
    assert rig.last(ABORTED)
    manager.states['ours'] = 'active'       # by whoever deactivated it: the arm stays where it is
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.spin(0.1)
    assert rig.statuses[-1].motion == 'fault'
    manager.states['ours'] = 'inactive'
    rig.until_cause('controllers')
    rig.clears()
    assert manager.active() == {'ours'}
    rig.runs_again()


def test_an_arm_that_sinks_with_nothing_sent_is_refused(rig):
    push = np.zeros(JOINTS)
    push[3] = 2.0
    rig.effort = push
    process = rig.start('controller')
    rig.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    said = process.stderr.read()
    assert 'gravity_compensated' in said
    assert 'joint 3 moved' in said
    assert len(rig.commands) == 0


def test_a_dry_run_does_everything_but_send(rig):
    shown: list[Float64MultiArray] = []
    rig.node.create_subscription(Float64MultiArray, DRY_RUN_TOPIC, shown.append, 10)
    rig.start('guard', dry_run=True)
    rig.ready(dry_run=True, bias=0.3)
    rig.runs_again()
    assert rig.node.count_publishers('commands') == 0
    assert not rig.commands
    assert any(any(message.data) for message in shown)
    assert rig.statuses[-1].dry_run


def test_diagnostics_say_what_is_wrong(rig):
    parts: dict[str, DiagnosticStatus] = {}
    rig.node.create_subscription(
        DiagnosticArray, '/diagnostics',
        lambda message: parts.update({part.name: part for part in message.status}), qos.STATUS)

    def until(name: str, level: bytes, word: str) -> None:
        rig.until(lambda: name in parts and parts[name].level == level
                  and word in parts[name].message, f'{name}: {word} {parts}')

    rig.start('guard')
    rig.running(sections={'controller': {
        'policy_age_warning_s': 0.1, 'policy_age_limit_s': 2.0}})
    for name in ('motion', 'control loop', 'joint states', 'policy', 'topics'):
        rig.until(lambda name=name: f'controller: {name}' in parts)
    until('guard: watch', DiagnosticStatus.OK, 'armed')
    rig.until(lambda: ('motion', 'running') in (
        (value.key, value.value) for value in parts['controller: motion'].values))
    until('controller: policy', DiagnosticStatus.WARN, 's old')
    rig.runs.publish(msg.RunStatus(phase=msg.RunStatus.LEARNING, session=3))
    rig.until(lambda: rig.last(ABORTED))
    assert 'policy_age_limit_s' in rig.steps[-1].reason
    until('controller: policy', DiagnosticStatus.ERROR, 'policy_age_limit_s')
    assert rig.trigger('emergency_stop').success
    until('controller: motion', DiagnosticStatus.ERROR, 'estop: service')
    rig.driving.clear()
    until('controller: joint states', DiagnosticStatus.WARN, 'none arrive')


def test_a_stall_that_guard_acted_on_is_a_fault_where_it_is_latched(rig):
    rig.start('guard', guard={'latch': True})
    process = rig.running(sections={'guard': {'latch': True}})
    rig.until(lambda: rig.guard and rig.guard[-1].state == msg.SafetyStatus.ACTIVE)
    process.send_signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    assert rig.stopped_after(stopped_s) < 0.1 + 0.02
    # Commands sent before may still have been on their way.
    rig.until(lambda: rig.guard[-1].state == FAULT, 'guard acts')
    process.send_signal(signal.SIGCONT)
    rig.until_motion('fault')
    assert 'guard has acted' in rig.statuses[-1].fault
    rig.until(lambda: not rig.statuses[-1].fault_causes)
    rig.clears()
    rig.runs_again()
