"""Transitions made anew from what was measured: joint states, actions, and a goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns, Source
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.tally import Tally

CLIPPED = 'actions beyond action_scale, clipped and marked as intervened'
NOT_KNOWN_BEFORE = 'first steps, before which no action is known'
"""The action before is part of an observation, so such a step has none."""
MOST = 1e6
"""Numbers beyond this are no measurements."""

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class GoalRule:
    """Which goal the episodes of foreign data have had.

    Attributes:
        kind: ``fixed``; ``reached``, where the tool was at the end of each episode (hindsight); or
            ``drawn``, as the task draws them.
        values: the goal, for ``fixed``: in the numbers and units of the task.
    """

    kind: str
    values: tuple[float, ...] = ()


class EpisodeBuilder:
    """Makes episodes of a task out of joint states and normalised actions."""

    def __init__(self, task: Any, goal: GoalRule | None, actor: Source, rng: np.random.Generator,
                 tally: Tally) -> None:
        """Begin with episode 0.

        Args:
            task: whose observation, reward and termination hold.
            goal: of its episodes; None for a task without one.
            actor: who chose the actions.
            rng: draws goals.
            tally: told of actions that are clipped.

        Raises:
            DatasetError: the goal does not fit the task.
        """
        self._task = task
        self._goal = goal
        self._actor = actor
        self._rng = rng
        self._tally = tally
        self._episode = 0
        size = task.goal_size
        if size == 0:
            self._goal = None
            return
        if goal is None:
            raise DatasetError(f'goal: missing; task {task.name} has goals of {size} numbers, '
                               'which no recording tells: give --goal reached, --goal drawn, or '
                               f'--goal= and {size} numbers with commas between them')
        if goal.kind == 'fixed' and (len(goal.values) != size
                                     or not np.isfinite(goal.values).all()):
            raise DatasetError(f'goal: {len(goal.values)} numbers, but those of task {task.name} '
                               f'have {size} finite ones')

    def build(self, position: np.ndarray, velocity: np.ndarray, action: np.ndarray,
              previous: np.ndarray) -> Iterator[Columns]:
        """Make episodes out of a stretch without gaps.

        It is divided where an episode of the task is over; where the stretch ends, so does an
        episode, as cut short.

        Args:
            position: (m + 1, states) joint positions, rad, a policy period apart.
            velocity: (m + 1, states) joint velocities, rad/s.
            action: (m, action_size) between them, normalised.
            previous: (action_size,) the one before them, normalised.
        """
        first = 0
        while first < len(action):
            episode = self.episode(position[first:], velocity[first:], action[first:], previous)
            yield episode
            first += len(episode)
            previous = action[first - 1]

    def episode(self, position: np.ndarray, velocity: np.ndarray, action: np.ndarray,
                previous: np.ndarray) -> Columns:
        """Make the first episode of a stretch, as :meth:`build` does."""
        task = self._task
        count = min(task.config.episode_steps, len(action))
        position, velocity = position[:count + 1], velocity[:count + 1]
        goal = self._goal_of(position[-1])
        actions = np.concatenate([previous[None], action[:count]])
        limited = np.clip(actions, -1.0, 1.0).astype(np.float32)
        observation = np.stack([
            task.observe(position[row], velocity[row], limited[row], goal)
            for row in range(len(position))])
        ends = np.flatnonzero(task.terminated(observation[1:]))
        count = int(ends[0]) + 1 if len(ends) else count
        clipped = (np.abs(actions[1:count + 1]) > 1.0 + _TOLERANCE).any(1)
        self._tally.mark(CLIPPED, int(clipped.sum()))
        taken, following = limited[1:count + 1], observation[1:count + 1]
        last = np.arange(count) == count - 1
        terminated = last & bool(len(ends))
        columns = Columns(
            observation=observation[:count], action_requested=taken, action_applied=taken,
            next_observation=following,
            reward=np.asarray(task.reward(np, following.astype(np.float64),
                                          taken.astype(np.float64)), np.float64),
            terminated=terminated, truncated=last & ~terminated, intervened=clipped,
            **unknown(count, self._actor), episode=np.full(count, self._episode, np.int64),
            step=np.arange(count, dtype=np.int64))
        self._episode += 1
        return columns

    def _goal_of(self, end: np.ndarray) -> np.ndarray:
        if self._goal is None:
            return np.zeros(0, np.float32)
        if self._goal.kind == 'fixed':
            return np.asarray(self._goal.values, np.float32)
        if self._goal.kind == 'drawn':
            return np.asarray(self._task.sample_goals(self._rng, 1)[0], np.float32)
        return np.asarray(self._task.tool_points(end), np.float32)


def unknown(rows: int, actor: Source) -> dict[str, np.ndarray]:
    """Give the columns that tell of a policy, for data without one."""
    return {'policy_version': np.zeros((rows, 2), np.int64),
            'log_probability': np.full(rows, np.nan, np.float32),
            'source': np.full(rows, actor, np.uint8)}


def normalised(robot: Any, command: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Turn commands into normalised actions, as the controller does.

    Args:
        robot: configuration.
        command: (m, n) in the order of its joints: mean effort, N m, or velocity, rad/s; or for
            positions the last one of each step, rad.
        position: (m, n) measured joint positions where each step began, rad.
    """
    scale = np.asarray(robot.action_scale)
    return ((command - position) if robot.command_interface == 'position' else command) / scale


def plausible(values: np.ndarray) -> np.ndarray:
    """Say (...) of numbers (..., n) whether all are finite and could have been measured."""
    return np.asarray((np.abs(values) < MOST).all(-1))


def commanded(robot: Any) -> np.ndarray:
    """Give the places (n,) of the commanded joints among those that the driver reports."""
    return np.array([robot.state_names.index(name) for name in robot.joint_names])
