"""A whole run in which a scripted joystick takes over now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from graph_rig import Graph, graphs
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Joy

from async_mbrl import cli
from async_mbrl.datasets.columns import Source, joined
from async_mbrl.datasets.store import read_columns
from async_mbrl.reporting.figures import read_metrics

PERIOD_S = 0.05


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Graph]]:
    with graphs(tmp_path) as begin:
        yield begin


class Joystick:
    """Somebody who holds the deadman button for one second of three, and pushes one stick."""

    def __enter__(self) -> Joystick:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('joy_node', context=self._context)
        self._publisher = self._node.create_publisher(Joy, 'joy', 10)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._thread.start()
        return self

    def _push(self) -> None:
        tick = 0
        while not self._end.wait(PERIOD_S):
            held = int(tick * PERIOD_S % 3.0 > 2.0)
            self._publisher.publish(Joy(axes=[0.0, 0.0, 0.5], buttons=[held]))
            tick += 1

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()


def test_steps_taken_over_become_demonstrations(start: Callable[..., Graph],
                                                tmp_path: Path) -> None:
    with Joystick():
        graph = start('--motion-time', '9', '--takeover', 'joy',
                      '--set', 'takeover.deadman_button=0', '--set', 'takeover.axes=[0, 1, 2]',
                      '--set', 'collection.live_evaluation_episodes=1')
        status = graph.wait(150.0)
    assert status == 0, graph.said
    told = graph.summary['takeover']
    collected = graph.summary['transitions']['collected']
    assert 0 < told['steps'] < collected == 90
    assert told['rate'] == pytest.approx(told['steps'] / collected)
    assert len(told['curve']) >= 3 and max(rate for _, rate in told['curve']) > 0.0
    assert graph.summary['safety']['limit_violations_sent'] == 0
    assert read_metrics(graph.folder)[-1]['takeover']['steps'] == told['steps']
    folder = tmp_path / 'data'
    assert cli.main(['dataset', 'import', str(graph.folder.root), '--output', str(folder)]) == 0
    columns = joined(list(read_columns(folder)))
    assert int((columns.source == Source.HUMAN).sum()) == told['steps']
