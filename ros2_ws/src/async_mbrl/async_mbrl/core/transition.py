"""Transitions, and the events of the control loop that they are made of. No ROS here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from async_mbrl.core.snapshot import NO_VERSION, Version

NOT_NOW = 'not now: '
"""Begins the reason of an abort that tells nothing against the episode: no order is taken just now,
because the controller is not active or its policy must not act. It is worth asking again."""


class Mode(enum.IntEnum):
    """Whether an episode is learned from or judged."""

    LEARNING = 0
    EVALUATION = 1


class CommandKind(enum.IntEnum):
    """What an episode command asks for."""

    RUN_EPISODE = 0
    HOLD = 1
    FINISH = 2


class StepKind(enum.IntEnum):
    """What a control step reports."""

    STEP = 0
    END = 1
    MOVE_DONE = 2
    ABORTED = 3


def _empty() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class EpisodeCommand:
    """Order to the control loop; fields as in the message of the same name."""

    kind: CommandKind
    number: int = 0
    episode: int = 0
    mode: Mode = Mode.LEARNING
    start_pose: np.ndarray = field(default_factory=lambda: np.zeros(0))
    move_duration_s: float = 0.0
    goal: np.ndarray = field(default_factory=_empty)
    steps: int = 0
    policy_version: Version = NO_VERSION
    seed: int = 0


@dataclass(frozen=True)
class ControlStep:
    """Event of the control loop; fields as in the message of the same name."""

    kind: StepKind
    time_s: float
    command_number: int
    episode: int
    step: int
    mode: Mode
    observation: np.ndarray = field(default_factory=_empty)
    action_requested: np.ndarray = field(default_factory=_empty)
    previous_action_applied: np.ndarray = field(default_factory=_empty)
    previous_intervened: bool = False
    policy_version: Version = NO_VERSION
    log_probability: float = 0.0
    exploration_std: float = 0.0
    takeover: bool = False
    reason: str = ''


@dataclass(frozen=True)
class Transition:
    """One policy step of the robot; fields as in the message of the same name."""

    number: int
    episode: int
    step: int
    observation: np.ndarray
    action_requested: np.ndarray
    action_applied: np.ndarray
    next_observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    policy_version: Version = NO_VERSION
    log_probability: float = 0.0
    intervened: bool = False
    takeover: bool = False
