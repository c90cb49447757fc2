"""A benchmark body through the whole graph: what it does there is what the simulator says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import bodies
import numpy as np
import pytest
from async_mbrl_interfaces.msg import Transition
from graph_rig import Graph, graphs
from rclpy.serialization import deserialize_message

from async_mbrl.collection.journal import RecordKind, read_records


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    with graphs(tmp_path) as start_graph:
        yield start_graph


@pytest.mark.timeout(300)
def test_a_body_learns_through_the_graph(start: Callable[..., Graph]) -> None:
    graph = start('--robot', 'half_cheetah', '--motion-time', '9', '--set',
                  'task.episode_steps=60', '--set', 'collection.live_evaluation_episodes=1',
                  '--set', 'model.hidden=[64, 64]', '--set', 'model.minimum_transitions=60',
                  '--set', 'improvement.minimum_transitions=60', '--set', 'improvement.rollouts=10',
                  '--set', 'improvement.horizon=20')
    assert graph.wait(240.0) == 0, graph.said
    summary = graph.summary
    assert (summary['task'], summary['robot']) == ('half_cheetah', 'half_cheetah')
    assert summary['transitions']['collected'] == 180
    assert summary['transitions']['model_learner'] == 180
    assert summary['transitions']['policy_learner'] == 180
    assert summary['transitions']['lost'] == 0
    assert summary['model']['updates'] > 0 and summary['policy']['updates'] > 0
    assert summary['safety']['limit_violations_sent'] == 0
    assert summary['resets'] == 2 and summary['robot_time_s'] == pytest.approx(13.0)
    live, offline = summary['evaluation']['live'], summary['evaluation']['offline']
    assert (live['episodes'], offline['episodes']) == (1, 20)
    assert live['success_rate'] is None and offline['success_rate'] is None
    assert np.isfinite(offline['return']['mean']) and offline['aborted'] == 0
    assert len(summary['learning_curve']) == 3
    assert all(row[2] is None and np.isfinite(row[1]) for row in summary['learning_curve'])
    for path in (graph.folder.root / 'report.html', graph.folder.recording / 'metadata.yaml'):
        assert path.stat().st_size > 0, path

    # Every command reached the body before the step after the state that it answers.
    task, physics = bodies.task('half_cheetah'), bodies.physics('half_cheetah')
    errors = []
    for record in read_records(graph.folder.journal):
        if record.kind != RecordKind.TRANSITION:
            continue
        message = deserialize_message(record.payload, Transition)
        observation = np.array(message.observation, float)
        physics.reset(np.concatenate([[0.0], observation]))     # the place is not observed
        for _ in range(5):
            physics.step(np.array(message.action_applied) * physics.robot.action_scale)
        expected = task.observe(physics.position, physics.velocity, np.zeros(6), np.zeros(0))
        errors.append(np.abs(expected - message.next_observation).max())
    assert len(errors) == 180
    assert np.median(errors) < 1e-3     # where the machine is late, one is late by a step
