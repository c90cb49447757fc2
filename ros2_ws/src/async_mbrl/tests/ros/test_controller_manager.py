"""The arm is taken from other controllers of ros2_control, and given back as it was found."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from control_rig import make_robot
from controller_manager_rig import FakeControllerManager
from rclpy.executors import SingleThreadedExecutor

from async_mbrl.core.config import ConfigError
from async_mbrl.ros import controller_manager
from async_mbrl.ros.controller_manager import Call, ControllerManager, HandOver, Release
from async_mbrl.ros.run import StopRequested

pytestmark = pytest.mark.usefixtures('ros')

ROBOT = make_robot(controller_manager='/manager', controllers=['ours'],
                   other_controllers=['trajectory', 'gripper_too'])


@pytest.fixture
def manager() -> Iterator[FakeControllerManager]:
    node, ended = rclpy.create_node('manager'), threading.Event()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    fake = FakeControllerManager(node, '/manager', {
        'ours': 'inactive', 'trajectory': 'active', 'gripper_too': 'inactive',
        'joint_state_broadcaster': 'active'})

    def serve() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    yield fake
    ended.set()
    thread.join()
    node.destroy_node()


@pytest.fixture
def node() -> Iterator[object]:
    node = rclpy.create_node('tested')
    yield node
    node.destroy_node()


def test_controllers_are_taken_and_given_back_as_they_were(manager, node):
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    assert manager.switches == [(['ours'], ['trajectory'])], 'all in one'
    assert manager.active() == {'ours', 'joint_state_broadcaster'}
    hand_over.take()
    assert len(manager.switches) == 1, 'it is as it should be'
    manager.states['ours'] = 'inactive'      # by guard
    hand_over.take()
    assert hand_over.give_back(1.0)
    assert not hand_over.give_back(1.0)
    assert manager.switches[1:] == [(['ours'], []), (['trajectory'], ['ours'])]
    assert manager.active() == {'trajectory', 'joint_state_broadcaster'}


def test_controllers_that_were_active_before_stay_so(manager, node):
    manager.states.update(ours='active', trajectory='inactive')
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    assert not hand_over.give_back(1.0)
    assert not manager.switches
    assert manager.active() == {'ours', 'joint_state_broadcaster'}


def test_controllers_that_guard_has_deactivated_already_are_given_back_all_the_same(manager, node):
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    manager.states['ours'] = 'inactive'
    assert hand_over.give_back(1.0), 'the arm is not ours any more'
    assert manager.active() == {'trajectory', 'joint_state_broadcaster'}


def test_what_could_not_be_given_back_is_known_on(manager, node):
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    manager.broken = True
    assert not hand_over.give_back(1.0)
    manager.broken = False
    assert hand_over.give_back(1.0)
    assert manager.active() == {'trajectory', 'joint_state_broadcaster'}


def test_a_manager_that_hangs_delays_giving_back_no_longer_than_allowed(manager, node, monkeypatch):
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    monkeypatch.setattr(Call, 'answer', lambda _call: None)
    began_s = time.monotonic()
    assert not hand_over.give_back(0.2)
    assert time.monotonic() - began_s < 0.4
    monkeypatch.setattr(ControllerManager, 'ready', False)
    began_s = time.monotonic()
    assert not hand_over.give_back(5.0)
    assert time.monotonic() - began_s < 0.1


def test_what_was_asked_for_when_a_signal_came_is_given_back(manager, node, monkeypatch):
    switch = ControllerManager.switch

    def interrupted(*args) -> None:
        switch(*args)
        raise StopRequested

    hand_over = HandOver(node, ROBOT)
    monkeypatch.setattr(ControllerManager, 'switch', interrupted)
    with pytest.raises(StopRequested):
        hand_over.take()
    assert 'ours' in manager.active()
    monkeypatch.setattr(ControllerManager, 'switch', switch)
    assert hand_over.give_back(1.0)
    assert manager.active() == {'trajectory', 'joint_state_broadcaster'}


def test_only_what_was_taken_last_is_undone(manager, node):
    hand_over = HandOver(node, ROBOT)
    hand_over.take()
    manager.states['ours'] = 'inactive'      # by guard
    let_go: list[set[str]] = []
    hand_over.take(lambda: let_go.append(manager.active()))
    assert let_go == [{'joint_state_broadcaster'}], 'before ours are active'
    hand_over.undo(1.0)
    assert manager.active() == {'joint_state_broadcaster'}
    manager.states['ours'] = 'active'
    hand_over.take(lambda: let_go.append(manager.active()))
    hand_over.undo(1.0)
    assert manager.active() == {'ours', 'joint_state_broadcaster'}, 'there was nothing to take'
    assert len(let_go) == 1


@pytest.mark.parametrize(('spoil', 'words'), [
    (lambda manager: manager.states.pop('ours'), ('ours is not loaded', 'spawner --inactive ours')),
    (lambda manager: manager.states.update(ours='unconfigured'), ('ours is unconfigured',)),
    (lambda manager: setattr(manager, 'broken', True), ('refused', 'list_controllers')),
])
def test_what_cannot_be_taken_is_refused_with_a_remedy(manager, node, spoil, words):
    spoil(manager)
    with pytest.raises(ConfigError) as refusal:
        HandOver(node, ROBOT).take()
    for word in words:
        assert word in str(refusal.value)


def test_a_manager_that_is_not_there_is_named(node, monkeypatch):
    monkeypatch.setattr(controller_manager, 'APPEAR_S', 0.1)
    with pytest.raises(ConfigError, match='/manager has not appeared within 0.1 s; start the'):
        HandOver(node, ROBOT).take()


def test_without_a_manager_there_is_nothing_to_do(node):
    hand_over = HandOver(node, make_robot())
    hand_over.take()
    assert not hand_over.give_back(1.0)
    release = Release(node, make_robot())
    release.ask(0.0)
    release.poll(1.0)


def test_guard_lets_go_without_waiting_and_insists(manager, node, monkeypatch):
    for name in ('RETRY_S', 'LOOK_PERIOD_S', 'GRACE_S'):
        monkeypatch.setattr(Release, name, 0.02)
    HandOver(node, ROBOT).take()
    manager.broken = True
    release = Release(node, ROBOT)

    def until(condition, limit_s: float = 10.0) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s
            began_s = time.monotonic()
            release.poll(began_s)
            assert time.monotonic() - began_s < 0.1
            time.sleep(0.005)

    release.ask(time.monotonic() + 1000.0)
    release.poll(time.monotonic())
    release.ask(time.monotonic())
    until(lambda: len(manager.switches) > 3)
    assert 'ours' in manager.active()
    manager.broken = False
    until(lambda: 'ours' not in manager.active())
    # Somebody activates them again.
    manager.states['ours'] = 'active'
    until(lambda: 'ours' not in manager.active())
    count = len(manager.switches)
    began_s = time.monotonic()
    until(lambda: time.monotonic() > began_s + 0.1)
    assert len(manager.switches) == count, 'they are looked at, no more'
    release.cancel()
    manager.states['ours'] = 'active'
    began_s = time.monotonic()
    until(lambda: time.monotonic() > began_s + 0.1)
    assert 'ours' in manager.active()
