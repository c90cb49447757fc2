"""The arguments of a run: one table for ``async-mbrl up``, the launch files and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from async_mbrl.control.settings import TELEOP
from async_mbrl.core.config import ConfigError

PLACES = ('sim', 'real')
"""Where the arm is: in the simulation, or in the room."""


@dataclass(frozen=True)
class Argument:
    """An argument, called ``name:=value`` in launch files and ``--name value`` at the command.

    Attributes:
        name: identifier; underscores become dashes at the command line.
        kind: type of its value.
        default: value if none is given.
        doc: meaning, with unit.
        catalogue: what it is chosen from: ``tasks``, ``algorithms``, ``schedules``, ``places``,
            ``switch``.
    """

    name: str
    kind: type
    default: str
    doc: str
    catalogue: str = ''

    @property
    def flag(self) -> str:
        """Give the option at the command line."""
        return '--' + self.name.replace('_', '-')


ARGUMENTS = (
    Argument('task', str, '', 'What is learned. Empty: the task of the robot, reach for an arm.',
             'tasks'),
    Argument('robot', str, 'arm7', 'The robot that learns it: its name in config/robots of the '
             'package, or the path of a YAML file like those.'),
    Argument('algorithm', str, 'me_ppo', 'How the policy is improved.', 'algorithms'),
    Argument('schedule', str, 'async', 'How collecting and learning take turns: async, side by '
             'side; sync, one after the other, the arm is held meanwhile; interleaved, in smaller '
             'pieces.', 'schedules'),
    Argument('seed', int, '0', 'Seed of everything random in the run, at least 0.'),
    Argument('motion_time', float, '60.0',
             'Time of learning motion after which the run ends, s (resets not counted).'),
    Argument('run_dir', str, '',
             'Folder of the run; one that exists is resumed. Empty: runs/<time>-<task>.'),
    Argument('dataset', str, '', 'Folder of a dataset that model and policy are learned from, '
             'before the arm moves and beside what it does then. Empty: none.'),
    Argument('init_from', str, '', 'Folder of a run, or of a checkpoint in it, whose policy and '
             'model this run begins with. Empty: none.'),
    Argument('real_time_factor', float, '1.0',
             'Seconds of robot time in a second, simulation only; other than 1 with /clock.'),
    Argument('device', str, 'cpu', 'Where model and policy are learned: cpu; cuda, the first GPU '
             'of the machine that learns; cuda:N, another one of its GPUs, counted from 0.'),
    Argument('dry_run', bool, '',
             'Everything runs, but nothing is sent to the arm. Empty: true with a real arm, false '
             'in simulation. false with a real arm makes it move.', 'switch'),
    Argument('takeover', str, '', 'Who may act instead of the policy in learning episodes: joy, a '
             'person with a joystick (sensor_msgs/Joy on topic joy); or the name of a node of '
             'yours that publishes on topic takeover. Empty: nobody.'),
    Argument('set', str, '',
             'Changes of the configuration, separated by ";": key.path=value, for example '
             'task.success_rate=0.9.'),
)
"""Those of a run, wherever the arm is."""

WHERE = Argument('where', str, 'real', 'Whether the arm is real, or simulated on the robot PC.',
                 'places')
"""Told apart by its own argument where one launch file serves both."""


@dataclass(frozen=True)
class RunRequest:
    """What was asked for; None where nothing was given."""

    where: str = 'sim'
    task: str | None = None
    robot: str | None = None
    algorithm: str | None = None
    schedule: str | None = None
    seed: int | None = None
    motion_time: float | None = None
    run_dir: str | None = None
    dataset: str | None = None
    init_from: str | None = None
    real_time_factor: float | None = None
    device: str | None = None
    dry_run: bool | None = None
    takeover: str | None = None
    set: tuple[str, ...] = ()

    @property
    def takeover_node(self) -> str:
        """Name of the node that may take over; empty if none may."""
        return TELEOP if self.takeover == 'joy' else self.takeover or ''


def default(name: str) -> str:
    """Give the default of an argument as text."""
    return next(argument.default for argument in (*ARGUMENTS, WHERE) if argument.name == name)


def parse_request(given: Mapping[str, str | None]) -> RunRequest:
    """Turn the texts of arguments into a request.

    Args:
        given: text by name of the argument; None or a missing name where nothing was given.

    Raises:
        ConfigError: an argument that does not exist, or a text that is not of its type.
    """
    values: dict[str, object] = {}
    table = {argument.name: argument for argument in (*ARGUMENTS, WHERE)}
    for name, text in given.items():
        if name not in table:
            raise ConfigError(f'{name}: unknown argument; there are: {", ".join(table)}')
        if text is None or (text == '' and table[name].default == ''):
            continue
        if name == 'set':
            values[name] = tuple(part.strip() for part in text.split(';') if part.strip())
            continue
        if table[name].kind is bool:
            if text not in ('true', 'false'):
                raise ConfigError(f'{name}: expected true or false, got {text!r}')
            values[name] = text == 'true'
            continue
        try:
            values[name] = table[name].kind(text)
        except ValueError:
            kind = {int: 'a whole number', float: 'a number'}[table[name].kind]
            raise ConfigError(f'{name}: expected {kind}, got {text!r}') from None
    return RunRequest(**values)  # type: ignore[arg-type]
