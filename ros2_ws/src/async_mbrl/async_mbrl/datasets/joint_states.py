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
    Schema,
)
from async_mbrl.datasets.columns import Columns
from async_mbrl.datasets.episodes import EpisodeBuilder
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.mcap import Message
from async_mbrl.datasets.sampling import Sampler
from async_mbrl.datasets.tally import Tally
from async_mbrl.datasets.topic import Topic

JOINT_STATES = 'sensor_msgs/msg/JointState'
COMMANDS = {'std_msgs/msg/Float64MultiArray': FLOAT64_MULTI_ARRAY,
            'trajectory_msgs/msg/JointTrajectory': JOINT_TRAJECTORY}
_POINTS = {'position': 'positions', 'velocity': 'velocities', 'effort': 'effort'}
GAP_S = 1.0
SET_BACK = 'times at which the clock was set back, where a new stretch begins'
SET_BACK_NS = 50_000_000
"""So far the times of one topic go back only where a clock is set."""
_MOST_NS = 2**62


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
        joint_states, commands: topics; None takes those of the robot, and in place of its joint
            states the only ones there are.
        gap_s: a pause of the joint states above this divides the recording, and a command that is
            older counts no more, s.

    Raises:
        DatasetError: no such topics, or joints that the robot has are missing.
    """
    robot = task.robot
    states_topic = bag.find((JOINT_STATES,), robot.joint_states_topic, given=joint_states)
    # Other commands would be taken for what they are not: positions for efforts, say.
    commands_topic = bag.find(tuple(COMMANDS), robot.commands_topic, given=commands,
                              option='--commands')
    tally.note(f'joint states of {states_topic}, commands of {commands_topic}')
    states = _StateReader(robot, f'{bag.path}, topic {states_topic}', tally)
    orders = _CommandReader(robot, bag.topics[commands_topic], f'{bag.path}, topic '
                            f'{commands_topic}', tally)
    sampler = Sampler(task, builder, tally, gap_s)
    last_ns: dict[str, int] = {}
    for batch in bag.batches((states_topic, commands_topic)):
        for place, piece in enumerate(_clocks(batch, last_ns)):
            if place:
                tally.mark(SET_BACK)
                yield from sampler.finish()
            yield from sampler.take(
                *states.read([message for message in piece if message.topic == states_topic]),
                *orders.read([message for message in piece if message.topic == commands_topic]))
    yield from sampler.finish()
    states.require_some()
    orders.require_some()


def _clocks(batch: list[Message], last_ns: dict[str, int]) -> Iterator[list[Message]]:
    """Divide messages, in the order of the file, where the clock was set back.

    Args:
        batch: what was recorded next.
        last_ns: time of the last message of each topic; kept from batch to batch.
    """
    first = 0
    for place, (topic, stamp_ns, _) in enumerate(batch):
        if stamp_ns < last_ns.get(topic, 0) - SET_BACK_NS:
            yield batch[first:place]
            first = place
            last_ns.clear()
        last_ns[topic] = stamp_ns
    yield batch[first:]


def _decoded(topic: Topic, messages: list[Message]
             ) -> Iterator[tuple[np.ndarray, Layout, np.ndarray]]:
    """Give stamps (n,), ns, layout and messages (n,) for each layout among some messages."""
    stamps = np.array([max(0, min(message.stamp_ns, _MOST_NS)) for message in messages], np.int64)
    for places, layout, values in topic.decode([message.data for message in messages]):
        yield stamps[places], layout, values


class _Reader:
    """What the readers of both topics share: what they do where messages do not fit the robot."""

    def __init__(self, schema: Schema, robot: Any, where: str, tally: Tally) -> None:
        self._topic = Topic(schema, where, tally)
        self._tally = tally
        self._robot = robot
        self._any = False
        self._first_flaw = ''

    def _fits(self, flaw: str, count: int) -> bool:
        """Say whether messages fit; where they all do not, it is no damage but the wrong robot."""
        if not flaw:
            self._any = True
            return True
        if not self._any and not self._tally.skip_damaged:
            raise DatasetError(flaw)
        self._first_flaw = self._first_flaw or flaw
        self._tally.damaged(flaw)
        self._tally.leave_out('damaged messages', count)
        return False

    def require_some(self) -> None:
        """Refuse a topic of which no message fits."""
        if not self._any and self._first_flaw:
            raise DatasetError(self._first_flaw)


class _StateReader(_Reader):
    """Positions and velocities of the robot's joints, by name."""

    def __init__(self, robot: Any, where: str, tally: Tally) -> None:
        super().__init__(JOINT_STATE, robot, where, tally)
        self._names: tuple[str, ...] = tuple(robot.state_names)
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
            if not self._fits(self._flaw(names, missing, layout), len(times)):
                continue
            order = [names.index(name) for name in self._names]
            stamps.append(times)
            states.append(np.stack([values['position'][:, order], values['velocity'][:, order]],
                                   1).astype(np.float64))
        return np.concatenate(stamps), np.concatenate(states)

    def _flaw(self, names: tuple[str, ...], missing: list[str], layout: Layout) -> str:
        """Say what is wrong with joint states; empty if nothing is."""
        if missing:
            return (f'{self._topic.where}: joints {missing} of robot {self._robot.name} are '
                    f'missing; there are: {", ".join(names)[:300]}')
        for part in ('position', 'velocity'):
            if layout.lengths[part] != len(names):
                return (f'{self._topic.where}: {layout.lengths[part]} numbers of {part} for '
                        f'{len(names)} joints; both positions and velocities are needed')
        return ''

    def require_some(self) -> None:
        """Refuse a topic that never had the robot's joints."""
        super().require_some()
        if not self._any:
            there = f'there are: {", ".join(sorted(self._others))[:300]}' if self._others else (
                'it has no message')
            raise DatasetError(f'{self._topic.where}: no joint of robot {self._robot.name}; '
                               f'{there}')


class _CommandReader(_Reader):
    """Commands in the order of the robot's joints."""

    def __init__(self, robot: Any, kind: str, where: str, tally: Tally) -> None:
        super().__init__(COMMANDS[kind], robot, where, tally)
        self._trajectory = COMMANDS[kind] is JOINT_TRAJECTORY
        self._part = f'points.0.{_POINTS[robot.command_interface]}'
        self._order = np.array([(robot.command_joint_names or robot.joint_names).index(name)
                                for name in robot.joint_names])

    def read(self, messages: list[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Give stamps (n,), ns, and commands (n, joints)."""
        stamps = [np.zeros(0, np.int64)]
        commands = [np.zeros((0, self._robot.joints))]
        for times, layout, values in _decoded(self._topic, messages):
            if self._trajectory and not layout.lengths['points']:
                self._tally.leave_out('empty trajectories', len(times))
                continue
            if not self._fits(self._flaw(layout), len(times)):
                continue
            if self._trajectory:
                names = layout.texts['joint_names']
                found = values[self._part][:, [names.index(name)
                                               for name in self._robot.joint_names]]
            else:
                found = values['data'][:, self._order]
            stamps.append(times)
            commands.append(found.astype(np.float64))
        return np.concatenate(stamps), np.concatenate(commands)

    def _flaw(self, layout: Layout) -> str:
        """Say what is wrong with commands; empty if nothing is."""
        robot, where = self._robot, self._topic.where
        if not self._trajectory:
            count = layout.lengths['data']
            return '' if count == robot.joints else (
                f'{where}: commands of {count} numbers, but robot {robot.name} has {robot.joints} '
                'joints')
        names = layout.texts['joint_names']
        missing = [name for name in robot.joint_names if name not in names]
        if missing:
            return (f'{where}: joints {missing} of robot {robot.name} are missing; there are: '
                    f'{", ".join(names)[:300]}')
        if layout.lengths['points'] != 1:
            return (f'{where}: a trajectory of {layout.lengths["points"]} points; only commands '
                    'that are streamed, one point each, say what was asked when')
        if layout.lengths[self._part] != len(names):
            return (f'{where}: {layout.lengths[self._part]} numbers of {self._part} for '
                    f'{len(names)} joints, but robot {robot.name} takes {robot.command_interface}')
        return ''
