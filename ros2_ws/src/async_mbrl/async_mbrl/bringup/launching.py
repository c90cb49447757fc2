"""The nodes of a run as actions of ``launch_ros``, for the launch files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    Shutdown,
    TimerAction,
)
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import (
    ARGUMENTS,
    PLACES,
    WHERE,
    Argument,
    parse_request,
)
from async_mbrl.bringup.checks import check_beginning
from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.domain import DomainClaim
from async_mbrl.bringup.folder import OpenRun, open_run, start_lines
from async_mbrl.bringup.graph import (
    LEARNERS,
    NODES,
    ROBOT,
    NodeDescription,
    describe,
    write_parameters,
)
from async_mbrl.bringup.supervisor import CONFIG_STATUS
from async_mbrl.bringup.transport import keep_to_this_machine
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.core.schedule import SCHEDULES

RESPAWN_DELAY_S = 0.5

_open_runs: list[tuple[OpenRun, DomainClaim]] = []
"""Keeps the locks of run folder and ROS domain until the launch process ends."""


@dataclass(frozen=True)
class GraphFile:
    """What a launch file starts.

    Attributes:
        nodes: names of the nodes, those that the run has.
        where: ``sim`` or ``real``; None for a file with an argument ``where``.
        subnet: whether the nodes look for others on other machines, unless the environment says.
    """

    nodes: tuple[str, ...] = NODES
    where: str | None = None
    subnet: bool = False

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Arguments of the file, each with the default that it has there."""
        shown = {'real': 'true', 'sim': 'false', None: ''}[self.where]
        listed = [replace(argument, default=shown) if argument.name == 'dry_run' else argument
                  for argument in ARGUMENTS
                  if argument.name != 'real_time_factor' or self.where != 'real']
        return (*(() if self.where else (WHERE,)), *listed)


SIM = GraphFile(where='sim')
REAL_ARM = GraphFile(where='real')
ROBOT_PC = GraphFile(nodes=ROBOT, subnet=True)
WORKSTATION = GraphFile(nodes=LEARNERS, subnet=True)


def graph(file: GraphFile, share: Path) -> list[Any]:
    """Give the actions of a launch file that runs a graph or its part, arguments included."""
    given: set[str] = set()

    def note(context: LaunchContext) -> list[Any]:
        """Tell what was given from what is filled in: the declarations come after this."""
        given.update(argument.name for argument in file.arguments
                     if argument.name in context.launch_configurations)
        return []

    return [OpaqueFunction(function=note),
            *(declare(argument, share) for argument in file.arguments),
            OpaqueFunction(function=start, args=[file, given])]


def declare(argument: Argument, share: Path) -> DeclareLaunchArgument:
    """Give the declaration of an argument, with what it may be chosen from."""
    catalogues: dict[str, Callable[[Path], Sequence[str]]] = {
        'tasks': lambda folder: ('', *resources.tasks(folder)),
        'algorithms': resources.algorithms, 'schedules': lambda _: SCHEDULES,
        'places': lambda _: PLACES,
        'switch': lambda _: ('true', 'false', *(() if argument.default else ('',)))}
    choices = catalogues[argument.catalogue](share) if argument.catalogue else None
    return DeclareLaunchArgument(argument.name, default_value=argument.default,
                                 description=argument.doc, choices=choices)


def start(context: LaunchContext, file: GraphFile, given: Set[str]) -> list[Any]:
    """Open the run that the launch arguments ask for and give the actions that start it.

    Args:
        context: of the launch.
        file: what is started here.
        given: names of the arguments that were given; a resumed run keeps what the others say.

    Raises:
        RuntimeError: the configuration does not fit; launch says why and ends with status 1.
    """
    from async_mbrl.ros.robot_description import robot_description

    values: dict[str, str | None] = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        if argument.name in given else None for argument in file.arguments}
    # Where the arm is does not depend on what a resumed run says.
    values['where'] = file.where or LaunchConfiguration('where').perform(context)
    if file.subnet:
        os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    elif values['where'] == 'sim':
        keep_to_this_machine(os.environ, resources.share_folder())
    domain = DomainClaim(file.nodes)

    def check(composition: Composition) -> None:
        if set(file.nodes) & set(LEARNERS):     # else they learn on another machine
            check_beginning(composition)
        domain.claim_for(composition)

    try:
        run = open_run(parse_request(values), resources.share_folder(), Path.cwd(),
                       datetime.now(), check, robot_description)
    except ConfigError as error:
        raise RuntimeError(str(error)) from None
    _open_runs.append((run, domain))
    descriptions = describe(run.composition, file.nodes)
    files = write_parameters(descriptions, run.folder.root / 'params')
    return [*(LogInfo(msg=line) for line in start_lines(run, 'controller' in file.nodes)),
            *actions(descriptions, files, run.folder.root)]


def actions(descriptions: Sequence[NodeDescription], files: Mapping[str, Path],
            root: Path) -> list[Node]:
    """Turn descriptions of nodes into actions.

    Args:
        descriptions: the nodes.
        files: parameter file by name of the node.
        root: folder of the run, for what is said at its end.
    """
    return [action(item, files[item.name], root) for item in descriptions]


def action(item: NodeDescription, file: Path, root: Path) -> Node:
    """Turn the description of a node into an action; arguments as for :func:`actions`."""
    return Node(
        package=resources.PACKAGE, executable=item.executable, name=item.name,
        parameters=[str(file)], output='screen', emulate_tty=True,
        additional_env=dict(item.env),
        on_exit=on_exit(item.name, root) if item.required else again(item, file, root))


def again(item: NodeDescription, file: Path, root: Path) -> Any:
    """Give the handler of the exit of a learner, which starts it again unless it is done.

    What ``respawn`` of launch would do at every exit, also of one that has finished.
    """

    def handle(event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown or event.returncode == 0 or not item.respawn:
            return []
        if event.returncode == CONFIG_STATUS:
            return [OpaqueFunction(function=fail, args=[item.name, event.returncode])]
        return [LogInfo(msg=f'{item.name} ended with status {event.returncode}; starting it again'),
                TimerAction(period=RESPAWN_DELAY_S, actions=[action(item, file, root)])]

    return handle


def on_exit(name: str, root: Path) -> Any:
    """Give the handler of the exit of a required node, which ends the launch."""
    from async_mbrl.reporting.outcome import read_summary, stopped

    def handle(event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if name == 'robot_interface' and event.returncode == 0:
            if stopped(read_summary(RunFolder(root))):      # by ~/stop; as after Ctrl-C
                return [LogInfo(msg='stopped; resume it with the same arguments and '
                                    f'run_dir:={root}'),
                        Shutdown(reason='stopped')]
            return [
                LogInfo(msg=f'run complete; judge it with: async-mbrl evaluate {root}; '
                            f'async-mbrl report {root}'),
                Shutdown(reason='run complete')]
        return [OpaqueFunction(function=fail, args=[name, event.returncode])]

    return handle


def fail(context: LaunchContext, name: str, status: int) -> None:
    """End the launch with status 1 because a node has died that cannot be started again.

    Raises:
        RuntimeError: always; this is how launch is told.
    """
    del context
    why = ('it refuses its configuration' if status == CONFIG_STATUS else
           'it is required, and never restarted under a moving arm')
    raise RuntimeError(f'{name} ended with status {status}; {why}: ending the run')
