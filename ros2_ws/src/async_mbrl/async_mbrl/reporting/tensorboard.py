"""TensorBoard scalars from the metrics of a run, without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from async_mbrl.core.run import RunFolder

FOLDER = 'tensorboard'


def scalars(record: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float]]:
    """Give tag and value of every number in a record, nested names joined by slashes."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f'{prefix}{name}/')
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f'{prefix}{name}', float(value)


class ScalarWriter:
    """Follow ``metrics.jsonl`` and write what is new as scalars, the transitions being the step.

    A run that was followed before is gone on with: lines that lie there already are not repeated.
    """

    def __init__(self, folder: RunFolder, name: str = FOLDER) -> None:
        """Follow the metrics of a run; nothing is imported or written before there are any.

        Args:
            folder: of the run.
            name: of the folder in it that the scalars go to.
        """
        self._metrics = folder.metrics
        self._folder = folder.root / name
        self._offset = 0
        if self._folder.is_dir() and self._metrics.exists():
            self._offset = self._metrics.stat().st_size
        self._writer: Any = None
        self._lines = 0

    def follow(self) -> int:
        """Write the lines that are new and whole; give how many."""
        if not self._metrics.exists():
            return 0
        with open(self._metrics, 'rb') as file:
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b'\n') + 1
        written = 0
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                self._write(record)
                written += 1
        self._offset += whole
        if written:
            self._writer.flush()
        return written

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, record: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder))
        self._lines += 1
        step = int(record.get('transitions', self._lines))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)]
        self._writer.add_event(Event(wall_time=float(record.get('time', 0.0)), step=step,
                                     summary=Summary(value=values)))


def rewrite_scalars(folder: RunFolder) -> int:
    """Make the scalars of a run anew from all of its metrics; give how many lines there were.

    Raises:
        OSError: they cannot be written; those of before stand.
    """
    unfinished = folder.root / f'.{FOLDER}.unfinished'
    shutil.rmtree(unfinished, ignore_errors=True)
    writer = ScalarWriter(folder, unfinished.name)
    try:
        written = writer.follow()
        writer.close()
        if written:
            shutil.rmtree(folder.root / FOLDER, ignore_errors=True)
            unfinished.rename(folder.root / FOLDER)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return written
