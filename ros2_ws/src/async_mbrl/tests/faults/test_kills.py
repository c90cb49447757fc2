"""Nodes are killed while the arm moves: learners come back, all else ends the run as promised."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from graph_rig import Graph, graphs, listening
from sensor_msgs.msg import JointState


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    with graphs(tmp_path) as start_graph:
        yield start_graph


def test_killed_learners_come_back_and_nothing_is_lost(start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '6', '--set', 'collection.live_evaluation_episodes=1')
    graph.wait_for(lambda: graph.transitions() >= 15)
    for name in ('policy_learner', 'model_learner'):
        os.kill(graph.pid(name), signal.SIGKILL)
    assert graph.wait(120.0) == 0, graph.said
    summary = graph.summary
    assert summary['transitions']['collected'] == 60 and summary['transitions']['lost'] == 0
    assert min(summary['transitions']['recovered'].values()) > 0
    assert summary['respawns'] == {'model_learner': 1, 'policy_learner': 1}
    assert 'model_learner was ended by SIGKILL; starting it again' in graph.said


def test_the_death_of_the_controller_ends_the_run_and_the_arm_is_held(
        start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '30')
    with listening('ground_truth/joint_states', JointState) as messages:
        graph.wait_for(lambda: graph.transitions() >= 10)
        os.kill(graph.pid('controller'), signal.SIGKILL)
        assert graph.wait(20.0) == 1, graph.said
    assert 'error: run ended: controller was ended by SIGKILL' in graph.said
    assert graph.alive() == []
    assert graph.summary['outcome']['reason'] == 'controller was ended by SIGKILL'
    assert 'safe command' in (graph.folder.root / 'log/guard.log').read_text()
    assert max(abs(speed) for speed in messages[-1].velocity) < 0.05
    assert 'controller was ended by SIGKILL' in graph.summary['safety']['faults']


def test_after_the_death_of_robot_interface_the_files_tell_and_the_run_can_be_resumed(
        start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '3', '--set', 'collection.live_evaluation_episodes=0')
    with listening('ground_truth/joint_states', JointState) as messages:
        graph.wait_for(lambda: graph.transitions() >= 10)
        os.kill(graph.pid('robot_interface'), signal.SIGKILL)
        assert graph.wait(20.0) == 1, graph.said
    reason = 'robot_interface was ended by SIGKILL'
    assert f'error: run ended: {reason}; its files are complete' in graph.said
    assert graph.alive() == []
    assert max(abs(speed) for speed in messages[-1].velocity) < 0.05
    summary = graph.summary
    assert (summary['phase'], summary['reason']) == ('failed', reason)
    assert summary['outcome'] == {'status': 1, 'reason': reason}
    collected = summary['transitions']['collected']
    assert 10 <= collected < 30 and summary['transitions']['lost'] == 0
    assert 0.0 < summary['wall_time_s'] < 30.0
    assert (graph.folder.recording / 'metadata.yaml').exists()

    resumed = start()
    assert resumed.wait(100.0) == 0, resumed.said
    summary = resumed.summary
    assert summary['phase'] == 'done'
    assert summary['transitions']['collected'] == 30 and summary['transitions']['lost'] == 0
    log = (graph.folder.root / 'log/robot_interface.log').read_text()
    assert f'resuming: {collected} transitions' in log
