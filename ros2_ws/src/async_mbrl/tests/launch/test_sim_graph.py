"""The whole graph, started by the command: it learns, ends as promised, and survives deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from async_mbrl.bringup.folder import read_run
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting.figures import read_metrics, series
from async_mbrl.reporting.outcome import evaluate_offline


class Graph:
    """A run started by ``async-mbrl up sim``, in a folder of its own."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.folder = RunFolder(root / 'run')
        self.output = root / 'output.txt'
        command = [sys.executable, '-m', 'async_mbrl.cli', 'up', 'sim', '--no-video',
                   '--episodes', '20', '--run-dir', str(self.folder.root),
                   '--set', 'task.reset_s=2.0', '--set', 'task.success_rate=0.0', *arguments]
        with open(self.output, 'wb') as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True, cwd=root)

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.folder.summary.read_text())

    def pid(self, node: str) -> int:
        return json.loads((self.folder.root / 'processes.json').read_text())[node]

    def transitions(self) -> int:
        metrics = read_metrics(self.folder)
        return metrics[-1]['transitions'] if metrics else 0

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f'still running after {timeout_s} s:\n{self.said}')

    def alive(self) -> list[str]:
        pids = json.loads((self.folder.root / 'processes.json').read_text())
        return [name for name, pid in pids.items() if Path(f'/proc/{pid}').exists()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(6.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    graphs: list[Graph] = []

    def start_graph(*arguments: str) -> Graph:
        graphs.append(Graph(tmp_path, *arguments))
        return graphs[-1]

    yield start_graph
    for graph in graphs:
        graph.close()


def test_the_arm_learns_while_it_moves(start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '18', '--set', 'collection.live_evaluation_episodes=2')
    assert graph.wait(150.0) == 0, graph.said
    summary = graph.summary
    assert summary['transitions']['collected'] == 180
    assert summary['transitions']['model_learner'] == 180
    assert summary['transitions']['policy_learner'] == 180
    assert summary['transitions']['lost'] == 0
    assert summary['safety']['limit_violations_sent'] == 0
    assert min(summary['updates_during_motion'].values()) > 10
    assert summary['evaluation']['live']['episodes'] == 2
    assert summary['respawns'] == {'model_learner': 0, 'policy_learner': 0}
    assert graph.alive() == []
    for path in (graph.folder.config, graph.folder.policy, graph.folder.first_policy,
                 graph.folder.root / 'report.html', graph.folder.recording / 'metadata.yaml'):
        assert path.stat().st_size > 0, path

    metrics = read_metrics(graph.folder)
    _, loss = series(metrics, 'model_learner.training_loss')
    assert loss[-1] < 0.05   # of a model that predicts nothing it is about 1
    assert len(series(metrics, 'model_learner.validation_loss')[0])

    # What it learned, against the policy that it began with, on the same goals.
    learned = summary['evaluation']['offline']['final_distance_m']['median']
    graph.folder.policy.write_bytes(graph.folder.first_policy.read_bytes())
    first = evaluate_offline(graph.folder, read_run(graph.folder.root), 20)
    began = first['evaluation']['offline']['final_distance_m']['median']
    assert learned < 0.05 and learned < 0.25 * began


def test_killed_learners_come_back_and_nothing_is_lost(start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '6', '--set', 'collection.live_evaluation_episodes=1')
    graph.wait_for(lambda: graph.transitions() >= 15)
    for name in ('policy_learner', 'model_learner'):
        os.kill(graph.pid(name), signal.SIGKILL)
    assert graph.wait(120.0) == 0, graph.said
    summary = graph.summary
    assert summary['transitions']['collected'] == 60 and summary['transitions']['lost'] == 0
    assert min(summary['transitions']['recovered'].values()) >= 15
    assert summary['respawns'] == {'model_learner': 1, 'policy_learner': 1}
    assert 'model_learner was ended by SIGKILL; starting it again' in graph.said


def test_an_interrupted_run_ends_in_time_and_whole(start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '30')
    graph.wait_for(lambda: graph.transitions() >= 10)
    begun = time.monotonic()
    graph.process.send_signal(signal.SIGINT)
    assert graph.wait(10.0) == 130, graph.said
    assert time.monotonic() - begun < 5.0
    assert graph.alive() == [] and 'interrupted' in graph.said
    summary = graph.summary
    assert summary['transitions']['collected'] >= 10
    assert summary['outcome'] == {'status': 130, 'reason': 'interrupted'}
    assert (graph.folder.recording / 'metadata.yaml').exists()
    assert (graph.folder.learner('model_learner') / 'checkpoint.json').exists()


def test_the_death_of_the_controller_ends_the_run_and_the_arm_is_held(
        start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '30')
    with listening('ground_truth/joint_states', JointState) as messages:
        graph.wait_for(lambda: graph.transitions() >= 10)
        os.kill(graph.pid('controller'), signal.SIGKILL)
        assert graph.wait(10.0) == 1, graph.said
    assert 'error: run ended: controller was ended by SIGKILL' in graph.said
    assert graph.alive() == []
    assert graph.summary['outcome']['reason'] == 'controller was ended by SIGKILL'
    assert 'safe command' in (graph.folder.root / 'log/guard.log').read_text()
    assert max(abs(speed) for speed in messages[-1].velocity) < 0.05


class listening:  # noqa: N801  reads as a statement
    """Collect the messages of a topic in a thread."""

    def __init__(self, topic: str, kind: type) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('listener', context=self._context)
        self._messages: list[Any] = []
        self._node.create_subscription(kind, topic, self._messages.append,
                                       qos_profile_sensor_data)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> list[Any]:
        self._thread.start()
        return self._messages

    def __exit__(self, *_error: object) -> None:
        self._context.try_shutdown()
        self._thread.join(2.0)
        self._node.destroy_node()
