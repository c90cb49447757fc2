"""The nodes of a run as actions of ``launch_ros``, for the launch files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import ARGUMENTS, SCHEDULES, Argument, parse_request
from async_mbrl.bringup.folder import OpenRun, given_in_launch, open_run
from async_mbrl.bringup.graph import NodeDescription, describe, write_parameters
from async_mbrl.core.config import ConfigError

RESPAWN_DELAY_S = 0.5

_open_runs: list[OpenRun] = []
"""Keeps the locks of the run folders until the launch process ends."""


def declare(argument: Argument, share: Path) -> DeclareLaunchArgument:
    """Give the declaration of an argument, with what it may be chosen from."""
    catalogues = {'robots': resources.robots, 'tasks': resources.tasks,
                  'algorithms': resources.algorithms, 'schedules': lambda _: SCHEDULES}
    choices = catalogues[argument.catalogue](share) if argument.catalogue else None
    return DeclareLaunchArgument(argument.name, default_value=argument.default,
                                 description=argument.doc, choices=choices)


def start_simulation(context: LaunchContext) -> list[Any]:
    """Open the run that the launch arguments ask for and give the actions that start it.

    Raises:
        RuntimeError: the configuration does not fit; launch says why and ends with status 1.
    """
    given = {argument.name: LaunchConfiguration(argument.name).perform(context)
             for argument in ARGUMENTS}
    try:
        run = open_run(parse_request(given_in_launch(given)), resources.share_folder(),
                       Path.cwd(), datetime.now())
    except ConfigError as error:
        raise RuntimeError(str(error)) from None
    _open_runs.append(run)
    descriptions = describe(run.composition)
    files = write_parameters(descriptions, run.folder.root / 'params')
    return [LogInfo(msg=f'run folder: {run.folder.root}'),
            *actions(descriptions, files, run.folder.root)]


def actions(descriptions: Sequence[NodeDescription], files: Mapping[str, Path],
            root: Path) -> list[Node]:
    """Turn descriptions of nodes into actions.

    Args:
        descriptions: the nodes.
        files: parameter file by name of the node.
        root: folder of the run, for what is said at its end.
    """
    return [Node(
        package=resources.PACKAGE, executable=item.executable, name=item.name,
        parameters=[str(files[item.name])], output='screen', emulate_tty=True,
        additional_env=dict(item.env), prefix=f'nice -n {item.nice}' if item.nice else None,
        respawn=item.respawn, respawn_delay=RESPAWN_DELAY_S,
        on_exit=on_exit(item.name, root) if item.required else None)
        for item in descriptions]


def on_exit(name: str, root: Path) -> Any:
    """Give the handler of the exit of a required node, which ends the launch."""

    def handle(event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if name == 'robot_interface' and event.returncode == 0:
            return [
                LogInfo(msg=f'run complete; judge it with: async-mbrl evaluate {root}; '
                            f'async-mbrl report {root}'),
                Shutdown(reason='run complete')]
        return [OpaqueFunction(function=fail, args=[name, event.returncode])]

    return handle


def fail(context: LaunchContext, name: str, status: int) -> None:
    """End the launch with status 1 because a required node has died.

    Raises:
        RuntimeError: always; this is how launch is told.
    """
    del context
    raise RuntimeError(f'{name} ended with status {status}; it is required, and never restarted '
                       'under a moving arm: ending the run')
