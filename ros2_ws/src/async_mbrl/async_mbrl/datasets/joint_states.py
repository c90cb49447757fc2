"""Import of any bag with joint states and commands: sampled at the policy rate of a task.

The times are those at which messages were recorded, the one clock that both topics share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from async_mbrl.datasets.bags import Bag
from async_mbrl.datasets.cdr import (
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    Layout,
)
from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.episodes import EpisodeBuilder, commanded, normalised, plausible
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.mcap import Message
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.topic import Topic

JOINT_STATES = 'sensor_msgs/msg/JointState'
COMMANDS = {'std_msgs/msg/Float64MultiArray': FLOAT64_MULTI_ARRAY,
            'trajectory_msgs/msg/JointTrajectory': JOINT_TRAJECTORY}
_POINTS = {'position': 'positions', 'velocity': 'velocities', 'effort': 'effort'}
GAP_S = 1.0
SET_BACK = 'times at which the clock was set back, where a new stretch begins'
_MOST_NS = 2**62
_HELD = 1e-6
"""Share of a step for which something must have been held to count; less is rounding."""


def read_joint_states(bag: Bag, task: Any, builder: EpisodeBuilder, tally: Tally, *,
                      joint_states: str | None = None, commands: str | None = None,
                      gap_s: float = GAP_S) -> Iterator[Columns]:
    """Make transitions out of joint states and commands.

    Args:
        bag: the recording.
        task: gives the policy rate; its robot the joints, the meaning of commands, and the age at
            which joint states are no longer fresh.
        builder: makes episodes of what was sampled.
        tally: told of what is left out.
        joint_states, commands: topics; None takes those of the robot, or the only ones there are.
        gap_s: a pause of the joint states above this divides the recording, s.

    Raises:
        DatasetError: no such topics, or joints that the robot has are missing.
    """
    robot = task.robot
    states_topic = bag.find((JOINT_STATES,), joint_states or robot.joint_states_topic)
    commands_topic = bag.find(tuple(COMMANDS), commands or robot.commands_topic)
    states = _StateReader(robot, f'{bag.path}, topic {states_topic}', tally)
    orders = _CommandReader(robot, bag.topics[commands_topic], f'{bag.path}, topic '
                            f'{commands_topic}', tally)
    sampler = _Sampler(task, builder, tally, gap_s)
    for batch in bag.batches((states_topic, commands_topic)):
        yield from sampler.take(
            *states.read([message for message in batch if message.topic == states_topic]),
            *orders.read([message for message in batch if message.topic == commands_topic]))
    yield from sampler.rest()
    states.require_some()


def _decoded(topic: Topic, messages: list[Message]
             ) -> Iterator[tuple[np.ndarray, Layout, np.ndarray]]:
    """Give stamps (n,), ns, layout and messages (n,) for each layout among some messages."""
    stamps = np.array([min(message.stamp_ns, _MOST_NS) for message in messages], np.int64)
    for places, layout, values in topic.decode([message.data for message in messages]):
        yield stamps[places], layout, values


class _StateReader:
    """Positions and velocities of the robot's joints, by name."""

    def __init__(self, robot: Any, where: str, tally: Tally) -> None:
        self._topic = Topic(JOINT_STATE, where, tally)
        self._tally = tally
        self._names: tuple[str, ...] = tuple(robot.state_names)
        self._robot = robot.name
        self._any = False
        self._others: set[str] = set()

    def read(self, messages: list[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Give stamps (n,), ns, and states (n, 2, joints): position, velocity."""
        stamps = [np.zeros(0, np.int64)]
        states = [np.zeros((0, 2, len(self._names)))]
        for times, layout, values in _decoded(self._topic, messages):
            names = layout.texts['name']
            missing = [name for name in self._names if name not in names]
            if len(missing) == len(self._names):      # of a gripper, say, on the same topic
                self._others.update(names)
                self._tally.leave_out('joint states of other joints', len(times))
                continue
            flaw = self._flaw(names, missing, layout)
            if flaw and not self._any:
                raise DatasetError(flaw)
            if flaw:
                self._tally.damaged(flaw)
                self._tally.leave_out('damaged messages', len(times))
                continue
            order = [names.index(name) for name in self._names]
            stamps.append(times)
            states.append(np.stack([values['position'][:, order], values['velocity'][:, order]],
                                   1).astype(np.float64))
            self._any = True
        return np.concatenate(stamps), np.concatenate(states)

    def _flaw(self, names: tuple[str, ...], missing: list[str], layout: Layout) -> str:
        """Say what is wrong with joint states; empty if nothing is."""
        if missing:
            return (f'{self._topic.where}: joints {missing} of robot {self._robot} are missing; '
                    f'there are: {", ".join(names)[:300]}')
        for part in ('position', 'velocity'):
            if layout.lengths[part] != len(names):
                return (f'{self._topic.where}: {layout.lengths[part]} numbers of {part} for '
                        f'{len(names)} joints; both positions and velocities are needed')
        return ''

    def require_some(self) -> None:
        """Refuse a topic that never had the robot's joints."""
        if not self._any:
            there = f'there are: {", ".join(sorted(self._others))[:300]}' if self._others else (
                'it has no message')
            raise DatasetError(f'{self._topic.where}: no joint of robot {self._robot}; {there}')


class _CommandReader:
    """Commands in the order of the robot's joints."""

    def __init__(self, robot: Any, kind: str, where: str, tally: Tally) -> None:
        self._topic = Topic(COMMANDS[kind], where, tally)
        self._tally = tally
        self._robot = robot
        self._trajectory = COMMANDS[kind] is JOINT_TRAJECTORY
        self._order = np.array([(robot.command_joint_names or robot.joint_names).index(name)
                                for name in robot.joint_names])

    def read(self, messages: list[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Give stamps (n,), ns, and commands (n, joints)."""
        stamps = [np.zeros(0, np.int64)]
        commands = [np.zeros((0, self._robot.joints))]
        for times, layout, values in _decoded(self._topic, messages):
            if self._trajectory:
                if not layout.lengths['points']:
                    self._tally.leave_out('empty trajectories', len(times))
                    continue
                found = self._point(layout, values)
            else:
                if layout.lengths['data'] != self._robot.joints:
                    raise DatasetError(f'{self._topic.where}: commands of '
                                       f'{layout.lengths["data"]} numbers, but robot '
                                       f'{self._robot.name} has {self._robot.joints} joints')
                found = values['data'][:, self._order]
            stamps.append(times)
            commands.append(found.astype(np.float64))
        return np.concatenate(stamps), np.concatenate(commands)

    def _point(self, layout: Layout, values: np.ndarray) -> np.ndarray:
        names, robot = layout.texts['joint_names'], self._robot
        part = f'points.0.{_POINTS[robot.command_interface]}'
        missing = [name for name in robot.joint_names if name not in names]
        if missing:
            raise DatasetError(f'{self._topic.where}: joints {missing} of robot {robot.name} are '
                               f'missing; there are: {", ".join(names)[:300]}')
        if layout.lengths['points'] != 1:
            raise DatasetError(f'{self._topic.where}: a trajectory of {layout.lengths["points"]} '
                               'points; only commands that are streamed, one point each, say what '
                               'was asked when')
        if layout.lengths[part] != len(names):
            raise DatasetError(f'{self._topic.where}: {layout.lengths[part]} numbers of {part} for '
                               f'{len(names)} joints, but robot {robot.name} takes '
                               f'{robot.command_interface}')
        return values[part][:, [names.index(name) for name in robot.joint_names]]


class _Sampler:
    """Samples both streams a policy period apart; keeps what the next sample needs, no more."""

    def __init__(self, task: Any, builder: EpisodeBuilder, tally: Tally, gap_s: float) -> None:
        robot = task.robot
        self._robot = robot
        self._builder = builder
        self._tally = tally
        self._period_ns = round(1e9 / task.config.policy_rate_hz)
        self._fresh_ns = round(robot.state_timeout_s * 1e9)
        self._gap_ns = max(round(gap_s * 1e9), self._fresh_ns)
        self._commanded = commanded(robot)
        self._last_command = robot.command_interface == 'position'
        self._times = np.zeros(0, np.int64)
        self._states = np.zeros((0, 2, robot.states))
        self._command_times = np.zeros(0, np.int64)
        self._commands = np.zeros((0, robot.joints))
        self._sampled_ns: int | None = None
        """Time of the sample taken last; None: the next joint state begins a stretch."""
        self._before: np.ndarray | None = None
        """That sample, (2, joints); None if it was not fresh."""
        self._stretch: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._most = task.config.episode_steps

    def take(self, times: np.ndarray, states: np.ndarray, command_times: np.ndarray,
             commands: np.ndarray) -> Iterator[Columns]:
        """Take what was recorded next; give what is complete."""
        before = np.concatenate([self._times[-1:], times])
        back = np.flatnonzero(np.diff(before) < -self._gap_ns) + 1 - (len(before) - len(times))
        edges = [0, *back.tolist(), len(times)]
        for place, (begin, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            if place:
                self._tally.mark(SET_BACK)
                yield from self.rest()
                self._times, self._states = self._times[:0], self._states[:0]
                self._command_times, self._commands = self._command_times[:0], self._commands[:0]
            yield from self._take(times[begin:end], states[begin:end], command_times, commands)

    def _take(self, times: np.ndarray, states: np.ndarray, command_times: np.ndarray,
              commands: np.ndarray) -> Iterator[Columns]:
        self._times, self._states = _merged(self._times, self._states, times, states)
        self._command_times, self._commands = _merged(self._command_times, self._commands,
                                                      command_times, commands)
        while len(self._times):
            gaps = np.flatnonzero(np.diff(self._times) > self._gap_ns)
            end = int(gaps[0]) + 1 if len(gaps) else len(self._times)
            yield from self._sample(int(self._times[end - 1]), end)
            if not len(gaps):
                break
            yield from self.rest()
            self._times, self._states = self._times[end:], self._states[end:]
        self._forget()

    def rest(self) -> Iterator[Columns]:
        """End the stretch; give what it was."""
        yield from self._flush()
        self._sampled_ns = self._before = None

    def _sample(self, until_ns: int, end: int) -> Iterator[Columns]:
        """Take the samples up to a time, from the first ``end`` joint states."""
        if self._sampled_ns is None:
            self._sampled_ns = int(self._times[0])
            self._before = self._states[0]
            self._stretch = [self._states[0]]
        due = np.arange(self._sampled_ns, until_ns + 1, self._period_ns)
        if len(due) < 2:
            return
        places = np.searchsorted(self._times[:end], due, 'right') - 1
        commands, known = self._command(due)
        for row in range(1, len(due)):
            place = places[row]
            fresh = place >= 0 and due[row] - self._times[place] <= self._fresh_ns
            state = self._states[place] if fresh else None
            yield from self._step(state, commands[row - 1], bool(known[row - 1]))
        self._sampled_ns = int(due[-1])

    def _step(self, state: np.ndarray | None, command: np.ndarray,
              known: bool) -> Iterator[Columns]:
        before, self._before = self._before, state
        reason = ''
        if before is None or state is None:
            reason = 'without fresh joint states'
        elif not known:
            reason = 'without commands'
        elif not (plausible(before).all() and plausible(state).all() and plausible(command)):
            reason = 'not finite'
        if reason:
            self._tally.leave_out(reason)
            yield from self._flush()
            self._stretch = [] if state is None else [state]
            return
        assert before is not None and state is not None
        self._actions.append(normalised(self._robot, command, before[0, self._commanded]))
        self._stretch.append(state)
        if len(self._actions) == self._most:
            yield from self._flush()
            self._stretch = [state]

    def _flush(self) -> Iterator[Columns]:
        if self._actions:
            states = np.stack(self._stretch)
            yield from self._builder.build(states[:, 0], states[:, 1], np.stack(self._actions))
        self._actions, self._stretch = [], []

    def _command(self, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the command (m, n) of each step between (m + 1,) times, and (m,) if there was one.

        A driver holds a command until the next one, so the mean over a step weighs each with its
        time. Positions count by where the last one led.
        """
        times, commands = self._command_times, self._commands
        if not len(times):
            return np.zeros((len(due) - 1, self._robot.joints)), np.zeros(len(due) - 1, bool)
        if self._last_command:
            places = np.searchsorted(times, due[1:], 'left') - 1
            return commands[np.maximum(places, 0)], places >= 0
        # What is not finite must not spoil the sums for all that follows: it counts in a column of
        # its own, and makes not finite only the steps in which it was held.
        bad = ~plausible(commands)[:, None]
        commands = np.concatenate([np.where(bad, 0.0, commands), bad], 1)
        held_s = np.diff(times, append=times[-1])[:, None] * 1e-9
        sums = np.concatenate([np.zeros((1, commands.shape[1])), np.cumsum(commands * held_s, 0)])
        places = np.searchsorted(times, due, 'right') - 1
        safe = np.maximum(places, 0)
        integral = sums[safe] + commands[safe] * ((due - times[safe]) * 1e-9)[:, None]
        mean = np.diff(integral, axis=0) / (self._period_ns * 1e-9)
        mean[mean[:, -1] > _HELD] = np.nan
        return mean[:, :-1], places[:-1] >= 0

    def _forget(self) -> None:
        """Keep what is newest at the last sample, and all after it."""
        if self._sampled_ns is None:    # joint states come later, and so only one command counts
            self._command_times, self._commands = self._command_times[-1:], self._commands[-1:]
            return
        for times, values in (('_times', '_states'), ('_command_times', '_commands')):
            first = max(0, int(np.searchsorted(getattr(self, times), self._sampled_ns,
                                               'right')) - 1)
            setattr(self, values, getattr(self, values)[first:].copy())
            setattr(self, times, getattr(self, times)[first:].copy())


def _merged(times: np.ndarray, values: np.ndarray, more_times: np.ndarray,
            more_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put what came after what is kept, in the order of time."""
    times = np.concatenate([times, more_times])
    values = np.concatenate([values, more_values])
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind='stable')
        return times[order], values[order]
    return times, values
