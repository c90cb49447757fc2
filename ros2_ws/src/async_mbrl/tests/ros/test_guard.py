"""Guard as a process, with a scripted controller and driver around it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from async_mbrl_interfaces import msg
from control_rig import make_robot
from controller_manager_rig import FakeControllerManager
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from process_rig import ROBOT, Rig
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool

from async_mbrl.core.host import host_id
from async_mbrl.ros import qos

pytestmark = pytest.mark.usefixtures('ros')

IDLE, ACTIVE, FAULT, SHUTDOWN, ESTOP = (
    msg.SafetyStatus.IDLE, msg.SafetyStatus.ACTIVE, msg.SafetyStatus.FAULT,
    msg.SafetyStatus.SHUTDOWN, msg.SafetyStatus.ESTOP)


class GuardRig(Rig):
    """Guard, and the heartbeats of a controller that is a process which does nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.process = subprocess.Popen(['sleep', '100'])
        self.beats = self.node.create_publisher(msg.SafetyStatus, 'safety_status', qos.HEARTBEAT)

    def begin(self, robot=ROBOT, **options) -> subprocess.Popen[str]:
        guard = self.start('guard', robot, **options)
        self.until(lambda: self.beats.get_subscription_count() > 1 and self.guard)
        return guard

    def beat(self, state: int, duration_s: float = 0.0) -> None:
        end_s = time.monotonic() + duration_s
        while True:
            self.beats.publish(msg.SafetyStatus(source='controller', state=state, host=host_id(),
                                                processes=[self.process.pid]))
            self.spin(0.02)
            if time.monotonic() >= end_s:
                return

    def kill(self) -> float:
        self.process.kill()
        killed_s = time.monotonic()
        self.process.wait()
        return killed_s

    def close(self) -> None:
        self.beat(SHUTDOWN)     # guard would wait for it
        self.kill()
        super().close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GuardRig]:
    rig = GuardRig(tmp_path)
    yield rig
    rig.close()


def test_guard_acts_at_once_on_a_death_and_lets_a_successor_go_on(rig):
    rig.begin(guard={'timeout_s': 0.1})
    rig.beat(ACTIVE, 0.1)
    assert not rig.commands
    killed_s = rig.kill()
    rig.until(lambda: rig.commands)
    assert rig.commands[0][0] - killed_s < 0.05
    assert not rig.commands[0][1].any()
    rig.until(lambda: rig.guard[-1].state == FAULT)
    assert str(rig.process.pid) in rig.guard[-1].reason
    rig.beat(ACTIVE, 0.1)           # still from the dead one
    sent = len(rig.commands)
    rig.spin(0.2)
    assert 15 < len(rig.commands) - sent < 30
    rig.process = subprocess.Popen(['sleep', '100'])
    rig.beat(IDLE, 0.1)
    sent = len(rig.commands)
    rig.beat(IDLE, 0.2)
    assert len(rig.commands) == sent
    rig.until(lambda: rig.guard[-1].state == IDLE)


def test_guard_holds_a_position_controlled_arm_where_it_was(rig):
    rig.begin(make_robot(command_interface='position'))
    rig.beat(IDLE)
    rig.spin(0.2)
    assert not rig.commands
    rig.beat(ACTIVE)
    where = rig.plant.position.copy()
    offsets = itertools.cycle([0.0, 2.0])

    def jump(message) -> None:
        message.position[3] += next(offsets)

    rig.spoil = jump
    rig.until(lambda: rig.commands)
    assert rig.commands[0][1] == pytest.approx(where)
    rig.beat(SHUTDOWN)
    rig.spin(0.1)
    sent = len(rig.commands)
    rig.spin(0.2)
    assert len(rig.commands) == sent


def test_guard_asked_to_stop_waits_for_the_controller_to_end(rig):
    guard = rig.begin()
    rig.beat(ACTIVE, 0.1)
    guard.send_signal(signal.SIGINT)
    rig.beat(ACTIVE, 0.5)
    assert guard.poll() is None
    rig.beat(SHUTDOWN, 0.05)
    assert guard.wait(1.0) == 0
    assert not rig.commands


def test_guard_leaves_the_safe_command_if_the_controller_does_not_end(rig):
    guard = rig.begin()
    rig.beat(ACTIVE, 0.1)
    guard.send_signal(signal.SIGTERM)
    asked_s = time.monotonic()
    while guard.poll() is None:
        rig.beat(ACTIVE)
    assert 1.4 < time.monotonic() - asked_s < 2.5
    assert guard.returncode == 0
    rig.until(lambda: rig.commands)
    assert not rig.commands[-1][1].any()


def test_guard_is_not_deactivated_while_the_controller_has_the_arm(rig):
    rig.begin()

    def go(transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return rig.call(ChangeState, 'guard/change_state', request).success

    rig.beat(ACTIVE)
    assert not go(Transition.TRANSITION_DEACTIVATE)
    assert rig.call(GetState, 'guard/get_state').current_state.label == 'active'
    rig.until(lambda: rig.commands, 'silence')
    rig.beat(SHUTDOWN)
    assert go(Transition.TRANSITION_DEACTIVATE)
    rig.beat(ACTIVE)
    sent = len(rig.commands)
    rig.spin(0.3)
    assert len(rig.commands) == sent
    assert go(Transition.TRANSITION_ACTIVATE)
    rig.until(lambda: len(rig.commands) > sent, 'armed while it did not watch')


def test_guard_that_is_shut_down_leaves_the_safe_command(rig):
    guard = rig.begin()
    rig.beat(ACTIVE, 0.1)
    client = rig.node.create_client(ChangeState, 'guard/change_state')
    rig.until(client.service_is_ready)
    rig.beat(ACTIVE, 0.1)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_ACTIVE_SHUTDOWN
    sent = len(rig.commands)
    client.call_async(request)
    while guard.poll() is None:
        rig.beat(ACTIVE)
    assert guard.returncode == 0, guard.stderr.read()
    rig.until(lambda: len(rig.commands) > sent)
    assert not rig.commands[-1][1].any()


def test_guard_sends_nothing_in_a_dry_run(rig):
    rig.begin(dry_run=True)
    rig.beat(ACTIVE, 0.1)
    rig.kill()
    rig.until(lambda: rig.guard[-1].state == FAULT)
    rig.spin(0.2)
    assert not rig.commands
    assert rig.node.count_publishers('commands') == 0


def test_guard_has_controllers_deactivated_after_a_death_and_an_emergency_stop(rig):
    manager = FakeControllerManager(rig.node, '/manager', {'ours': 'active', 'others': 'active'})
    rig.begin(make_robot(controller_manager='/manager', controllers=['ours']))
    button = rig.node.create_publisher(Bool, 'emergency_stop', QoSProfile(depth=1))
    rig.until(lambda: button.get_subscription_count() >= 2)
    rig.beat(ACTIVE, 0.1)
    button.publish(Bool(data=True))
    pressed_s = time.monotonic()
    while 'ours' in manager.active():
        rig.beat(ESTOP)
        assert time.monotonic() < pressed_s + 3.0
    assert time.monotonic() - pressed_s > 0.45, 'time to brake'
    manager.states['ours'] = 'active'       # by somebody, while the button is pressed
    while 'ours' in manager.active():
        rig.beat(ESTOP)
        assert time.monotonic() < pressed_s + 6.0
    manager.states['ours'] = 'active'
    button.publish(Bool(data=False))
    rig.beat(ACTIVE, 0.7)
    assert len(manager.switches) == 2
    killed_s = rig.kill()
    rig.until(lambda: 'ours' not in manager.active())
    assert time.monotonic() - killed_s < 0.4
    assert manager.active() == {'others'}
