"""Many transitions at once, as columns."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from async_mbrl.core.transition import Transition


class Source(enum.IntEnum):
    """Who chose the action of a transition."""

    UNKNOWN = 0
    POLICY = 1
    PLANNER = 2
    SCRIPT = 3
    HUMAN = 4


@dataclass(frozen=True)
class Columns:
    """Transitions in the order in which they happened; each array has n rows.

    Attributes:
        observation: (n, observation_size), float32, with the goal.
        action_requested: (n, action_size), float32, normalised.
        action_applied: (n, action_size), float32, normalised: what was really sent.
        next_observation: (n, observation_size), float32, also where the episode ended.
        reward: (n,), float64.
        terminated: (n,), bool: the task ended by itself.
        truncated: (n,), bool: the episode was cut short.
        intervened: (n,), bool: the safety filter changed a command.
        episode: (n,), int64, within its source.
        step: (n,), int64, within the episode, from 0.
        policy_version: (n, 2), int64: incarnation and counter; zeros where no policy acted.
        log_probability: (n,), float32, nat, of the action requested; NaN where it is not known.
        source: (n,), uint8, see :class:`Source`.
    """

    observation: np.ndarray
    action_requested: np.ndarray
    action_applied: np.ndarray
    next_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    intervened: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    policy_version: np.ndarray
    log_probability: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)

    def __getitem__(self, rows: slice | np.ndarray) -> Columns:
        """Give some of the rows; a slice gives views."""
        return Columns(**{name.name: getattr(self, name.name)[rows] for name in fields(self)})


def columns_of(transitions: Sequence[Transition], source: Source) -> Columns:
    """Put at least one transition into columns; ``source``: who acted where no person took over."""
    def column(name: str, kind: type[np.generic]) -> np.ndarray:
        return np.array([getattr(transition, name) for transition in transitions], kind)

    return Columns(
        **{name: column(name, np.float32) for name in (
            'observation', 'action_requested', 'action_applied', 'next_observation')},
        reward=column('reward', np.float64),
        **{name: column(name, np.bool_) for name in ('terminated', 'truncated', 'intervened')},
        **{name: column(name, np.int64) for name in ('episode', 'step', 'policy_version')},
        log_probability=column('log_probability', np.float32),
        source=np.where(column('takeover', np.bool_), Source.HUMAN, source).astype(np.uint8))


def empty_columns(rows: int, observation_size: int, action_size: int) -> Columns:
    """Make room for some rows; what is in them is not defined."""
    return Columns(
        **{name: np.empty((rows, observation_size), np.float32)
           for name in ('observation', 'next_observation')},
        **{name: np.empty((rows, action_size), np.float32)
           for name in ('action_requested', 'action_applied')},
        reward=np.empty(rows, np.float64),
        **{name: np.empty(rows, np.bool_) for name in ('terminated', 'truncated', 'intervened')},
        **{name: np.empty(rows, np.int64) for name in ('episode', 'step')},
        policy_version=np.empty((rows, 2), np.int64),
        log_probability=np.empty(rows, np.float32),
        source=np.empty(rows, np.uint8))


def joined(parts: Sequence[Columns]) -> Columns:
    """Put the rows of at least one part one after the other."""
    return Columns(**{name.name: np.concatenate([getattr(part, name.name) for part in parts])
                      for name in fields(Columns)})
