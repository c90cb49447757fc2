"""What the two learners have in common, so that one program carries messages for both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.core.transition import Transition


def learner_seed(run_seed: int, name: str) -> int:
    """Seed of a learner by its name: learners of one run must not draw the same numbers."""
    entropy = np.random.SeedSequence([run_seed, *name.encode()])
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)


class LearningDiverged(RuntimeError):
    """Parameters are no longer finite; nothing of them may be published or saved."""


class Learner(Protocol):
    """A worker that takes what arrived, does one short step, and hands out what changed.

    It knows neither clocks nor messages. ``step`` lasts about 0.1 s at most, so that data are taken
    promptly by whoever alternates between the two.
    """

    @property
    def next_transition(self) -> int:
        """All transitions with number below this were taken."""
        ...

    @property
    def ready(self) -> bool:
        """Whether there is something worth handing out yet."""
        ...

    @property
    def model_version(self) -> Version:
        """Version of the newest model taken; (0, 0) for the learner of the model itself."""
        ...

    @property
    def updates(self) -> int:
        """Gradient updates over the whole run."""
        ...

    @property
    def epochs(self) -> float:
        """Passes over the data over the whole run."""
        ...

    @property
    def kept(self) -> int:
        """No transition with this number, or a greater one, is kept, on disk or in memory."""
        ...

    @property
    def trouble(self) -> str:
        """What was wrong with the transitions on disk when they were taken back; else empty."""
        ...

    @property
    def news(self) -> tuple[int, ...]:
        """What changes whenever there is something to hand out that was not yet."""
        ...

    def take(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of their numbers, the first being the next one."""
        ...

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take parameters of the other learner; those that are not newer are ignored.

        Raises:
            SnapshotError: they do not fit.
        """
        ...

    def step(self) -> bool:
        """Learn for a moment; False if there is nothing to learn from."""
        ...

    def snapshot(self) -> Snapshot:
        """Give what was learned, under a new version.

        Raises:
            LearningDiverged: a parameter is not finite.
        """
        ...

    def save(self, folder: Path, transitions: Path | None = None) -> None:
        """Write a checkpoint.

        Args:
            folder: of the checkpoint.
            transitions: folder of the file that the transitions are in; the same by default.

        Raises:
            LearningDiverged: a parameter is not finite; the checkpoint before stands.
            OSError: the disk does not take it; the checkpoint before stands.
        """
        ...

    def restore(self, folder: Path, transitions: Path | None = None) -> int:
        """Go on from what is on disk, and keep the transitions in a file there from now on.

        Args:
            folder: of the checkpoint, if there is one.
            transitions: folder of the file of the transitions; the same by default.

        Returns:
            The number of the next transition wanted.

        Raises:
            CheckpointError: it is damaged or belongs to something else.
        """
        ...

    def discard(self) -> None:
        """Put the transitions on disk aside; a restart asks for all of them again."""
        ...

    def close(self) -> None:
        """Let go of the files; nothing may be taken any more."""
        ...

    def metrics(self) -> dict[str, float]:
        """Scalars that tell how it goes."""
        ...
