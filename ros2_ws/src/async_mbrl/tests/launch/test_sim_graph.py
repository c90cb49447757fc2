"""The whole graph, started by the command: it learns, and ends as promised."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from graph_rig import Graph, graphs

from async_mbrl.bringup.folder import read_run
from async_mbrl.reporting.figures import read_metrics, series
from async_mbrl.reporting.outcome import evaluate_offline


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    with graphs(tmp_path) as start_graph:
        yield start_graph


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


def test_an_interrupted_run_ends_in_time_and_whole(start: Callable[..., Graph]) -> None:
    graph = start('--motion-time', '30')
    graph.wait_for(lambda: graph.transitions() >= 10)
    begun = time.monotonic()
    graph.process.send_signal(signal.SIGINT)
    assert graph.wait(20.0) == 130, graph.said
    # Everything has ended, or is killed, within 5 s; a machine that is busy besides may add to it.
    assert time.monotonic() - begun < 8.0
    assert graph.alive() == [] and 'interrupted' in graph.said
    summary = graph.summary
    assert summary['transitions']['collected'] >= 10
    assert summary['outcome'] == {'status': 130, 'reason': 'interrupted'}
    assert (graph.folder.recording / 'metadata.yaml').exists()
    assert (graph.folder.learner('model_learner') / 'checkpoint.json').exists()
