"""How a node's process ends: with the status and the line that its parent relies on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from dataclasses import dataclass
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from async_mbrl.core.config import param
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import run_node

@dataclass(frozen=True)
class Config:
    effort: float = param('greatest torque, N m', minimum=0.0)

class Tested(Node):
    def __init__(self):
        super().__init__('tested')
        self.config = config_from_parameters(self, Config)

    def destroy_node(self):
        print('destroyed', flush=True)
        super().destroy_node()

def spin(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    print('spinning', flush=True)
    {spin}

sys.exit(run_node(Tested, spin))
"""


def start(spin: str, *parameters: str) -> subprocess.Popen[str]:
    arguments = [word for parameter in parameters for word in ('-p', parameter)]
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM.replace('{spin}', spin), '--ros-args', *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_node_that_is_done_ends_with_0() -> None:
    process = start('pass', 'effort:=1.0')
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split(), errors) == (0, ['spinning', 'destroyed'], '')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_asked_to_stop_cleans_up_and_ends_with_0(number: signal.Signals) -> None:
    process = start('while True: executor.spin_once(timeout_sec=0.05)', 'effort:=1.0')
    assert process.stdout is not None
    assert process.stdout.readline() == 'spinning\n'
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, 'destroyed\n', '')


@pytest.mark.parametrize(('parameters', 'says'), [
    ((), 'error: effort: missing'),
    (('effort:=-1.0',), 'error: effort: -1.0 is below the minimum 0.0'),
    (('effort:=much',), 'error: effort: expected float'),
    (('effort:=1.0', 'efort:=2.0'), 'error: efort: unknown parameter of node tested'),
])
def test_a_configuration_that_does_not_fit_is_one_line_and_ends_with_2(
        parameters: tuple[str, ...], says: str) -> None:
    process = start('pass', *parameters)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, '')
    assert errors.startswith(says)
    assert errors.count('\n') == 1


def test_an_error_shows_where_it_happened_and_ends_with_1() -> None:
    process = start('raise RuntimeError("the motor is gone")', 'effort:=1.0')
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.split()) == (1, ['spinning', 'destroyed'])
    assert 'Traceback' in errors
    assert errors.endswith('RuntimeError: the motor is gone\n')
