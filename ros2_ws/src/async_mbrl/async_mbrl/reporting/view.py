"""The terminal view of a running graph: a live table, or plain lines where there is no screen."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from async_mbrl.reporting.state import ViewState

REFRESH_S = 0.5
LINE_S = 5.0
_BLOCKS = '▁▂▃▄▅▆▇█'
_DIM = 'bright_black'


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw the last values as bars between their least and greatest."""
    shown = [value for value in values if value == value][-width:]
    if not shown:
        return ''
    low, high = min(shown), max(shown)
    span = high - low or 1.0
    return ''.join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in shown)


def duration(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def plain_line(state: ViewState) -> str:
    """Sum a run up in one line, for logs."""
    run, controller = state.run, state.controller
    if run is None:
        return 'waiting for the graph'
    parts = [run.phase + (f' ({run.reason})' if run.reason else '')]
    if run.evaluation_episodes:
        parts.append(f'{run.evaluation_episodes} episodes of evaluation')
    parts.append(f'motion {run.motion_time_s:.0f}/{run.motion_time_limit_s:.0f} s')
    parts.append(f'data {run.robot_time_s:.0f} s, run {run.wall_time_s:.0f} s')
    if run.episodes:
        parts.append(f'{run.episodes} episodes'
                     + ('' if run.last_distance_m is None else
                        f', last ended {run.last_distance_m * 100:.1f} cm off')
                     + ('' if run.recent_success_rate is None else
                        f', success {run.recent_success_rate:.0%}')
                     + f', return {run.recent_return:.1f}')
    if controller is not None:
        parts.append(f'policy {controller.policy_version} aged {controller.policy_age_s:.1f} s, '
                     f'jitter p99 {controller.jitter_p99_ms:.2f} ms')
    loss = state.loss()
    if loss is not None:
        parts.append(f'model {loss[0].replace("_", " ")} {loss[1]:.4g}')
    return ' | '.join(parts)


def render(state: ViewState, now: float) -> RenderableType:
    """Draw the whole view at ``now``, s."""
    parts: list[RenderableType] = [_progress(state), _figures(state)]
    rows = state.nodes(now)
    if rows:
        table = Table(box=None, expand=True, pad_edge=False, header_style=_DIM)
        for title in ('node', 'state', 'rate', 'note'):
            table.add_column(title, no_wrap=True, overflow='ellipsis')
        for row in rows:
            style = 'bold red' if row.alarming else ''
            table.add_row(Text(row.name, style), Text(row.state, style or 'green'), row.rate,
                          Text(row.note, style or _DIM))
        parts += ['', table]
    if state.messages:
        parts += ['', *(Text(message, 'yellow', no_wrap=True, overflow='ellipsis')
                        for message in state.messages)]
    run = state.run
    title = 'async_mbrl' if run is None else (
        f'async_mbrl  {run.task} · {run.robot} · {run.algorithm}  {run.run_id}')
    return Panel(Group(*parts), title=title, title_align='left', border_style='cyan')


def _progress(state: ViewState) -> RenderableType:
    run = state.run
    if run is None:
        return Text('waiting for the graph', _DIM)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    limit = run.motion_time_limit_s or 1.0
    colour = {'failed': 'red', 'done': 'green', 'evaluating': 'magenta'}.get(run.phase, 'cyan')
    grid.add_row(Text(run.phase, f'bold {colour}'),
                 ProgressBar(total=limit, completed=min(run.motion_time_s, limit)),
                 f'motion {run.motion_time_s:.1f} / {limit:.0f} s')
    ratio = run.wall_time_s / run.robot_time_s if run.robot_time_s > 0 else 0.0
    grid.add_row('', Text(run.reason, _DIM), Text(
        f'data time {duration(run.robot_time_s)}  run time {duration(run.wall_time_s)}'
        + (f'  ratio {ratio:.2f}' if ratio else ''), _DIM))
    return grid


def _figures(state: ViewState) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=_DIM, no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow='crop')
    run, controller = state.run, state.controller
    if run is not None and run.episodes:
        if run.last_distance_m is not None:
            grid.add_row('final distance', f'{run.last_distance_m * 100:.1f} cm',
                         Text(sparkline(state.distances_m), 'green'))
        grid.add_row('return', f'{run.recent_return:.2f}', Text(sparkline(state.returns), 'cyan'))
        note = f'{run.episodes} episodes'
        if run.evaluation_episodes:
            note += f', {run.evaluation_episodes} of evaluation'
        if run.recent_success_rate is None:
            grid.add_row('episodes', note)
        else:
            text = f'{run.recent_success_rate:.0%} of the last {min(run.episodes, 5)}'
            grid.add_row('success', text, Text(note, _DIM))
    loss = state.loss()
    if loss is not None:
        grid.add_row(f'model {loss[0].replace("_", " ")}', f'{loss[1]:.4g}',
                     Text(sparkline(state.model_losses), 'blue'))
    if controller is not None:
        refused = (f', {controller.policies_rejected} refused' if controller.policies_rejected
                   else '')
        grid.add_row('policy', f'{controller.policy_version}', Text(
            f'{controller.policy_age_s:.1f} s old, {controller.policies_applied} taken over'
            f'{refused}', _DIM))
        grid.add_row('control jitter', f'{controller.jitter_p50_ms:.3f} ms', Text(
            f'p99 {controller.jitter_p99_ms:.3f}, max {controller.jitter_max_ms:.2f} ms, '
            f'{controller.late_ticks} late ticks, {controller.interventions} interventions', _DIM))
    return grid


class _Console(Console):
    """A console that ends nothing when nobody reads any more: nodes must be ended in order."""

    def on_broken_pipe(self) -> None:
        """Print nothing from here on, and raise what can be caught."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise BrokenPipeError(errno.EPIPE, 'nobody reads what is printed') from None


class TerminalView:
    """Show a :class:`ViewState`: live on a terminal, one line every few seconds elsewhere."""

    def __init__(self, state: ViewState, live: bool | None = None,
                 stream: TextIO | None = None) -> None:
        """Show ``state`` on ``stream``; live only if it is a terminal, unless told."""
        self._state = state
        self._console = _Console(file=stream or sys.stdout, highlight=False)
        self._live = self._console.is_terminal if live is None else live
        self._screen: Live | None = None
        self._next_s = 0.0

    def start(self) -> None:
        """Begin to show."""
        if self._live:
            self._screen = Live(console=self._console, auto_refresh=False, transient=False)
            self._screen.start()

    def refresh(self, now: float) -> None:
        """Show what is new, if it is time; to be called often, at ``now``, s."""
        if now < self._next_s:
            return
        if self._screen is not None:
            self._next_s = now + REFRESH_S
            self._screen.update(render(self._state, now), refresh=True)
        else:
            self._next_s = now + LINE_S
            self._console.print(plain_line(self._state), soft_wrap=True, markup=False)

    def say(self, message: str) -> None:
        """Show a message at once where lines are printed, with the next picture elsewhere."""
        self._state.say(message)
        if self._screen is None:
            self._console.print(message, soft_wrap=True, markup=False)

    def stop(self, now: float) -> None:
        """Show the last state and leave the terminal as it was."""
        if self._screen is not None:
            self._screen.update(render(self._state, now), refresh=True)
            self._screen.stop()
            self._screen = None
