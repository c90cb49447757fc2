"""Both learners in one: they take turns with the arm, and with each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.schedule import TURNS_METRIC, Block, ScheduleConfig
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version
from async_mbrl.core.transition import Transition
from async_mbrl.learning import checkpoint
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.learner import Learner
from async_mbrl.learning.recorded import recorded_hash

_SLOTS = ('a', 'b')
_EPOCH_TOLERANCE = 1e-6
"""Passes over the data are counted in fractions, whose sums are not exact."""


@runtime_checkable
class ByEpisode(Protocol):
    """A learner whose policy may depend on the episode."""

    def follow(self, newest: Transition) -> None:
        """Act from now on as it is to be after a transition that is kept, the newest one."""
        ...


class SequentialLearner:
    """Learns the model, then the policy inside it, once the rollouts of a turn are there.

    Data are taken at any time, but learned from in turns; see :mod:`async_mbrl.core.schedule`. What
    is handed out is the policy between two turns: a turn that is not over changes nothing of it,
    also after a restart in the middle of it. It is handed out anew after each rollout, as its
    exploration may depend on the data, or on the episode.
    """

    def __init__(self, schedule: ScheduleConfig, model: Learner | None, policy: Learner) -> None:
        """Put two learners together that have learned nothing.

        Args:
            schedule: a sequential one.
            model: learner of the model; None for an algorithm that needs none.
            policy: learner of the policy.
        """
        self._schedule = schedule
        self._model = model
        self._policy = policy
        self._handed = policy.snapshot()
        self._news = (0, 0)
        self._slot = _SLOTS[-1]
        self.rollouts = 0
        """Rollouts that were taken to their end."""
        self.turns = 0
        """Turns that are over."""
        self._taken = 0
        self._block = 0
        self._begun: dict[str, float] | None = None

    @property
    def next_transition(self) -> int:
        """All transitions with number below this were taken."""
        return min(self._taken, *(each.next_transition for each in self._learners().values()))

    @property
    def kept(self) -> int:
        """No transition with this number, or a greater one, is kept by any of the two."""
        return max(each.kept for each in self._learners().values())

    @property
    def trouble(self) -> str:
        """What was wrong with the transitions on disk when they were taken back; else empty."""
        return '; '.join(each.trouble for each in self._learners().values() if each.trouble)

    @property
    def ready(self) -> bool:
        """Whether there is something worth handing out yet: exploration is, from the start."""
        return self._policy.ready

    @property
    def model_version(self) -> Version:
        """Version of the newest model taken."""
        return self._policy.model_version

    @property
    def updates(self) -> int:
        """Updates of the policy over the whole run."""
        return self._policy.updates

    @property
    def epochs(self) -> float:
        """Passes of the policy learner over the data over the whole run."""
        return self._policy.epochs

    @property
    def news(self) -> tuple[int, ...]:
        """What changes whenever there is something to hand out that was not yet."""
        return self._news

    @property
    def due(self) -> bool:
        """Whether there is a turn to be done."""
        return self.turns < self._schedule.turns(self.rollouts)

    def take(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of their numbers, the first being the next one."""
        # After a restart the learners may have more on disk than the turns have been counted of,
        # or less, if a file was damaged.
        kept = self._policy.next_transition
        for learner in self._learners().values():
            learner.take([each for each in transitions if each.number >= learner.next_transition])
        # Which episode it is, is not on disk.
        if transitions and transitions[-1].number < kept and isinstance(self._policy, ByEpisode):
            self._policy.follow(transitions[-1])
        new = [each for each in transitions if each.number >= self._taken]
        self._taken += len(new)
        ended = sum(transition.terminated or transition.truncated for transition in new)
        between_turns = not self.due
        self.rollouts += ended
        if ended and between_turns and not self.due:
            self._hand()

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore it: the model comes from within."""

    def step(self) -> bool:
        """Learn for a moment; False if no turn is due."""
        if not self.due:
            return False
        program = self._schedule.program(self.turns)
        while self._block < len(program):
            if self._advance(program[self._block]):
                return True
            self._block, self._begun = self._block + 1, None
        self.turns, self._block = self.turns + 1, 0
        self._hand()
        return True

    def snapshot(self) -> Snapshot:
        """Give the policy as it was between two turns; its version changes with the news."""
        return self._handed

    def metrics(self) -> dict[str, float]:
        """Scalars of both learners, the turns that are over, and the ratios of learning to data."""
        collected = max(1, self.next_transition)
        scalars = {TURNS_METRIC: float(self.turns), **self._policy.metrics(),
                   'policy_updates_per_transition': self.updates / collected}
        if self._model is not None:
            scalars.update({f'model.{name}': value
                            for name, value in self._model.metrics().items()})
            scalars.update({'model.updates': float(self._model.updates),
                            'model.epochs': float(self._model.epochs),
                            'model.updates_per_transition': self._model.updates / collected})
        return scalars

    def save(self, folder: Path, transitions: Path | None = None) -> None:
        """Write a checkpoint of both learners; the one before stands until this one is complete.

        Transitions are in one file for each learner; see
        :class:`~async_mbrl.learning.learner.Learner`.
        """
        slot = _SLOTS[(_SLOTS.index(self._slot) + 1) % len(_SLOTS)]
        hashes = {}
        for name, learner in self._learners().items():
            learner.save(folder / slot / name, (transitions or folder) / name)
            hashes[name] = recorded_hash(folder / slot / name)
        handed = torch.frombuffer(bytearray(snapshots.encode(self._handed)), dtype=torch.uint8)
        checkpoint.write(folder, self._identity(), {'handed': handed}, {
            'slot': slot, 'learners': hashes, 'rollouts': self.rollouts, 'turns': self.turns,
            'news': list(self._news), 'block': self._block, 'begun': self._begun,
            'next_transition': self._taken, 'updates': self.updates})
        self._slot = slot

    def restore(self, folder: Path, transitions: Path | None = None) -> int:
        """Go on from what is on disk; see :class:`~async_mbrl.learning.learner.Learner`.

        Rollouts are counted as transitions are taken. So those that came after the checkpoint are
        asked for again, but not kept twice.
        """
        found = checkpoint.read(folder, self._identity())
        if found is None:
            for name, learner in self._learners().items():
                learner.restore((transitions or folder) / name)     # no checkpoint is ever there
            return self.next_transition
        tensors, about = found
        remedy = f'move {folder} away to begin anew, or restore it from a backup'
        for name, learner in self._learners().items():
            part = folder / about['slot'] / name
            learner.restore(part, (transitions or folder) / name)
            if recorded_hash(part) != about['learners'][name]:
                raise CheckpointError(f'{part} is not the checkpoint that {folder} names; {remedy}')
        try:
            # What this start has handed out so far is nothing: its first version is free.
            self._handed = dataclasses.replace(
                snapshots.decode(tensors['handed'].numpy().tobytes(), expected_kind='policy'),
                version=self._handed.version)
        except SnapshotError as error:
            raise CheckpointError(f'{folder}: {error}; {remedy}') from None
        self._slot = about['slot']
        self.rollouts, self.turns = about['rollouts'], about['turns']
        self._block, self._begun = about['block'], about['begun']
        self._news = tuple(about['news'])
        self._taken = about['next_transition']
        return self.next_transition

    def discard(self) -> None:
        """Put the transitions on disk aside; a restart asks for all of them again."""
        for learner in self._learners().values():
            learner.discard()

    def close(self) -> None:
        """Let go of the files; nothing may be taken any more."""
        for learner in self._learners().values():
            learner.close()

    def _hand(self) -> None:
        self._handed = self._policy.snapshot()
        self._news = self.turns, self.rollouts

    def _learners(self) -> dict[str, Learner]:
        model = {} if self._model is None else {'model': self._model}
        return {**model, 'policy': self._policy}

    def _identity(self) -> dict[str, Any]:
        return {'learner': 'sequential', 'schedule': dataclasses.asdict(self._schedule),
                'model': self._model is not None}

    def _advance(self, block: Block) -> bool:
        """Learn for a moment in a block; False if its work is done, or there is nothing to do."""
        model, policy = self._model, self._policy
        if self._begun is None:
            self._begun = {'epochs': 0.0 if model is None else model.epochs,
                           'updates': policy.updates, 'model': float(model is not None)}
        if self._begun['model']:
            assert model is not None
            if (model.epochs - self._begun['epochs'] < block.model_epochs - _EPOCH_TOLERANCE
                    and model.step()):
                return True
            self._begun['model'] = 0.0
            if model.ready and block.model_epochs:
                policy.take_snapshot(model.snapshot())
        return policy.updates - self._begun['updates'] < block.policy_steps and policy.step()
