"""What stands at the end of a run: its animation, its report, and a short table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import ConfigError, look_up
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting.outcome import closing_rows, deciding
from async_mbrl.reporting.report import write_report


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the short table of a run."""
    for name, value in closing_rows(summary):
        print(f'{name:<24}{value}')


def close_run(folder: RunFolder, composition: Composition, summary: Mapping[str, Any], *,
              video: bool) -> None:
    """Make animation and report of a run, print its table and where everything lies."""
    if video:
        from async_mbrl.reporting.animation import AnimationError, write_animation
        try:
            write_animation(folder, composition)
        except (AnimationError, ConfigError) as error:
            print(f'no animation: {error}', flush=True)
    report = write_report(folder, composition, summary)
    print_summary(summary)
    rate = look_up(summary, f'evaluation.{deciding(summary)}.success_rate')
    wanted = composition.task.wanted_success_rate
    if rate is not None and wanted is not None and not composition.run.dry_run:
        verdict = 'met' if rate >= wanted else 'missed'
        print(f'success criterion {verdict}: {rate:.1%} of the episodes, {wanted:.0%} wanted')
    print(f'run     {folder.root}')
    print(f'report  {report}', flush=True)
