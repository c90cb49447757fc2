"""Managed nodes: what hooks raise is said, stops what moves and ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import rclpy
from async_mbrl_interfaces import msg
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from async_mbrl.core.config import ConfigError
from async_mbrl.ros import qos
from async_mbrl.ros.events import DEADLINE, GONE, INCOMPATIBLE
from async_mbrl.ros.lifecycle import ERROR, FAILURE, SUCCESS, ManagedNode

pytestmark = pytest.mark.usefixtures('ros')

PROGRAM = """
import sys
from dataclasses import dataclass
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String
from async_mbrl.core.config import ConfigError, param
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.lifecycle import ManagedNode, run_managed

@dataclass(frozen=True)
class Config:
    where: str = param('what goes wrong', '')
    effort: float = param('greatest torque, N m', 1.0, minimum=0.0)

class Tested(ManagedNode):
    def __init__(self):
        super().__init__('tested')
        self.where = config_from_parameters(self, Config).where

    def said(self, what):
        print(what, flush=True)
        if self.where == what:
            raise RuntimeError(f'no {what}')
        if self.where == f'config {what}':
            raise ConfigError(f'{what}: 3 is too much; give 2')

    def configure(self):
        self.said('configure')
        self.create_subscription(String, 'words', lambda _message: self.said('callback'), 10)
        words = self.create_publisher(String, 'words', 10)
        self.create_timer(0.02, lambda: self.where == 'callback' and words.publish(String()))
        self.create_timer(0.05, lambda: self.where == 'timer' and self.said('timer'))

    def activate(self):
        self.said('activate')

    def deactivate(self):
        self.said('deactivate')

    def cleanup(self):
        self.said('cleanup')

    def on_failure(self):
        self.said('stopped')

def spin(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    print('spinning', flush=True)
    while not node.finalized:
        executor.spin_once(timeout_sec=0.05)

sys.exit(run_managed(Tested, spin))
"""


def start(*parameters: str) -> subprocess.Popen[str]:
    arguments = [word for parameter in parameters for word in ('-p', parameter)]
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM, '--ros-args', *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)


def test_a_managed_node_starts_by_itself_and_ends_in_order() -> None:
    process = start()
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ['configure\n', 'activate\n',
                                                             'spinning\n']
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split(), errors) == (0, ['deactivate', 'cleanup'], '')


def test_a_managed_node_waits_where_it_shall_not_start_by_itself() -> None:
    process = start('autostart:=false')
    assert process.stdout is not None
    assert process.stdout.readline() == 'spinning\n'
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, '', '')


@pytest.mark.parametrize(('where', 'said'), [
    ('configure', ['configure', 'stopped']),
    ('activate', ['configure', 'activate', 'stopped']),
    ('callback', ['configure', 'activate', 'spinning', 'callback', 'stopped']),
    ('timer', ['configure', 'activate', 'spinning', 'timer', 'stopped']),
])
def test_whatever_raises_stops_what_moves_and_ends_with_1(where: str, said: list[str]) -> None:
    process = start(f'where:={where}')
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split()) == (1, said)
    assert errors.count('Traceback') == 1
    assert f'RuntimeError: no {where}' in errors


def test_a_failure_on_the_way_out_ends_with_1() -> None:
    process = start('where:=deactivate')
    assert process.stdout is not None
    while process.stdout.readline() != 'spinning\n':
        pass
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split()) == (1, ['deactivate', 'stopped'])
    assert 'RuntimeError: no deactivate' in errors


def test_a_configuration_that_does_not_fit_ends_with_2() -> None:
    process = start('where:="config activate"')
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split()) == (2, ['configure', 'activate', 'cleanup'])
    assert errors.splitlines()[-1] == 'error: activate: 3 is too much; give 2'
    assert 'Traceback' not in errors


@pytest.mark.parametrize(('parameter', 'says'), [
    ('effort:=-1.0', 'error: effort: -1.0 is below the minimum 0.0'),
    ('effort:=much', 'error: effort: expected float'),
    ('efort:=2.0', 'error: efort: unknown parameter of node tested'),
])
def test_a_parameter_that_does_not_fit_is_one_line_and_ends_with_2(
        parameter: str, says: str) -> None:
    process = start(parameter)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, '')
    assert errors.startswith(says)
    assert errors.count('\n') == 1


class Probe(ManagedNode):
    """A node whose hooks do what a test says."""

    def __init__(self, name: str = 'probe') -> None:
        super().__init__(name)
        self.said: list[str] = []
        self.wrong: dict[str, Exception] = {}

    def _hook(self, name: str) -> None:
        self.said.append(name)
        if name in self.wrong:
            raise self.wrong[name]

    def configure(self) -> None:
        self.create_publisher(String, 'words', 10)
        self.create_timer(1.0, lambda: None)
        self._hook('configure')

    def activate(self) -> None:
        self._hook('activate')

    def deactivate(self) -> None:
        self._hook('deactivate')

    def cleanup(self) -> None:
        self._hook('cleanup')

    def on_failure(self) -> None:
        self._hook('stopped')


@pytest.fixture
def probe() -> Iterator[Probe]:
    node = Probe()
    yield node
    node.destroy_node()


def test_refusals_leave_the_node_where_it_was(probe: Probe) -> None:
    probe.wrong = {'configure': ConfigError('configure'), 'activate': ConfigError('activate')}
    assert probe.trigger_configure() is FAILURE
    assert probe.label == 'unconfigured'
    del probe.wrong['configure']
    assert probe.trigger_configure() is SUCCESS
    assert probe.trigger_activate() is FAILURE
    assert probe.label == 'inactive'
    assert probe.trigger_cleanup() is SUCCESS
    assert probe.trigger_configure() is SUCCESS
    probe.wrong = {'deactivate': ConfigError('not now')}
    assert probe.trigger_activate() is SUCCESS
    assert probe.trigger_deactivate() is FAILURE
    assert probe.label == 'active'
    assert probe.trigger_shutdown() is SUCCESS, 'the end cannot be refused'
    assert probe.said[-2:] == ['deactivate', 'cleanup']
    assert probe.failure is None


def test_a_node_that_is_cleaned_up_leaves_nothing_behind(probe: Probe) -> None:
    def entities() -> list[int]:
        return [len(list(found)) for found in (probe.publishers, probe.timers, probe.services,
                                               probe.waitables)]

    before = entities()
    for _ in range(2):
        assert probe.trigger_configure() is SUCCESS
        assert entities() > before
        assert probe.trigger_cleanup() is SUCCESS
        assert entities() == before
    assert probe.trigger_configure() is SUCCESS
    probe.wrong = {'cleanup': ConfigError('what was given up is gone all the same')}
    assert probe.trigger_cleanup() is FAILURE
    assert entities() == before


@pytest.mark.parametrize('hook', ['deactivate', 'cleanup'])
def test_an_error_in_a_hook_ends_in_finalized(probe: Probe, hook: str) -> None:
    probe.start()
    probe.wrong = {hook: RuntimeError('broken'), 'stopped': RuntimeError('broken, too')}
    last = probe.trigger_deactivate()
    if hook == 'cleanup':
        assert last is SUCCESS
        last = probe.trigger_cleanup()
    assert last is ERROR
    assert probe.finalized
    assert probe.said[-2:] == [hook, 'stopped']
    assert isinstance(probe.failure, RuntimeError)


def test_services_lead_through_the_states_from_outside() -> None:
    node, other = Probe('managed'), rclpy.create_node('operator')
    executor, asking = SingleThreadedExecutor(), SingleThreadedExecutor()
    executor.add_node(node)
    asking.add_node(other)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.01)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        change = other.create_client(ChangeState, 'managed/change_state')
        get = other.create_client(GetState, 'managed/get_state')
        assert change.wait_for_service(10.0)
        assert get.wait_for_service(10.0)

        def ask(client, request):
            future = client.call_async(request)
            asking.spin_until_future_complete(future, 10.0)
            return future.result()

        def go(transition: int, expected: str, success: bool = True) -> None:
            request = ChangeState.Request()
            request.transition.id = transition
            assert ask(change, request).success is success
            assert ask(get, GetState.Request()).current_state.label == expected

        assert ask(get, GetState.Request()).current_state.label == 'unconfigured'
        go(Transition.TRANSITION_CONFIGURE, 'inactive')
        go(Transition.TRANSITION_ACTIVATE, 'active')
        go(Transition.TRANSITION_DEACTIVATE, 'inactive')
        node.wrong['activate'] = RuntimeError('broken')
        go(Transition.TRANSITION_ACTIVATE, 'finalized', success=False)
        assert node.said == ['configure', 'activate', 'deactivate', 'activate', 'stopped']
    finally:
        ended.set()
        serving.join()
        other.destroy_node()
        node.destroy_node()


def test_events_of_all_topics_are_counted(probe: Probe) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL,
                         reliability=ReliabilityPolicy.RELIABLE)
    probe.create_subscription(String, 'wanted_latched', lambda _: None, latched)
    probe.create_subscription(String, 'plain', lambda _: None, 10)
    other = rclpy.create_node('other')
    other.create_publisher(String, 'wanted_latched', 10)
    plain = other.create_publisher(String, 'plain', 10)
    probe.create_subscription(msg.SafetyStatus, 'beats', lambda _: None, qos.HEARTBEAT)
    beats = other.create_publisher(msg.SafetyStatus, 'beats', qos.HEARTBEAT)
    executor = SingleThreadedExecutor()
    executor.add_node(probe)

    def until(kind: str, topic: str, step_s: float = 0.01) -> None:
        for _ in range(500):
            if probe.events.counts[kind, topic]:
                return
            beats.publish(msg.SafetyStatus())
            executor.spin_once(timeout_sec=step_s)      # wakes for the message,
            executor.spin_once(timeout_sec=step_s)      # and for that there was no other
        pytest.fail(f'{kind} of {topic}: {probe.events.counts}')

    until(INCOMPATIBLE, '/wanted_latched')
    part = probe.events.part()
    assert part.errors == ('incompatible QoS on /wanted_latched',)
    assert part.to_message('probe', '').level == b'\x02'
    other.destroy_publisher(plain)
    until(GONE, '/plain')
    until(DEADLINE, '/beats', 0.15)
    part = probe.events.part()
    assert 'deadline missed on /beats' in part.warnings
    assert part.values['/plain: publisher gone'] == 1
    other.destroy_node()
