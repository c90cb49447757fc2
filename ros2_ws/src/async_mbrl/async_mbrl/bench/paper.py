"""``async-mbrl bench paper``: asynchronous against synchronous, as a queue of runs."""

from __future__ import annotations

import fnmatch
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from async_mbrl.bench.provenance import machine, revision
from async_mbrl.bench.rows import REAL_OVERHEAD_S, SECONDS_PER_SAMPLE, Row
from async_mbrl.bringup.folder import require_idle
from async_mbrl.core.config import ConfigError, look_up
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder

RUNS = Path('runs/paper')
"""Where runs lie in the commands that are kept with the results, wherever they were."""

COMPLETE = (0, 3)
"""Exit statuses of a run that went to its end; 3: short of the success rate of its task."""

Say = Callable[[str], None]


class RowFailed(RuntimeError):
    """A row did not come to its end; the message says why."""


@dataclass(frozen=True)
class Places:
    """Where results go, and where the runs lie meanwhile."""

    results: Path
    runs: Path


class Queue:
    """Rows to be run; one that is in the results is not run again."""

    def __init__(self, rows: Sequence[Row], places: Places, command: str, say: Say = print) -> None:
        """Read what results there are.

        Args:
            rows: in the order in which they are run.
            places: of the files.
            command: that made the results, kept with them.
            say: tells a line.

        Raises:
            ConfigError: the file of the results is not one of this benchmark.
        """
        self._rows = rows
        self._places = places
        self._command = command
        self._say = say
        self.results = read_results(places.results)

    def select(self, patterns: Sequence[str]) -> list[Row]:
        """Give the rows whose names contain, or match, one of some patterns; all without one."""
        return [row for row in self._rows if not patterns or any(
            pattern in row.name or fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]

    def done(self, row: Row) -> bool:
        """Whether the results have the row."""
        return row.name in self._found()

    def expected_s(self, row: Row) -> float:
        """Give the time that a row will take, about, s; computing time on the emulated clock."""
        if row.wall_s:
            return row.wall_s + REAL_OVERHEAD_S
        return row.samples * self._seconds_per_sample(row)

    def run(self, rows: Sequence[Row], minutes_left: float | None = None, jobs: int = 1) -> int:
        """Run what is missing; give how many rows failed.

        Args:
            rows: those wanted.
            minutes_left: time there is; a row that will not be done by then is not begun.
            jobs: rows on the emulated clock that run side by side; on the real clock each row has
                the machine for itself.
        """
        begun_s, failed = time.monotonic(), 0
        waiting = [row for row in rows if not self.done(row)]
        running: dict[Future[dict[str, Any]], Row] = {}
        with ThreadPoolExecutor(jobs) as pool:
            while waiting or running:
                row = _startable(waiting, list(running.values()), jobs)
                if row is None:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        ended = running.pop(future)
                        try:
                            self._keep(ended, future.result())
                        except (RowFailed, ConfigError, OSError) as error:
                            failed += 1
                            self._say(f'error: {ended.name}: {error}')
                    continue
                expected_s = self.expected_s(row)
                if minutes_left is not None and (
                        time.monotonic() - begun_s + expected_s > 60.0 * minutes_left):
                    self._say(f'{row.name}: about {duration(expected_s)} do not fit into the time '
                              'left; stopping here, the same command goes on')
                    waiting.clear()
                    continue
                left_s = sum(self.expected_s(other) for other in waiting)
                self._say(f'{row.name}: about {duration(expected_s)}; all that is left: about '
                          f'{duration(left_s)} of computing')
                waiting.remove(row)
                running[pool.submit(self._run, row)] = row
        return failed

    def _run(self, row: Row) -> dict[str, Any]:
        self._places.runs.mkdir(parents=True, exist_ok=True)
        begun_s, begun_at = time.monotonic(), revision()
        told, kept = (real_command(row, runs) if row.wall_s else emulated_command(
            row, runs, self._budget(row)) for runs in (self._places.runs, RUNS))
        if row.wall_s and not _complete(self._places.runs / row.name):
            # A run on the real clock is one piece: what an interrupted one has is not gone on with.
            shutil.rmtree(self._places.runs / row.name, ignore_errors=True)
        finished = (self._places.runs / row.name / 'summary.json').exists() if row.wall_s else (
            _emulated_file(row, self._places.runs).exists())
        if not finished:
            status = subprocess.run([sys.executable, '-m', 'async_mbrl.cli', *told],
                                    check=False).returncode
            if status not in COMPLETE:
                raise RowFailed(f'async-mbrl {shlex.join(told)} ended with status {status}')
        figures = real_figures(self._places.runs / row.name) if row.wall_s else json.loads(
            _emulated_file(row, self._places.runs).read_text())
        return {**figures, 'git': begun_at, 'command': f'async-mbrl {shlex.join(kept)}',
                'seconds': time.monotonic() - begun_s}

    def _keep(self, row: Row, figures: dict[str, Any]) -> None:
        """Add a row to the results and write them."""
        entry = {
            'id': row.name, 'environment': row.environment, 'algorithm': row.algorithm,
            'schedule': row.schedule, 'seed': row.seed, 'comparison': row.comparison,
            'variant': row.variant, 'data_time_ratio': None, **figures}
        runs = [run for run in self.results.get('runs', []) if run['id'] != row.name] + [entry]
        self.results = {'command': self._command, 'git': revision(), 'machine': machine(),
                        'seeds': sorted({run['seed'] for run in runs}), 'runs': runs}
        self._places.results.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._places.results, json.dumps(self.results, indent=1) + '\n')

    def _budget(self, row: Row) -> Mapping[str, float]:
        """Give the updates for each transition that an emulated asynchronous row may take.

        Raises:
            RowFailed: the row that they are taken from was not run.
        """
        if not row.as_much_as:
            return {}
        other = self._found().get(row.as_much_as)
        if other is None:
            raise RowFailed(f'has as many updates as {row.as_much_as}, which was not run')
        return {name: row.share * value for name, value in other['updates_per_transition'].items()}

    def _found(self) -> dict[str, Any]:
        return {run['id']: run for run in self.results.get('runs', [])}

    def _seconds_per_sample(self, row: Row) -> float:
        """Give the computing time of a sample in rows like this one."""
        found = [run for run in self.results.get('runs', []) if run.get('elapsed_s')]
        for alike in (lambda run: run['algorithm'] == row.algorithm
                      and run['schedule'] == row.schedule and run['samples'] == row.samples,
                      lambda run: run['algorithm'] == row.algorithm):
            rates = [run['elapsed_s'] / run['samples'] for run in found if alike(run)]
            if rates:
                return float(sum(rates) / len(rates))
        return SECONDS_PER_SAMPLE[row.algorithm]


def _startable(waiting: Sequence[Row], running: Sequence[Row], jobs: int) -> Row | None:
    """Give the first row that can be begun beside those that run; None if none can."""
    if running and (len(running) >= jobs or running[0].wall_s):
        return None
    ahead = {row.name for row in (*waiting, *running)}
    for row in waiting:
        if row.wall_s and running:
            return None     # it needs the machine for itself, and its turn has come
        if row.as_much_as not in ahead:
            return row
    return None


def real_command(row: Row, runs: Path) -> list[str]:
    """Give the arguments of ``async-mbrl`` for a row on the real clock."""
    # The best one is also judged by its mean actions.
    evaluated = 5 if row.comparison == 'best' else 0
    settings = (*row.settings, f'collection.wall_time_s={row.wall_s:g}',
                f'collection.live_evaluation_episodes={evaluated}')
    return ['up', 'sim', *_what(row), '--motion-time', f'{row.wall_s:g}', *_set(settings),
            '--episodes', '1', '--no-view', '--no-video', '--run-dir', str(runs / row.name)]


def emulated_command(row: Row, runs: Path, budget: Mapping[str, float]) -> list[str]:
    """Give the arguments of ``async-mbrl`` for a row on the emulated clock."""
    settings = (*row.settings, *(
        f'schedule.{name}_updates_per_transition={value:.6g}'
        for name, value in budget.items()))
    return ['emulate', *_what(row), '--samples', str(row.samples), *_set(settings),
            '--output', str(_emulated_file(row, runs))]


def _what(row: Row) -> list[str]:
    return ['--robot', row.environment, '--task', row.environment, '--algorithm', row.algorithm,
            '--schedule', row.schedule, '--seed', str(row.seed)]


def _set(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ('--set', setting)]


def _emulated_file(row: Row, runs: Path) -> Path:
    return runs / f'{row.name}.json'


def _complete(folder: Path) -> bool:
    """Whether a run has come to its end.

    Raises:
        ConfigError: it goes on.
    """
    if not folder.exists():
        return False
    require_idle(folder)
    try:
        return json.loads(RunFolder(folder).summary.read_text()).get('phase') == 'done'
    except (OSError, ValueError):
        return False


def real_figures(folder: Path) -> dict[str, Any]:
    """Give what a row tells of a run on the real clock, from the files of the run."""
    summary = json.loads(RunFolder(folder).summary.read_text())
    samples = look_up(summary, 'transitions.collected')
    updates = {'model': look_up(summary, 'model.updates'),
               'policy': look_up(summary, 'policy.updates')}
    return {
        'data_time_ratio': summary['data_time_ratio'], 'samples': samples,
        'robot_time_s': summary['robot_time_s'], 'wall_time_s': summary['wall_time_s'],
        'updates': updates, 'model_epochs': look_up(summary, 'model.epochs'),
        'updates_per_transition': {name: None if count is None or not samples else count / samples
                                   for name, count in updates.items()},
        'transitions_lost': look_up(summary, 'transitions.lost'),
        'faults': look_up(summary, 'safety.faults'),
        'live_return': look_up(summary, 'evaluation.live.return.mean'),
        'curve': curve(RunFolder(folder).metrics)}


def curve(metrics: Path) -> list[dict[str, float]]:
    """Give a learning curve from the metrics of a run: a point where an episode has ended."""
    points: list[dict[str, float]] = []
    episodes = -1
    for text in metrics.read_text().splitlines():
        record = json.loads(text)
        if record['phase'] != 'learning' or record.get('return_mean') is None:
            continue
        if record['episodes'] != episodes:
            episodes = record['episodes']
            points.append({'wall_time_s': record['wall_time_s'],
                           'robot_time_s': record['robot_time_s'],
                           'samples': record['transitions'], 'return': record['return_mean']})
    return points


def read_results(path: Path) -> dict[str, Any]:
    """Read the results there are; nothing without a file.

    Raises:
        ConfigError: the file is not one of this benchmark.
    """
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
        if all({'id', 'comparison', 'curve'} <= set(run) for run in results['runs']):
            return dict(results)
    except (ValueError, KeyError, TypeError):
        pass    # said below
    raise ConfigError(f'{path} is not a file of results of this benchmark; move it away, or name '
                      'another one with --output')


def duration(seconds: float) -> str:
    """Tell a duration."""
    if seconds < 90.0:
        return f'{seconds:.0f} s'
    minutes = seconds / 60.0
    return f'{minutes:.0f} min' if minutes < 90.0 else f'{minutes / 60.0:.1f} h'
