"""What a dataset belongs to: the task, the robot, and how an observation is laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from async_mbrl.core.config import ConfigError, to_mapping

WITHOUT_EFFECT = frozenset({
    'episode_steps', 'reset_s', 'start_half_range', 'goal_half_range', 'goal_center',
    'success_distance_m', 'success_rate', 'coarse_gain', 'fine_gain', 'start_position_noise',
    'start_velocity_noise', 'start_velocity_law', 'criterion', 'success_return'})
"""Settings of tasks that decide which transitions come about, or how they are judged, but not what
one of them is: they may differ where data are put together or learned from. Not so the distance of
success where the reward is sparse: it is that of being so near."""

PARTS = ('position', 'velocity', 'tool', 'previous_action', 'goal')
"""Parts of an observation whose place is told, where a task has them."""

_MOST_SIZE = 1_000_000
_QUOTED = 60


class DatasetError(ConfigError):
    """A dataset, or what one is to be made from, cannot be used; says what, where and a remedy."""

    def __init__(self, what: str) -> None:
        """Say it in one line, whatever foreign text is in it."""
        super().__init__(one_line(what))


@dataclass(frozen=True)
class Identity:
    """Task, robot and layout of the transitions of a dataset, as JSON has them.

    Attributes:
        task: configuration of the task, ``name`` and ``policy_rate_hz`` among it.
        robot: ``name``, ``joint_names``, ``command_interface`` and ``action_scale``.
        observation: ``size``, and (first, end) of those of :data:`PARTS` that the task tells.
    """

    task: Mapping[str, Any]
    robot: Mapping[str, Any]
    observation: Mapping[str, Any]

    @property
    def observation_size(self) -> int:
        """Numbers of an observation."""
        return int(self.observation['size'])

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return len(self.robot['joint_names'])

    @property
    def policy_rate_hz(self) -> float:
        """Transitions a second, Hz."""
        return float(self.task['policy_rate_hz'])

    def part(self, name: str) -> slice | None:
        """Give where a part of an observation lies; None where the task does not tell."""
        place = self.observation.get(name)
        return None if place is None else slice(*place)

    def to_mapping(self) -> dict[str, Any]:
        """Give it for JSON."""
        return {'task': dict(self.task), 'robot': dict(self.robot),
                'observation': dict(self.observation)}

    def differences(self, other: Identity) -> list[str]:
        """Say in what another one differs, one text each; empty where data fit together."""
        mine, theirs = self.to_mapping(), other.to_mapping()
        for task in (mine['task'], theirs['task']):
            sparse = task.get('sparse', False)
            for key in WITHOUT_EFFECT - ({'success_distance_m'} if sparse else set()):
                task.pop(key, None)
        # Of another task or robot everything else differs, too; its name says enough.
        named = [part for part in ('task', 'robot') if mine[part]['name'] != theirs[part]['name']]
        if named:
            mine, theirs = ({part: {'name': whole[part]['name']} for part in named}
                            for whole in (mine, theirs))
        return [f'{key} is {_quoted(old)}, not {_quoted(new)}'
                for key, old, new in _differing(mine, theirs)]

    def require(self, other: Identity, where: str) -> None:
        """Refuse data of another identity.

        Args:
            other: what is wanted.
            where: the dataset, for the message.

        Raises:
            DatasetError: they differ; says in what.
        """
        found = self.differences(other)
        if found:
            raise DatasetError(f'{where}: made with another task or robot: {"; ".join(found)}; use '
                               'data of the same task and robot, or import it again for this one')


def one_line(text: str) -> str:
    """Give a text without line ends and other characters that do not print."""
    return ''.join(character if character.isprintable() else repr(character)[1:-1]
                   for character in text)


def identity_of(task: Any) -> Identity:
    """Give the identity of what a task, as ``make_task`` builds it, would record."""
    robot = task.robot
    return Identity(
        task=to_mapping(task.config),
        robot={'name': robot.name, 'joint_names': list(robot.joint_names),
               'command_interface': robot.command_interface,
               'action_scale': list(robot.action_scale)},
        observation={'size': task.observation_size,
                     **{name: [getattr(task, name).start, getattr(task, name).stop]
                        for name in PARTS if hasattr(task, name)}})


def identity_from_mapping(mapping: Any, where: str) -> Identity:
    """Read what :meth:`Identity.to_mapping` gave, or the description of a journal.

    Raises:
        DatasetError: it is not one.
    """
    try:
        task, robot = dict(mapping['task']), dict(mapping['robot'])
        if 'joint_names' in mapping:        # a journal has them beside the robot
            robot['joint_names'] = mapping['joint_names']
        observation = dict(mapping['observation'])
        if not isinstance(task['name'], str) or not float(task['policy_rate_hz']) > 0.0:
            raise ValueError('task')
        names, scale = robot['joint_names'], robot['action_scale']
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)
                and isinstance(scale, list) and len(scale) == len(names) > 0
                and all(type(value) in (int, float) for value in scale)
                and isinstance(robot['name'], str)
                and isinstance(robot['command_interface'], str)):
            raise ValueError('robot')
        size = observation['size']
        if type(size) is not int or not 0 < size <= _MOST_SIZE:
            raise ValueError(f'observation.size: {size}')
        for name in PARTS:
            if name in observation:
                first, end = observation[name]
                if not (type(first) is type(end) is int and 0 <= first <= end <= size):
                    raise ValueError(f'observation.{name}: {observation[name]}')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f'{where}: does not say which task and robot it is of '
                           f'({str(error)[:_QUOTED]}); it is damaged, or of another '
                           'program') from None
    return Identity(task, robot, observation)


def _differing(old: Any, new: Any, key: str = '') -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differing(old.get(name), new.get(name), f'{key}.{name}' if key else name)
    elif old != new:
        yield key, old, new


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED else f'{text[:_QUOTED]}...'
