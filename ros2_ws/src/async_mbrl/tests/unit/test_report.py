"""Report, figures and scalars of a run, from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting import outcome
from async_mbrl.reporting.animation import encode, side_by_side
from async_mbrl.reporting.figures import read_metrics, save_overview, series
from async_mbrl.reporting.report import page, write_report
from async_mbrl.reporting.tensorboard import ScalarWriter, rewrite_scalars, scalars

SUMMARY: dict[str, Any] = {
    'task': 'reach', 'motion_time_s': 60.0, 'robot_time_s': 136.0, 'wall_time_s': 137.0,
    'data_time_ratio': 1.007, 'transitions': {'collected': 600, 'lost': 0},
    'control': {'rate_hz': 500.0, 'jitter_ms': {'p50': 0.01, 'p99': 0.05, 'p999': 0.2, 'max': 1.0},
                'scheduler': 'SCHED_FIFO:50'},
    'latency_ms': {'transition_to_learner': {'p50': 1.0, 'p99': 4.0}},
    'learning_curve': [[7.0 * k, -10.0 + k, k / 20] for k in range(1, 20)],
    'evaluation': {'live': None},
}


@pytest.fixture(scope='module')
def composition(package_root: Path) -> Composition:
    return compose(RunRequest(), package_root, Path('/run'))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.summary.write_text(json.dumps(SUMMARY))
    with open(folder.metrics, 'w') as file:
        for k in range(50):
            file.write(json.dumps({
                'time': 1.7e9 + k, 'phase': 'learning', 'transitions': 10 * k,
                'robot_time_s': 1.0 * k, 'wall_time_s': 1.01 * k, 'distance_m': 0.3 / (1 + k),
                'policy': {'age_s': 0.3, 'lag_versions': 1}, 'control': {'jitter_p99_ms': None},
                'model_learner': {'updates': 30 * k, 'validation_loss': 1.0 / (1 + k),
                                  'open_loop_error_10_m': 0.1 / (1 + k)}}) + '\n')
        file.write('{"time": 1')   # as a crash leaves it
    return folder


def test_interventions_have_a_plot_only_where_there_were_any(composition: Composition) -> None:
    taken = {**SUMMARY, 'takeover': {'steps': 3, 'rate': 0.1, 'curve': [[7.0, 0.0], [14.0, 0.2]]}}
    none = {**SUMMARY, 'takeover': {'steps': 0, 'rate': 0.0, 'curve': [[7.0, 0.0], [14.0, 0.0]]}}
    assert 'Interventions' in page('run', composition, taken, [], None)
    for summary in (none, SUMMARY):
        assert 'Interventions' not in page('run', composition, summary, [], None)


def test_the_report_is_one_file_with_its_plots(folder: RunFolder,
                                               composition: Composition) -> None:
    (folder.root / 'before_after.gif').write_bytes(b'GIF89a')
    outcome.extend_summary(folder, {'evaluation': {'offline': outcome.figures(
        np.linspace(0.001, 0.02, 200), np.ones(200), 0.97)}, 'outcome': {'reason': '<b>none</b>'}})
    text = write_report(folder, composition, outcome.read_summary(folder)).read_text()
    assert text.count('data:image/svg+xml;base64') == 9
    assert 'data:image/gif;base64' in text and 'not recorded' not in text
    assert '97.0 %' in text and '136 s' in text and '&lt;b&gt;none' in text
    assert 'http://' not in text.replace('http://www.w3.org', '') and 'https://' not in text


def test_what_was_not_recorded_is_said(composition: Composition) -> None:
    text = page('empty', composition, {}, [], None)
    assert text.count('not recorded') == 9 and 'Before and after' not in text


def test_metrics_are_read_up_to_a_torn_line(folder: RunFolder) -> None:
    metrics = read_metrics(folder)
    assert len(metrics) == 50
    time_s, loss = series(metrics, 'model_learner.validation_loss')
    assert len(time_s) == 50 and loss[1] == 0.5
    assert not len(series(metrics, 'control.jitter_p99_ms')[0])


def test_the_overview_is_a_picture(folder: RunFolder, composition: Composition) -> None:
    path = folder.root / 'overview.png'
    save_overview(path, SUMMARY, read_metrics(folder), composition, {})
    with Image.open(path) as image:
        width = image.width
    save_overview(path, {}, [], composition, {'before': np.zeros((32, 40, 3), np.uint8)})
    with Image.open(path) as image:
        assert image.width > width > 1200


def test_films_are_put_side_by_side() -> None:
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 255, (4, 32, 40, 3), np.uint8) for _ in range(2)]
    frames = side_by_side(films[0], films[1], 'before', 'after')
    assert len(frames) == 4 and frames[0].width == 84
    assert encode(frames).startswith(b'GIF89a')


def test_scalars_are_written_once(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert dict(scalars({'a': {'b': 1, 'c': 'x'}, 'd': True, 'e': None})) == {'a/b': 1.0}
    writer = ScalarWriter(folder)
    assert writer.follow() == 50 and writer.follow() == 0
    with open(folder.metrics, 'a') as file:
        file.write('00, "transitions": 500, "episodes": 7}\n')
    assert writer.follow() == 1
    writer.close()
    assert ScalarWriter(folder).follow() == 0
    events = EventAccumulator(str(folder.root / 'tensorboard')).Reload()
    losses = events.Scalars('model_learner/validation_loss')
    assert len(losses) == 50 and (losses[3].step, losses[3].value) == (30, 0.25)
    assert events.Scalars('episodes')[0].step == 500


def test_scalars_are_made_anew(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    old = folder.root / 'tensorboard' / 'events.out.tfevents.old'
    old.parent.mkdir()
    old.write_bytes(b'of another time')
    assert rewrite_scalars(folder) == 50
    assert not old.exists()
    events = EventAccumulator(str(old.parent)).Reload()
    assert len(events.Scalars('model_learner/validation_loss')) == 50
    assert sorted(path.name for path in folder.root.iterdir()) == [
        'metrics.jsonl', 'summary.json', 'tensorboard']


def test_summary_is_extended_and_damage_is_said(folder: RunFolder,
                                                composition: Composition) -> None:
    outcome.extend_summary(folder, {'respawns': {'model_learner': 1}})
    summary = outcome.extend_summary(folder, {'evaluation': {'offline': {'success_rate': 0.9}}})
    assert summary['evaluation'] == {'live': None, 'offline': {'success_rate': 0.9}}
    assert summary['respawns'] == {'model_learner': 1}
    assert not outcome.succeeded(summary, composition)
    assert ('transitions', '600 collected, 0 lost') in outcome.closing_rows(summary)
    with pytest.raises(ConfigError, match='has not saved it yet'):
        outcome.evaluate_offline(folder, composition, 1)
    folder.policy.parent.mkdir()
    folder.policy.write_bytes(b'x' * 64)
    with pytest.raises(ConfigError, match='policy.safetensors'):
        outcome.evaluate_offline(folder, composition, 1)
    folder.summary.write_text('{')
    with pytest.raises(ConfigError, match='not valid JSON'):
        outcome.read_summary(folder)
