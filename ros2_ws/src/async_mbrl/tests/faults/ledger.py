"""Trials and what came of them: kept line by line, so that an interrupted suite goes on."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class NotSurvived(AssertionError):
    """A fault did not end as promised; the message says what was seen."""


@dataclass(frozen=True)
class Outcome:
    """What was measured in one trial.

    Attributes:
        hold_ms: from the fault to the first safe command on the wire, as received; None where the
            arm is not to be stopped.
        violations: commands beyond the limits of the robot.
        unverified: control steps or commands of policies that had to be refused.
        lost: transitions missing at a learner in the end.
        facts: other figures, by name.
    """

    hold_ms: float | None = None
    violations: int = 0
    unverified: int = 0
    lost: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One fault, once."""

    kind: str
    index: int
    survived: bool
    why: str = ''
    took_s: float = 0.0
    _: KW_ONLY
    repeats: int = 0
    """Times that it was made again because the instrument itself had stalled."""
    outcome: Outcome = field(default_factory=Outcome)


class Ledger:
    """The trials of one suite in a file, one JSON object a line."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Begin anew, or go on with what the file holds."""
        self.path = path
        self.trials: list[Trial] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text('')
        self.refresh()

    def refresh(self) -> list[Trial]:
        """Read the file again; a line that was cut off does not count. Give what is new."""
        before = len(self.trials)
        trials = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            trials.append(Trial(**{**record, 'outcome': Outcome(**record['outcome'])}))
        self.trials = trials
        return trials[before:]

    def add(self, trial: Trial) -> None:
        """Write down a trial."""
        self.trials.append(trial)
        with open(self.path, 'a') as file:
            file.write(json.dumps(dataclasses.asdict(trial)) + '\n')

    def done(self, kind: str) -> set[int]:
        """Indices of the trials of a kind that were made."""
        return {trial.index for trial in self.trials if trial.kind == kind}


def generator(seed: int, kind: str, index: int) -> np.random.Generator:
    """Give the generator of one trial, whatever was tried before it."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), index])


def summarise(trials: Iterable[Trial]) -> dict[str, Any]:
    """Give the figures that ``faults.json`` holds."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(trial.kind, []).append(trial)
    faults = {}
    for kind, made in sorted(kinds.items()):
        holds = [t.outcome.hold_ms for t in made if t.outcome.hold_ms is not None]
        faults[kind] = {
            'trials': len(made), 'survived': sum(t.survived for t in made),
            'repeats': sum(t.repeats for t in made),
            'worst_hold_ms': round(max(holds), 2) if holds else None,
            **({'median_hold_ms': round(float(np.median(holds)), 2)} if holds else {}),
            **_extremes(made)}
        if broken := [f'{t.index}: {t.why}' for t in made if not t.survived]:
            faults[kind]['not_survived'] = broken[:10]
    outcomes = [t.outcome for made in kinds.values() for t in made]
    return {'faults': faults,
            'transitions_lost': sum(o.lost for o in outcomes),
            'limit_violations_sent': sum(o.violations for o in outcomes),
            'unverified_policies_acted': sum(o.unverified for o in outcomes)}


def _extremes(made: list[Trial]) -> dict[str, float]:
    """Give the greatest of each figure that the trials of a kind share."""
    figures: dict[str, float] = {}
    for trial in made:
        for name, value in trial.outcome.facts.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                figures[f'worst_{name}'] = round(max(figures.get(f'worst_{name}', value), value), 3)
    return figures
