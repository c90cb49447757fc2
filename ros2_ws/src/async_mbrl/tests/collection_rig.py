"""What the tests of collecting share: a task, and a controller that follows a script."""

from __future__ import annotations

import functools
from typing import Any

import arm7
import numpy as np

from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import ControlStep, EpisodeCommand, StepKind
from async_mbrl.tasks import make_task

VERSION = Version(1, 4)


@functools.cache
def task(**changes: Any) -> Any:
    """The reach task of the demo arm, with short episodes."""
    return make_task(arm7.task(**{'episode_steps': 4, **changes}), arm7.robot())


def observation(task: Any, command: EpisodeCommand, step: int, *, at_goal: bool = False
                ) -> np.ndarray:
    """An observation that tells episode and step apart; on request with the tool at the goal."""
    value = np.full(task.observation_size, 0.01 * command.episode + 0.001 * step, np.float32)
    value[task.goal] = command.goal
    value[task.tool] = command.goal if at_goal else command.goal + np.float32(0.1)
    return value


def episode(task: Any, command: EpisodeCommand, *, version: Version = VERSION,
            abort_at: int | None = None, at_goal: bool = False) -> list[ControlStep]:
    """What a controller reports of an episode: MOVE_DONE, STEP ..., END; ABORTED at a step.

    ``abort_at`` -1 aborts the move.
    """
    def event(kind: StepKind, step: int, **more: Any) -> ControlStep:
        return ControlStep(kind, 100.0 + 0.1 * step, command.number, command.episode, step,
                           command.mode, **more)

    if abort_at == -1:
        return [event(StepKind.ABORTED, 0, reason='the arm is stuck')]
    events = [event(StepKind.MOVE_DONE, 0)]
    for step in range(command.steps + 1):
        after: dict[str, Any] = {
            'observation': observation(task, command, step, at_goal=at_goal),
            'previous_action_applied': applied(task, step - 1), 'previous_intervened': step == 2}
        if step == abort_at:
            return [*events, event(StepKind.ABORTED, step, reason='joint states are stale',
                                   **after)]
        if step == command.steps:
            return [*events, event(StepKind.END, step, **after)]
        events.append(event(
            StepKind.STEP, step, **after, policy_version=version, log_probability=-0.5,
            action_requested=np.full(task.action_size, 0.1 * step, np.float32)))
    raise AssertionError('unreachable')


def applied(task: Any, step: int) -> np.ndarray:
    """The action applied in a step, not quite the one asked for."""
    return np.full(task.action_size, 0.1 * step + 0.05, np.float32)
