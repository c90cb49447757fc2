"""The whole graph with a sequential schedule: the arm is held while one process learns both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from graph_rig import Graph, graphs

from async_mbrl.reporting.figures import read_metrics

SYNC = ('--schedule', 'sync', '--motion-time', '12', '--set', 'schedule.rollouts=2', '--set',
        'schedule.model_epochs=400', '--set', 'schedule.policy_steps=10', '--set',
        'collection.live_evaluation_episodes=1')


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    with graphs(tmp_path) as start_graph:
        yield start_graph


def test_the_arm_is_held_while_the_learners_compute(start: Callable[..., Graph]) -> None:
    graph = start(*SYNC)
    assert graph.wait(200.0) == 0, graph.said
    summary = graph.summary
    assert summary['schedule'] == 'sync' and summary['schedule_settings']['rollouts'] == 2
    assert summary['transitions']['collected'] == 120
    assert summary['transitions']['policy_learner'] == 120
    assert summary['transitions']['lost'] == 0
    assert summary['safety']['faults'] == []
    assert summary['safety']['limit_violations_sent'] == 0
    # Both turns are whole, and nothing was learned while the arm moved.
    assert summary['policy']['updates'] == 20
    assert summary['model']['epochs'] >= 800
    assert summary['updates_during_motion']['policy_learner'] == 0
    assert summary['updates_per_transition']['policy'] == pytest.approx(20 / 120)
    # The time in which the arm was held counts as run time, not as data time.
    assert summary['wall_time_s'] > summary['robot_time_s']
    assert not (graph.folder.root / 'log' / 'model_learner.log').exists()
    assert summary['respawns'] == {'policy_learner': 0}
    # What is shown is a sample; the log has each turn.
    log = (graph.folder.root / 'log' / 'robot_interface.log').read_text()
    assert all(f'holding the arm while the learners compute: turn {turn}' in log for turn in (1, 2))
    held = [record for record in read_metrics(graph.folder) if record['transitions'] == 60]
    assert held[-1]['policy_learner']['model.updates'] > held[0]['policy_learner'].get(
        'model.updates', 0.0)
