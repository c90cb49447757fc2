"""What ``async-mbrl bench`` does with its options."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from async_mbrl.bench import rows
from async_mbrl.bench.paper import Places, Queue, duration
from async_mbrl.core.config import ConfigError


@dataclass(frozen=True)
class PaperOptions:
    """Options of ``async-mbrl bench paper``.

    Attributes:
        quick: a few short rows instead of all.
        only: parts of names, or patterns, of the rows wanted; all without one.
        minutes_left: time there is; None for as much as it takes.
        jobs: rows on the emulated clock that run side by side.
        tell: only tell the rows.
        results: JSON file; plots and table go beside it.
        runs: folder in which the runs lie.
    """

    quick: bool
    only: Sequence[str]
    minutes_left: float | None
    jobs: int
    tell: bool
    results: Path
    runs: Path


def paper(options: PaperOptions) -> int:
    """Run what is missing of the comparison, then draw it; give the exit status.

    Raises:
        ConfigError: no row is of that name, or the file of results is another one's.
        OSError: files cannot be written.
    """
    command = 'async-mbrl bench paper' + (' --quick' if options.quick else '')
    queue = Queue(rows.quick() if options.quick else rows.full(),
                  Places(options.results, options.runs), command,
                  lambda line: print(line, flush=True))
    wanted = queue.select(options.only)
    if not wanted:
        raise ConfigError(f'only: no row is like {shlex.join(options.only)}; --list tells all')
    missing = [row for row in wanted if not queue.done(row)]
    if options.tell:
        for row in wanted:
            state = 'done' if queue.done(row) else f'about {duration(queue.expected_s(row))}'
            print(f'{row.name:60s} {state}')
    print(f'{len(missing)} of {len(wanted)} rows are missing: about '
          f'{duration(sum(queue.expected_s(row) for row in missing))}', flush=True)
    if options.tell:
        return 0
    failed = queue.run(wanted, options.minutes_left, options.jobs)
    if queue.results.get('runs'):
        from async_mbrl.bench.outcome import write_outcome

        for path in (options.results, *write_outcome(options.results, queue.results['runs'])):
            print(path)
    return 1 if failed else 0
