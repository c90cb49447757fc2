"""Joint states and commands as they were recorded, sampled a policy period apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.episodes import (
    NOT_KNOWN_BEFORE,
    EpisodeBuilder,
    commanded,
    normalised,
    plausible,
)
from async_mbrl.datasets.tally import Tally

LATE = 'messages that stand too far behind newer ones'
LATE_NS = 500_000_000
"""A message may stand behind others that are newer by so much; a recorder gathers them so."""

_HELD = 1e-6
"""Share of a step for which something must have been held to count; less is rounding."""
_NEVER_NS = 2**63 - 1


class Sampler:
    """Samples both streams of one clock; keeps what the next sample needs, no more."""

    _times: np.ndarray
    _states: np.ndarray
    _command_times: np.ndarray
    _commands: np.ndarray
    _passed_ns: int

    def __init__(self, task: Any, builder: EpisodeBuilder, tally: Tally, gap_s: float) -> None:
        """Begin with nothing recorded.

        Args:
            task: gives the policy rate; its robot the age at which joint states are not fresh.
            builder: makes episodes of stretches without gaps.
            tally: told of what is left out.
            gap_s: a pause of the joint states above this divides the recording, and a command that
                is older counts no more, s.
        """
        robot = task.robot
        self._robot = robot
        self._builder = builder
        self._tally = tally
        self._period_ns = round(1e9 / task.config.policy_rate_hz)
        self._fresh_ns = round(robot.state_timeout_s * 1e9)
        self._gap_ns = max(round(gap_s * 1e9), self._fresh_ns)
        # One command for each step is enough, however slow the policy is.
        self._held_ns = max(round(gap_s * 1e9), 2 * self._period_ns)
        self._commanded = commanded(robot)
        self._last_command = robot.command_interface == 'position'
        self._most = task.config.episode_steps
        self._actions: list[np.ndarray] = []
        self._stretch: list[np.ndarray] = []
        self._forget_all()

    def take(self, times: np.ndarray, states: np.ndarray, command_times: np.ndarray,
             commands: np.ndarray) -> Iterator[Columns]:
        """Take what was recorded next; give what is complete.

        Args:
            times: (n,) of joint states, ns.
            states: (n, 2, joints): position, velocity.
            command_times: (m,) of commands, ns.
            commands: (m, joints), in the order of the robot's joints.
        """
        late = times < self._passed_ns
        self._tally.leave_out(LATE, int(late.sum()) + int((command_times < self._passed_ns).sum()))
        self._times, self._states = _merged(self._times, self._states, times[~late], states[~late])
        # A command that comes late still is what is held from now on, if no other followed it.
        self._command_times, self._commands = _merged(self._command_times, self._commands,
                                                      command_times, commands)
        newest = [int(known[-1]) for known in (self._times, self._command_times) if len(known)]
        if newest:
            yield from self._until(max(newest) - LATE_NS)

    def finish(self) -> Iterator[Columns]:
        """Give all that is left; what is taken next is of another clock."""
        if len(self._times):
            yield from self._until(int(self._times[-1]))
        yield from self._rest()
        self._forget_all()

    def _forget_all(self) -> None:
        robot = self._robot
        self._times = np.zeros(0, np.int64)
        self._states = np.zeros((0, 2, robot.states))
        self._command_times = np.zeros(0, np.int64)
        self._commands = np.zeros((0, robot.joints))
        self._passed_ns = -_NEVER_NS
        """What is older comes too late."""
        self._sampled_ns: int | None = None
        """Time of the sample taken last; None: the next joint state begins a stretch."""
        self._before: np.ndarray | None = None
        """That sample, (2, joints); None if it was not fresh."""
        self._previous: np.ndarray | None = None
        """Action of the step that led to it; None if it is not known."""
        self._first: np.ndarray | None = None
        """The one before the first of ``_actions``."""

    def _until(self, limit_ns: int) -> Iterator[Columns]:
        """Sample up to a time before which everything is there."""
        end = 0
        while len(self._times):
            end = int(np.searchsorted(self._times, limit_ns, 'right'))
            gaps = np.flatnonzero(np.diff(self._times[:end]) > self._gap_ns)
            end = int(gaps[0]) + 1 if len(gaps) else end
            if end:
                yield from self._sample(int(self._times[end - 1]), end)
            if not len(gaps) and not (end and limit_ns - self._times[end - 1] > self._gap_ns):
                break
            yield from self._rest()
            self._times, self._states = self._times[end:], self._states[end:]
        passed_ns = limit_ns if self._sampled_ns is None else self._sampled_ns
        self._passed_ns = max(self._passed_ns, passed_ns)
        self._forget(passed_ns)

    def _forget(self, passed_ns: int) -> None:
        """Keep what is newest at a time, and all after it; of commands also of the step before."""
        first = _newest(self._times, passed_ns) if self._sampled_ns is not None else 0
        self._times, self._states = self._times[first:].copy(), self._states[first:].copy()
        first = _newest(self._command_times, passed_ns - self._period_ns)
        self._command_times = self._command_times[first:].copy()
        self._commands = self._commands[first:].copy()

    def _sample(self, until_ns: int, end: int) -> Iterator[Columns]:
        """Take the samples up to a time, from the first ``end`` joint states."""
        if self._sampled_ns is None:
            begin_ns = self._sampled_ns = int(self._times[0])
            self._before = self._states[0]
            command, _ = self._command(np.array([begin_ns - self._period_ns, begin_ns]))
            # What a position command meant depends on where the joints were, which is not known.
            self._previous = self._action(None, command[0])
        due = np.arange(self._sampled_ns, until_ns + 1, self._period_ns)
        if len(due) < 2:
            return
        places = np.searchsorted(self._times[:end], due, 'right') - 1
        commands, flaws = self._command(due)
        for row in range(1, len(due)):
            place = places[row]
            fresh = place >= 0 and due[row] - self._times[place] <= self._fresh_ns
            state = self._states[place] if fresh else None
            yield from self._step(state, commands[row - 1], str(flaws[row - 1]))
        self._sampled_ns = int(due[-1])

    def _step(self, state: np.ndarray | None, command: np.ndarray, flaw: str) -> Iterator[Columns]:
        """Add a step; ``flaw`` says what is wrong with its command."""
        before, self._before = self._before, state
        action = self._action(before, command)
        previous, self._previous = self._previous, action
        if before is None or state is None:
            flaw = 'without fresh joint states'
        elif not flaw and (action is None or not (plausible(before).all()
                                                  and plausible(state).all())):
            flaw = 'not finite'
        elif not flaw and previous is None:
            flaw = NOT_KNOWN_BEFORE
        if flaw:
            self._tally.leave_out(flaw)
            yield from self._flush()
            return
        assert before is not None and state is not None and action is not None
        if not self._actions:
            self._stretch, self._first = [before], previous
        self._actions.append(action)
        self._stretch.append(state)
        if len(self._actions) == self._most:
            # Where it ends the builder decides; what it does not take begins the next one.
            episode = self._builder.episode(*self._gathered())
            yield episode
            self._first = self._actions[len(episode) - 1]
            del self._actions[:len(episode)], self._stretch[:len(episode)]

    def _action(self, before: np.ndarray | None, command: np.ndarray) -> np.ndarray | None:
        """Give the normalised action of a step; None where it is not known."""
        if not plausible(command):
            return None
        if not self._last_command:
            return normalised(self._robot, command, np.zeros_like(command))
        if before is None or not plausible(before).all():
            return None
        return normalised(self._robot, command, before[0, self._commanded])

    def _gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        assert self._first is not None
        states = np.stack(self._stretch)
        return states[:, 0], states[:, 1], np.stack(self._actions), self._first

    def _flush(self) -> Iterator[Columns]:
        if self._actions:
            yield from self._builder.build(*self._gathered())
        self._actions, self._stretch = [], []

    def _rest(self) -> Iterator[Columns]:
        """End the stretch; give what it was."""
        yield from self._flush()
        self._sampled_ns = self._before = self._previous = None

    def _command(self, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the command (m, n) of each step between (m + 1,) times, and what is wrong (m,).

        A driver holds a command until the next one, so the mean over a step weighs each with its
        time. Positions count by where the last one led. Where something is wrong, the command is
        not finite.
        """
        times, commands = self._command_times, self._commands
        steps = len(due) - 1
        if not len(times):
            return np.full((steps, self._robot.joints), np.nan), np.full(steps, 'without commands')
        if self._last_command:
            places = np.searchsorted(times, due[1:], 'left') - 1
            until = due[1:]
            found = commands[np.maximum(places, 0)]
        else:
            places = np.searchsorted(times, due, 'right') - 1
            found = self._mean(due, places)
            places = places[:-1]
            until = np.minimum(due[1:], np.append(times, _NEVER_NS)[places + 1])
        none = places < 0
        stale = until - times[np.maximum(places, 0)] > self._held_ns
        found = np.where((none | stale)[:, None], np.nan, found)
        return found, np.select([none, stale], ['without commands', 'without fresh commands'], '')

    def _mean(self, due: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Give the mean command (m, n) of each step; ``places`` of commands held at its edges."""
        times = self._command_times
        # What is not finite must not spoil the sums for all that follows: it counts in a column of
        # its own, and makes not finite only the steps in which it was held.
        bad = ~plausible(self._commands)[:, None]
        commands = np.concatenate([np.where(bad, 0.0, self._commands), bad], 1)
        held_s = np.diff(times, append=times[-1])[:, None] * 1e-9
        sums = np.concatenate([np.zeros((1, commands.shape[1])), np.cumsum(commands * held_s, 0)])
        safe = np.maximum(places, 0)
        integral = sums[safe] + commands[safe] * ((due - times[safe]) * 1e-9)[:, None]
        mean = np.diff(integral, axis=0) / (self._period_ns * 1e-9)
        mean[mean[:, -1] > _HELD] = np.nan
        return np.asarray(mean[:, :-1])


def _newest(times: np.ndarray, at_ns: int) -> int:
    """Give the place of what is newest at a time, or of the first."""
    return max(0, int(np.searchsorted(times, at_ns, 'right')) - 1)


def _merged(times: np.ndarray, values: np.ndarray, more_times: np.ndarray,
            more_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put what came after what is kept, in the order of time."""
    times = np.concatenate([times, more_times])
    values = np.concatenate([values, more_values])
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind='stable')
        return times[order], values[order]
    return times, values
