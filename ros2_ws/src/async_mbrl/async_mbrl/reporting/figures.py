"""Plots of a run, from its summary and its metrics. What was not recorded makes no plot."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import look_up
from async_mbrl.core.run import RunFolder
from async_mbrl.tasks.config import ReachConfig

Metrics = Sequence[Mapping[str, Any]]

INK, GREY = '#1f2933', '#7b8794'
BLUE, GREEN, ORANGE, RED, VIOLET = '#2563eb', '#059669', '#d97706', '#dc2626', '#7c3aed'
PINK = '#db2777'
_TIME = 'data time, s'
_OPEN_LOOP = re.compile(r'open_loop_error_(\d+)_m')
_STYLE = {
    'font.size': 9.0, 'axes.titlesize': 10.0, 'axes.titleweight': 'bold',
    'axes.titlelocation': 'left', 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.edgecolor': GREY, 'axes.labelcolor': INK, 'text.color': INK, 'xtick.color': GREY,
    'ytick.color': GREY, 'axes.grid': True, 'grid.color': '#e4e7eb', 'grid.linewidth': 0.8,
    'lines.linewidth': 1.8, 'legend.fontsize': 8.0, 'legend.framealpha': 0.85,
    'legend.edgecolor': 'none', 'legend.facecolor': 'white',
    'svg.fonttype': 'none', 'figure.constrained_layout.use': True,
}

MODEL_LOSSES = (('validation_loss', 'newest episode, before learning from it', BLUE, 'o'),
                ('training_loss', 'training', ORANGE, ''))


@dataclass(frozen=True)
class Plot:
    """A plot of the report: its title, what it tells, and how it is drawn (False: no data)."""

    title: str
    caption: str
    draw: Callable[[Axes, Mapping[str, Any], Metrics, Composition], bool]
    optional: bool = False
    """Whether a report without its data has no place for it."""


def style() -> AbstractContextManager[None]:
    """Give the look of all plots, as a context."""
    return plt.rc_context(_STYLE)  # type: ignore[arg-type]


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a torn last line is left out."""
    records = []
    if folder.metrics.exists():
        for line in folder.metrics.read_text(errors='replace').splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def series(metrics: Metrics, *paths: str) -> tuple[np.ndarray, ...]:
    """Give data time, s, and values (points,) of metrics by their dotted paths.

    Only records that hold all of them, finite, count.
    """
    points = []
    for record in metrics:
        values = [look_up(record, path) for path in ('robot_time_s', *paths)]
        if all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
            points.append([float(value) for value in values])
    return tuple(np.array(points).reshape(-1, 1 + len(paths)).T)


def changes(metrics: Metrics, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Give data time, s, and value (points,) where a positive metric takes a new value."""
    time_s, value = series(metrics, path)
    kept = (value > 0) & np.concatenate([[True], np.diff(value) != 0])[:len(value)]
    return time_s[kept], value[kept]


def while_learning(metrics: Metrics) -> Metrics:
    """Give the records of the phase in which is learned."""
    return [record for record in metrics if record.get('phase', 'learning') == 'learning']


def curve(summary: Mapping[str, Any]) -> np.ndarray:
    """Give the learning curve (episodes, 3): data time, s, return, success rate."""
    rows = [row[:3] for row in summary.get('learning_curve') or [] if len(row) >= 3]
    return np.array(rows, float).reshape(-1, 3)


def draw_return(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                composition: Composition) -> bool:
    """Draw the return against data time."""
    del metrics, composition
    points = curve(summary)
    if not len(points):
        return False
    axes.plot(points[:, 0], points[:, 1], color=BLUE, marker='o', markersize=3)
    axes.set(xlabel=_TIME, ylabel='return, mean of 5 episodes')
    return True


def draw_success(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                 composition: Composition) -> bool:
    """Draw the success rate while learning, and what the final policy was judged to reach."""
    del metrics
    points = curve(summary)
    wanted = composition.task.wanted_success_rate
    if not len(points) or wanted is None:
        return False
    axes.plot(points[:, 0], 100 * points[:, 2], color=GREEN, marker='o', markersize=3,
              label='while learning')
    for kind, colour, marker in (('offline', INK, '*'), ('live', ORANGE, 'D')):
        rate = look_up(summary, f'evaluation.{kind}.success_rate')
        if rate is not None:
            count = look_up(summary, f'evaluation.{kind}.episodes')
            axes.plot(points[-1, 0], 100 * rate, marker, color=colour, clip_on=False,
                      markersize=10 if marker == '*' else 6, linestyle='none',
                      label=f'last, {count} episodes {kind}')
    axes.axhline(100 * wanted, color=GREY, linestyle=':', linewidth=1.2,
                 label=f'criterion, {wanted:.0%}')
    axes.set(xlabel=_TIME, ylabel='successful episodes, %', ylim=(-2, 102))
    axes.legend(loc='lower right')
    return True


def draw_distance(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                  composition: Composition) -> bool:
    """Draw the final distance of the learning episodes against data time, logarithmic."""
    del summary
    time_s, distance = changes(metrics, 'distance_m')
    if not len(time_s) or not isinstance(composition.task, ReachConfig):
        return False
    axes.semilogy(time_s, 1000 * distance, color=BLUE, marker='o', markersize=3,
                  label='end of a learning episode')
    axes.axhline(1000 * composition.task.success_distance_m, color=GREY, linestyle=':',
                 linewidth=1.2, label='success')
    axes.set(xlabel=_TIME, ylabel='distance to the goal, mm')
    axes.legend(loc='best')
    return True


def draw_model(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
               composition: Composition) -> bool:
    """Draw the losses of the model against data time, logarithmic."""
    del summary, composition
    drawn = False
    for name, label, colour, marker in MODEL_LOSSES:
        time_s, loss = changes(metrics, f'model_learner.{name}')
        if len(time_s):
            axes.semilogy(time_s, loss, color=colour, label=label, marker=marker, markersize=3)
            drawn = True
    if drawn:
        axes.set(xlabel=_TIME, ylabel='loss of the model')
        axes.legend(loc='best')
    return drawn


def draw_prediction(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                    composition: Composition) -> bool:
    """Draw how far the tool was from where the model alone had predicted it."""
    del summary
    names = {name for record in metrics for name in record.get('model_learner') or ()
             if _OPEN_LOOP.fullmatch(name)}
    period_s = 1.0 / composition.task.policy_rate_hz
    for name, colour in zip(sorted(names, key=_steps), (GREEN, BLUE, VIOLET, ORANGE),
                            strict=False):
        time_s, error = changes(metrics, f'model_learner.{name}')
        axes.semilogy(time_s, 1000 * error, color=colour, marker='o', markersize=3,
                      label=f'after {_steps(name) * period_s:.1f} s')
    if names:
        axes.set(xlabel=_TIME, ylabel='error of the tool, mm')
        axes.legend(loc='best')
    return bool(names)


def draw_lag(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
             composition: Composition) -> bool:
    """Draw age and lag of the acting policy against data time."""
    del summary, composition
    time_s, age = series(while_learning(metrics), 'policy.age_s')
    other_s, lag = series(while_learning(metrics), 'policy.lag_versions')
    if not len(time_s) and not len(other_s):
        return False
    if len(time_s):
        axes.plot(time_s, age, color=BLUE, label='age of the acting policy, s')
    if len(other_s):
        axes.plot(other_s, lag, color=ORANGE, linewidth=1.2, label='lag, versions')
    axes.set(xlabel=_TIME, ylim=(0, None))
    axes.legend(loc='best')
    return True


def draw_updates(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                 composition: Composition) -> bool:
    """Draw the updates a second of both learners against data time."""
    del summary, composition
    drawn = False
    for name, colour in (('model_learner', BLUE), ('policy_learner', GREEN)):
        time_s, wall_s, updates = series(while_learning(metrics), 'wall_time_s',
                                         f'{name}.updates')
        kept = (np.diff(wall_s) > 0) & (np.diff(updates) > 0)
        if not kept.any():
            continue
        rate = np.diff(updates)[kept] / np.diff(wall_s)[kept]
        axes.semilogy(time_s[1:][kept], rate, color=colour, label=name.replace('_', ' '))
        drawn = True
    if drawn:
        axes.set(xlabel=_TIME, ylabel='updates a second')
        axes.legend(loc='best')
    return drawn


def draw_jitter(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                composition: Composition) -> bool:
    """Draw how late the ticks of the control loop were, in shares of all ticks."""
    del metrics, composition
    jitter = summary.get('control', {}).get('jitter_ms') or {}
    names = [name for name in ('p50', 'p99', 'p999', 'max') if jitter.get(name) is not None]
    if not names:
        return False
    values = [float(jitter[name]) for name in names]
    axes.barh(range(len(names)), values, color=[BLUE, BLUE, VIOLET, RED][:len(names)], height=0.6)
    for row, value in enumerate(values):
        axes.annotate(f'{value:.3g} ms', (value, row), xytext=(4, 0), va='center',
                      textcoords='offset points', color=INK)
    axes.set_yticks(range(len(names)), [{'p999': 'p99.9', 'max': 'worst'}.get(name, name)
                                        for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.grid(False, axis='y')
    axes.set(xlabel='lateness of a control tick, ms')
    return True


def draw_latency(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                 composition: Composition) -> bool:
    """Draw the latencies of the graph, median and p99."""
    del metrics, composition
    latencies = {name: value for name, value in (summary.get('latency_ms') or {}).items()
                 if isinstance(value, Mapping) and isinstance(value.get('p99'), (int, float))}
    if not latencies:
        return False
    names = list(latencies)
    for row, name in enumerate(names):
        low = float(latencies[name].get('p50') or 0.0)
        high = float(latencies[name]['p99'])
        axes.plot([low, high], [row, row], color=BLUE, linewidth=4, solid_capstyle='round',
                  alpha=0.35)
        axes.plot(low, row, 'o', color=BLUE)
        axes.plot(high, row, 'o', color=RED)
        axes.annotate(f'{low:.3g} / {high:.3g} ms', (high, row), xytext=(6, 5),
                      textcoords='offset points')
    axes.set_yticks(range(len(names)), [name.replace('_', ' ') for name in names])
    axes.invert_yaxis()
    axes.set_xscale('log')
    axes.margins(x=0.35, y=0.3)
    axes.grid(False, axis='y')
    axes.set(xlabel='median and p99, ms')
    return True


def draw_takeover(axes: Axes, summary: Mapping[str, Any], metrics: Metrics,
                  composition: Composition) -> bool:
    """Draw the share of the steps in which a person acted against data time."""
    del metrics, composition
    points = np.array(look_up(summary, 'takeover.curve') or [], float).reshape(-1, 2)
    if not points[:, 1].any():
        return False
    axes.plot(points[:, 0], 100 * points[:, 1], color=VIOLET, marker='o', markersize=3)
    axes.set(xlabel=_TIME, ylabel='steps taken over, %', ylim=(-2, 102))
    return True


PLOTS = (
    Plot('Success', 'Share of the last 5 learning episodes that were successful, and what the last '
         'policy reached without exploration.', draw_success),
    Plot('Final distance', 'Mean distance of the tool points to the goal at the end of each '
         'learning episode.', draw_distance),
    Plot('Return', 'Return of the learning episodes.', draw_return),
    Plot('Model error', 'Loss of the dynamics ensemble.', draw_model),
    Plot('Model prediction', 'The newest episode predicted from its first state and its actions '
         'alone, before learning from it.', draw_prediction),
    Plot('Interventions', 'Share of the steps of each learning episode in which a person acted.',
         draw_takeover, optional=True),
    Plot('Policy lag', 'How old the acting policy was, and how many versions behind the newest.',
         draw_lag),
    Plot('Learning speed', 'Both learners work while the arm moves.', draw_updates),
    Plot('Control timing', 'Lateness of the ticks of the control loop while the arm was driven.',
         draw_jitter),
    Plot('Latencies', 'From publishing to where it counts.', draw_latency),
)


def svg(plot: Plot, summary: Mapping[str, Any], metrics: Metrics,
        composition: Composition) -> bytes | None:
    """Draw a plot as SVG; None if its data was not recorded."""
    with style():
        figure = Figure(figsize=(5.6, 3.1))
        axes = figure.add_subplot()
        if not plot.draw(axes, summary, metrics, composition):
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
        return buffer.getvalue()


def save_overview(path: Path, summary: Mapping[str, Any], metrics: Metrics,
                  composition: Composition, stills: Mapping[str, np.ndarray]) -> None:
    """Draw pictures of the arm, success and distance side by side into a PNG.

    Args:
        path: file to write.
        summary: ``summary.json`` of the run.
        metrics: records of its ``metrics.jsonl``.
        composition: its configuration.
        stills: pictures (height, width, 3), uint8, by their titles; may be empty.
    """
    plots = PLOTS[:2]
    with style():
        figure = Figure(figsize=(3.4 * len(plots) + 2.6 * len(stills), 3.0), dpi=180,
                        facecolor='white')
        every = figure.subplots(1, len(stills) + len(plots), width_ratios=[0.9] * len(stills)
                                + [1.0] * len(plots))
        for axes, (title, picture) in zip(every, stills.items(), strict=False):
            axes.imshow(picture)
            axes.set_title(title)
            axes.set_axis_off()
        for axes, plot in zip(every[len(stills):], plots, strict=True):
            if not plot.draw(axes, summary, metrics, composition):
                axes.text(0.5, 0.5, 'not recorded', color=GREY, ha='center', va='center',
                          transform=axes.transAxes)
                axes.set_axis_off()
            axes.set_title(plot.title)
        run = composition.run
        figure.suptitle(
            f'{composition.robot.name} · {composition.task.name} · {run.algorithm}, '
            f'{composition.schedule.name}, seed {run.seed}', x=0.01, ha='left', color=GREY,
            fontsize=9)
        figure.savefig(path)


def _steps(name: str) -> int:
    match = _OPEN_LOOP.fullmatch(name)
    return int(match[1]) if match else 0
