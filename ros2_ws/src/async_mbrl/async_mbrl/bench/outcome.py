"""Plots and a table of the comparison of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.core.files import write_atomically
from async_mbrl.reporting import figures

Runs = Sequence[Mapping[str, Any]]

_COLOURS = {'me_trpo': figures.BLUE, 'me_ppo': figures.GREEN, 'mb_mpo': figures.ORANGE,
            'mbpo': figures.RED}
_PALETTE = (figures.BLUE, figures.GREEN, figures.ORANGE, figures.RED, figures.VIOLET, figures.PINK,
            figures.GREY)
"""Of what is varied; what it is held against is in :data:`figures.INK`."""
_LINES = {'async': '-', 'sync': '--', 'interleaved': ':'}
_POINTS = 200


def write_outcome(results: Path, runs: Runs) -> list[Path]:
    """Draw every comparison that has rows, and write the table; give the files.

    Raises:
        OSError: a file cannot be written.
    """
    written = []
    for comparison, axes in (('main', ('wall_time_s', 'samples')),
                             ('best', ('wall_time_s', 'samples')), ('emulated', ('samples',)),
                             ('ablation', ('samples',))):
        chosen = [run for run in runs if run['comparison'] == comparison and run['curve']]
        if comparison == 'ablation':
            chosen += references(runs, chosen)
        if chosen:
            written.append(results.with_name(f'{results.stem}_{comparison}.png'))
            _draw(written[-1], chosen, axes, comparison)
    written.append(results.with_suffix('.md'))
    write_atomically(written[-1], f'{table(runs)}\n{gains(runs)}')
    return written


def references(runs: Runs, varied: Runs) -> list[Mapping[str, Any]]:
    """Give the runs that variations are held against: with nothing varied, of the same seeds."""
    def what(run: Mapping[str, Any]) -> tuple[Any, ...]:
        return run['environment'], run['algorithm'], run['seed'], run['samples']

    wanted = {what(run) for run in varied}
    return [run for run in runs
            if run['comparison'] == 'emulated' and run['curve'] and what(run) in wanted]


def mean_curve(runs: Runs, axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give a grid of an axis, and mean and half range of the returns of runs on it.

    The grid spans what every run has.
    """
    lines = [(np.array([point[axis] for point in run['curve']], float),
              np.array([point['return'] for point in run['curve']], float)) for run in runs]
    grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), _POINTS)
    returns = np.stack([np.interp(grid, x, y) for x, y in lines])
    return grid, returns.mean(0), 0.5 * (returns.max(0) - returns.min(0))


def table(runs: Runs) -> str:
    """Give a Markdown table: a line for each kind of run, its seeds together."""
    head = ('comparison', 'environment', 'algorithm', 'schedule', 'variant', 'seeds', 'samples',
            'wall time, s', 'run time / data time', 'model updates a sample',
            'policy updates a sample', 'return at the end', 'return over the run')
    rows = []
    for group in _groups([run for run in runs if run['curve']]):
        first = group[0]
        real = first['comparison'] in ('main', 'best')
        rows.append((
            first['comparison'], first['environment'], first['algorithm'], first['schedule'],
            first['variant'] or 'none', ', '.join(str(run['seed']) for run in group),
            _mean([run['samples'] for run in group], '.0f'),
            _mean([run.get('wall_time_s') for run in group], '.0f') if real else 'emulated',
            _mean([run['data_time_ratio'] for run in group], '.2f'),
            _mean([run['updates_per_transition']['model'] for run in group], '.3g'),
            _mean([run['updates_per_transition']['policy'] for run in group], '.3g'),
            _spread([run['curve'][-1]['return'] for run in group]),
            _spread([float(np.mean([point['return'] for point in run['curve']]))
                     for run in group])))
    return '\n'.join(['Return: mean of the last 5 learning episodes, at the end of a run and on '
                      'average over it; mean over seeds, in brackets the least and the greatest.',
                      '', _markdown(head, rows)])


def gains(runs: Runs) -> str:
    """Give a Markdown table: when asynchronous learning was where the synchronous form got to.

    Two lines for each pair of the main comparison, seed by seed: where the synchronous form ended,
    and where it was best; each return is the mean of five episodes.
    """
    head = ('environment', 'algorithm', 'seed', 'sync', 'return', 'after, s',
            'async: as good after, s', 'ratio')
    rows = []
    main = {run['id']: run for run in runs if run['comparison'] == 'main' and run['curve']}
    for name, one in main.items():
        other = main.get(name.replace('-async-', '-sync-'))
        if one['schedule'] != 'async' or other is None:
            continue
        for label, point in (
                ('at the end', other['curve'][-1]),
                ('at its best', max(other['curve'], key=lambda point: point['return']))):
            reached = [each['wall_time_s'] for each in one['curve']
                       if each['return'] >= point['return']]
            rows.append((
                one['environment'], one['algorithm'], str(one['seed']), label,
                f'{point["return"]:.1f}', f'{point["wall_time_s"]:.0f}',
                f'{reached[0]:.0f}' if reached else 'never',
                f'{reached[0] / point["wall_time_s"]:.2f}' if reached else 'none'))
    return _markdown(head, rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = ('| ' + ' | '.join(cells) + ' |' for cells in (head, *rows))
    return '\n'.join([first, '|' + ' --- |' * len(head), *others, ''])


def _groups(runs: Runs) -> list[list[Mapping[str, Any]]]:
    """Put runs together that differ in the seed alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run['id'].rsplit('-seed', 1)[0], []).append(run)
    return list(groups.values())


def _draw(path: Path, runs: Runs, axes: Sequence[str], comparison: str) -> None:
    environments = sorted({run['environment'] for run in runs})
    with figures.style():
        figure, grid = figures.plt.subplots(
            len(environments), len(axes), squeeze=False,
            figsize=(4.6 * len(axes) + 2.0, 3.3 * len(environments)))
        for row, environment in enumerate(environments):
            groups = _groups([run for run in runs if run['environment'] == environment])
            for column, axis in enumerate(axes):
                plot = grid[row][column]
                for index, group in enumerate(groups):
                    _line(plot, group, axis, index, comparison)
                plot.set_title(environment)
                plot.set_xlabel('wall time, min' if axis == 'wall_time_s' else 'samples')
                plot.set_ylabel('return, mean of 5 episodes')
            # Beside the last one: within, it would hide lines.
            grid[row][-1].legend(loc='center left', bbox_to_anchor=(1.02, 0.5))
        figure.savefig(path, dpi=150)
        figures.plt.close(figure)


def _line(plot: Any, group: list[Mapping[str, Any]], axis: str, index: int,
          comparison: str) -> None:
    first = group[0]
    x, mean, half = mean_curve(group, axis)
    x = x / 60.0 if axis == 'wall_time_s' else x
    colour = _COLOURS.get(first['algorithm'], figures.GREY)
    if comparison == 'ablation':
        colour = _PALETTE[index % len(_PALETTE)] if first['variant'] else figures.INK
    plot.plot(x, mean, color=colour, linestyle=_LINES[first['schedule']],
              label=first['variant'] or f'{first["algorithm"]}, {first["schedule"]}')
    plot.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0.0)


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return f'{np.mean(known):{form}}' if known else 'none'


def _spread(values: Sequence[float]) -> str:
    return f'{np.mean(values):.1f} [{min(values):.1f}, {max(values):.1f}]'
