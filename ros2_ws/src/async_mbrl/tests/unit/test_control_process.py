"""The loop in its own process, driven through shared memory, without ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from control_rig import JOINTS, NETWORK, episode, make_reach, make_robot, make_snapshot

from async_mbrl.control.motion import Motion
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.control.process import LoopProcess
from async_mbrl.control.settings import LoopSettings
from async_mbrl.core.transition import StepKind

LIMIT_S = 10.0


def make_settings(robot) -> LoopSettings:
    return LoopSettings(robot, make_reach(robot).config, NETWORK, os.getpid(), 1.0, 50)


@pytest.fixture
def robot():
    return make_robot()


@pytest.fixture
def loop(robot):
    process = LoopProcess(make_settings(robot))
    process.enable(True)
    wait(lambda: process.count('ticks') > 0)
    yield process
    process.ask_to_stop()
    process.join(1.0)


def wait(condition, each=None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        if each is not None:
            each()
        time.sleep(0.001)


def start_episode(loop: LoopProcess, robot) -> callable:
    """Order an episode; gives what keeps the joint states fresh."""
    loop.put_policy(PolicyParameters.from_snapshot(make_snapshot(make_reach(robot), bias=0.1), 1))
    home, rest = np.array(robot.home), np.zeros(JOINTS)

    def feed() -> None:
        loop.put_state(time.monotonic(), home, rest)

    feed()
    wait(lambda: loop.count('policies_applied') == 1, feed)
    loop.put_order(episode(robot))
    return feed


def test_an_episode_runs_and_is_punctual(loop, robot):
    feed = start_episode(loop, robot)
    events = []

    def collect() -> None:
        feed()
        while (step := loop.next_step()) is not None:
            events.append(step)

    wait(lambda: events and events[-1].kind == StepKind.END, collect)
    assert [event.kind for event in events] == [StepKind.MOVE_DONE, *3 * [StepKind.STEP],
                                                StepKind.END]
    adoption = loop.next_adoption()
    assert adoption is not None
    assert adoption.publish_time_ns == 1
    assert adoption.first_tick_ns == pytest.approx(time.time_ns(), abs=10e9)
    command = loop.newest_command()
    assert command is not None
    assert np.isfinite(np.frombuffer(command[1])).all()
    punctuality = loop.punctuality()
    assert 0.0 < punctuality.p50_s < 0.002
    assert punctuality.max_s >= punctuality.p50_s
    assert loop.scheduler in ('SCHED_FIFO:50', 'SCHED_OTHER')
    assert loop.count('missed') < 0.5 * loop.count('ticks')


@pytest.mark.parametrize('how', ['asked', 'SIGTERM'])
def test_the_last_command_is_the_safe_one(loop, robot, how):
    feed = start_episode(loop, robot)
    wait(lambda: loop.state == 'running', feed)
    if how == 'asked':
        loop.ask_to_stop()
    else:
        os.kill(loop.pid, signal.SIGTERM)
    assert loop.join(2.0) == 0
    assert loop.count('ended') == 1
    command = loop.newest_command()
    assert command is not None
    assert not np.frombuffer(command[1]).any()


def test_asked_to_stop_a_moving_arm_is_braked_first(loop, robot):
    start_episode(loop, robot)
    home, speed = np.array(robot.home), np.zeros(JOINTS)

    def feed() -> None:
        loop.put_state(time.monotonic(), home, speed)

    wait(lambda: loop.state == 'running', feed)
    speed[0] = 1.0
    wait_s = time.monotonic() + 0.02
    wait(lambda: time.monotonic() > wait_s, feed)
    loop.ask_to_stop()
    wait(lambda: loop.state == 'holding', feed)
    command = None
    wait_s = time.monotonic() + 0.1
    while time.monotonic() < wait_s:
        feed()
        command = loop.newest_command() or command
        time.sleep(0.001)
    assert command is not None
    assert np.frombuffer(command[1])[0] < -1.0
    assert loop.count('ended') == 0
    speed[0] = 0.0
    wait(lambda: loop.count('ended') == 1, feed)
    assert loop.join(2.0) == 0
    last = loop.newest_command()
    assert last is not None
    assert not np.frombuffer(last[1]).any()
    reasons = []
    while (step := loop.next_step()) is not None:
        reasons.append(step.reason)
    assert 'asked to end' in reasons[-1]


def test_an_arm_that_does_not_come_to_rest_is_let_go_in_time(loop, robot):
    start_episode(loop, robot)
    home, speed = np.array(robot.home), np.ones(JOINTS)

    def feed() -> None:
        loop.put_state(time.monotonic(), home, speed)

    wait(lambda: loop.state == 'moving', feed)
    loop.ask_to_stop()
    asked_s = time.monotonic()
    wait(lambda: loop.count('ended') == 1, feed)
    assert 0.4 < time.monotonic() - asked_s < 1.0


def test_deadlines_left_out_count_as_late(loop, robot):
    feed = start_episode(loop, robot)
    wait(lambda: loop.state == 'moving', feed)
    before = loop.count('late_ticks')
    os.kill(loop.pid, signal.SIGSTOP)
    stopped_s = time.monotonic() + 0.1
    wait(lambda: time.monotonic() > stopped_s, feed)
    os.kill(loop.pid, signal.SIGCONT)
    wait(lambda: loop.count('missed') > 40, feed)
    wait(lambda: loop.count('late_ticks') - before > 40, feed)
    assert loop.punctuality().p99_s > 0.02


def test_a_cause_makes_a_fault_that_is_told_and_nothing_is_sent(loop):
    loop.set_cause('robot', True, 'joint names do not match')
    wait(lambda: loop.state == 'fault')
    assert loop.motion is Motion.FAULT
    wait(lambda: loop.fault == 'joint names do not match')
    assert loop.fault_causes == ('robot: joint names do not match',)
    time.sleep(0.02)
    assert loop.newest_command() is None
    assert loop.count('active') == 0


def test_a_fault_is_cleared_only_when_its_cause_is_gone(loop, robot):
    feed = start_episode(loop, robot)
    wait(lambda: loop.state == 'moving', feed)
    loop.set_cause('emergency_stop', True, 'button')
    loop.set_cause('guard', True, 'silence')
    wait(lambda: loop.state == 'estop' and len(loop.fault_causes) == 2, feed)
    assert loop.fault == 'button'
    assert 'emergency_stop: button; guard: silence' in loop.clear()
    loop.set_cause('emergency_stop', False)
    assert loop.clear() == 'still there: guard: silence'
    assert loop.motion is Motion.ESTOP
    loop.set_cause('guard', False)
    assert loop.clear() == ''
    wait(lambda: loop.state == 'holding', feed)
    assert (loop.fault, loop.fault_causes) == ('', ())
    step = loop.next_step()
    assert step is not None
    assert (step.kind, step.reason) == (StepKind.ABORTED, 'button')
    loop.put_order(episode(robot, 1))
    wait(lambda: loop.state == 'running', feed)


def test_a_loop_that_is_not_enabled_holds_and_refuses_orders(loop, robot):
    feed = start_episode(loop, robot)
    wait(lambda: loop.state == 'moving', feed)
    reasons = {}

    def aborted(number: int) -> str:
        def collect() -> None:
            feed()
            while (step := loop.next_step()) is not None:
                if step.kind == StepKind.ABORTED:
                    reasons[step.command_number] = step.reason

        wait(lambda: number in reasons, collect)
        return reasons[number]

    loop.enable(False)
    assert aborted(0) == 'not now: the controller was deactivated'
    assert loop.motion is Motion.HOLDING
    loop.put_order(episode(robot, 1))
    assert aborted(1).startswith('not now: the controller is not active')
    loop.enable(True)
    loop.put_order(episode(robot, 2, start_pose=np.zeros(0), steps=1000))
    wait(lambda: loop.state == 'running', feed)
    loop.hold_policy('too old')
    assert aborted(2) == 'not now: too old'
    loop.put_order(episode(robot, 3))
    assert aborted(3) == 'not now: too old'
    loop.hold_policy('')
    loop.put_order(episode(robot, 4))
    wait(lambda: loop.state == 'moving', feed)
    loop.halt('silence')
    assert aborted(4) == 'silence'
    assert loop.count('active') == 1
    loop.enable(False)
    loop.release()
    wait(lambda: loop.count('active') == 0, feed)
    assert loop.motion is Motion.IDLE


def test_the_loop_dies_with_its_parent(robot, tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(
        'import os, sys, time\n'
        'from async_mbrl.control.process import LoopProcess\n'
        'from async_mbrl.control.settings import LoopSettings\n'
        'import dataclasses\n'
        'settings = LoopSettings.from_json(sys.stdin.read())\n'
        'loop = LoopProcess(dataclasses.replace(settings, parent=os.getpid()))\n'
        'while loop.count("ticks") == 0: time.sleep(0.01)\n'
        'print(loop.pid, flush=True)\n'
        'time.sleep(60)\n')
    parent = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(make_settings(robot).to_json())
    parent.stdin.close()
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            with open(f'/proc/{child}/stat') as stat:
                return stat.read().split(') ')[1][0] == 'Z'
        except FileNotFoundError:
            return True

    wait(gone)


def test_two_threads_that_ask_for_the_fault_are_told_the_same(loop, monkeypatch):
    inside, most = 0, 0

    def slowly() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.005)
        inside -= 1

    monkeypatch.setattr(loop._block.fault, 'latest', slowly)
    threads = [threading.Thread(target=lambda: loop.fault_causes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_clearance_that_was_not_answered_is_not_obeyed_later(loop, robot):
    feed = start_episode(loop, robot)
    wait(lambda: loop.state == 'moving', feed)
    loop.set_cause('emergency_stop', True, 'button')
    wait(lambda: loop.state == 'estop', feed)
    loop.set_cause('emergency_stop', False)
    wait(lambda: not loop.fault_causes, feed)
    os.kill(loop.pid, signal.SIGSTOP)
    try:
        assert 'did not answer' in loop.clear()
    finally:
        os.kill(loop.pid, signal.SIGCONT)
    ticks = loop.count('ticks')
    wait(lambda: loop.count('ticks') > ticks + 20, feed)
    assert loop.motion is Motion.ESTOP
    assert loop.clear() == ''


def test_a_command_says_of_which_tick_it_is(loop, robot):
    feed = start_episode(loop, robot)
    wait(lambda: loop.count('active'), feed)
    asked_s = time.monotonic()
    loop.restart()
    wait(lambda: (command := loop.newest_command()) is not None and command[0] > asked_s, feed)
    loop.ask_to_stop()
    assert loop.join(2.0) == 0
    loop.close()
    with pytest.raises(OSError, match='Bad file descriptor'):
        os.fstat(loop.wake)
