"""``report.html`` of a run: one file that needs nothing else, and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import look_up
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting.figures import PLOTS, Metrics, read_metrics, svg
from async_mbrl.reporting.outcome import closing_rows, deciding

REPORT = 'report.html'
ANIMATION = 'before_after.gif'

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb; --back: #f5f7fa; --card: #fff;
        --good: #059669; --bad: #dc2626; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0; color: var(--soft); }
.tiles, .plots { display: grid; gap: 16px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); margin-top: 22px; }
.plots { grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
        padding: 16px 18px; overflow-x: auto; }
.card img { width: 100%; height: auto; display: block; }
.value { font-size: 26px; font-weight: 650; letter-spacing: -.02em; }
.good { color: var(--good); } .bad { color: var(--bad); }
.none { color: var(--soft); padding: 48px 0; text-align: center; }
table { border-collapse: collapse; width: 100%; }
td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { color: var(--soft); white-space: nowrap; width: 1%; padding-right: 28px; }
tr:last-child td { border-bottom: 0; }
code { font: 13px ui-monospace, monospace; }
@media (max-width: 520px) { .plots { grid-template-columns: 1fr; } }
</style>
</head>
<body><main>
<h1>$title</h1>
<p>$subtitle</p>
<div class="tiles">$tiles</div>
$animation
<h2>Learning</h2>
<div class="plots">$plots</div>
<h2>The run</h2>
<div class="card"><table>$rows</table></div>
<h2>Settings</h2>
<div class="card"><table>$settings</table></div>
</main></body></html>
""")


def write_report(folder: RunFolder, composition: Composition,
                 summary: Mapping[str, Any]) -> Path:
    """Write the report of a run from what its folder holds; give its path."""
    path = folder.root / REPORT
    animation = folder.root / ANIMATION
    write_atomically(path, page(
        folder.root.name, composition, summary, read_metrics(folder),
        animation.read_bytes() if animation.exists() else None))
    return path


def page(name: str, composition: Composition, summary: Mapping[str, Any], metrics: Metrics,
         animation: bytes | None) -> str:
    """Give the text of a report.

    Args:
        name: of the run.
        composition: its configuration.
        summary: its ``summary.json``.
        metrics: the records of its ``metrics.jsonl``.
        animation: GIF of before and after, if there is one.
    """
    run = composition.run
    subtitle = (f'run {name} · {run.algorithm} · schedule {composition.schedule.name} · '
                f'seed {run.seed}')
    shown = '' if animation is None else (
        '<h2>Before and after</h2><div class="card">'
        f'<img alt="the arm before and after learning" src="{_embed(animation, "image/gif")}">'
        '</div>')
    plots = []
    for plot in PLOTS:
        image = svg(plot, summary, metrics, composition)
        if image is None and plot.optional:
            continue
        body = ('<div class="none">not recorded</div>' if image is None else
                f'<img alt="{html.escape(plot.title)}" src="{_embed(image, "image/svg+xml")}">')
        plots.append(f'<div class="card"><h3>{html.escape(plot.title)}</h3>'
                     f'<p>{html.escape(plot.caption)}</p>{body}</div>')
    return _PAGE.substitute(
        title=html.escape(f'{composition.robot.name} learns {composition.task.name}'),
        subtitle=html.escape(subtitle), tiles=''.join(_tiles(composition, summary)),
        animation=shown, plots=''.join(plots),
        rows=_table(closing_rows(summary) + _details(summary)),
        settings=_table(_settings(composition)))


def _tiles(composition: Composition, summary: Mapping[str, Any]) -> list[str]:
    def tile(path: str, text: str, template: str, factor: float = 1.0,
             good: bool | None = None) -> str:
        value = look_up(summary, path)
        shown = template.format(value * factor) if isinstance(value, (int, float)) else '–'
        colour = '' if good is None or value is None else ' good' if good else ' bad'
        return (f'<div class="card"><div class="value{colour}">{shown}</div>'
                f'<p>{html.escape(text)}</p></div>')

    judged = f'evaluation.{deciding(summary)}'
    wanted = composition.task.wanted_success_rate
    rate = look_up(summary, f'{judged}.success_rate') or 0.0
    success = [] if wanted is None else [
        tile(f'{judged}.success_rate', 'of fresh episodes successful', '{:.1f} %', 100.0,
             rate >= wanted)]
    quality = (tile(f'{judged}.final_distance_m.median', 'median distance at the end',
                    '{:.1f} mm', 1000.0)
               if look_up(summary, f'{judged}.final_distance_m.median') is not None else
               tile(f'{judged}.return.mean', 'mean return of fresh episodes', '{:.1f}'))
    lost = look_up(summary, 'transitions.lost')
    return [
        *success,
        quality,
        tile('robot_time_s', 'data time', '{:.0f} s'),
        tile('data_time_ratio', 'run time / data time', '{:.3f}'),
        tile('transitions.lost', 'transitions lost', '{:.0f}', 1.0, lost == 0),
        tile('safety.limit_violations_sent', 'commands beyond limits', '{:.0f}', 1.0,
             look_up(summary, 'safety.limit_violations_sent') == 0),
    ]


def _details(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for path, name in (('control.rate_hz', 'control rate, Hz'),
                       ('control.scheduler', 'scheduler of the control loop'),
                       ('control.ticks', 'control ticks'), ('control.late_ticks', 'late ticks'),
                       ('model.validation_loss', 'loss of the model'),
                       ('policy.rejected', 'policies refused'),
                       ('safety.interventions', 'ticks changed by the filter'),
                       ('takeover.rate', 'share of learning steps by a person'),
                       ('safety.faults', 'faults'), ('waiting_share', 'share of time waiting'),
                       ('respawns', 'restarts'), ('outcome.reason', 'ended because'),
                       ('ros_distro', 'ROS 2'), ('rmw', 'middleware')):
        value = look_up(summary, path)
        if value is not None and value != '':
            rows.append((name, _text(value)))
    return rows


def _settings(composition: Composition) -> list[tuple[str, str]]:
    mapping = composition.to_mapping()
    rows = []
    for section in ('task', 'collection', 'model', 'network', 'exploration', 'improvement',
                    *(() if composition.plant is None else ('plant',))):
        values = ', '.join(f'{name} {_text(value)}' for name, value in mapping[section].items())
        rows.append((section, values))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_text(item)}' for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(_text(item) for item in value) + ']' if value else 'none'
    return str(value)


def _table(rows: list[tuple[str, str]]) -> str:
    return ''.join(f'<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>'
                   for name, value in rows)


def _embed(data: bytes, kind: str) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'
