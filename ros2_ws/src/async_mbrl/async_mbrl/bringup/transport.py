"""Which network a graph uses, where the environment does not say."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

PROFILES = 'FASTRTPS_DEFAULT_PROFILES_FILE'
RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
ONE_MACHINE = 'one_machine.xml'
"""Profile of Fast DDS, in ``config/fastdds``."""


def keep_to_this_machine(environment: MutableMapping[str, str], share: Path) -> None:
    """Let a graph be heard on this machine alone, without shared memory of Fast DDS.

    What the environment says already about the range or the profile stands. Other middlewares get
    the discovery range LOCALHOST.

    Args:
        environment: of this process and those it starts; before anything imports rclpy.
        share: folder that holds ``config/``.
    """
    if RANGE in environment or PROFILES in environment:
        return
    if environment.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp').startswith('rmw_fastrtps'):
        environment[PROFILES] = str(share / 'config' / 'fastdds' / ONE_MACHINE)
        environment[RANGE] = 'SYSTEM_DEFAULT'
    else:
        environment[RANGE] = 'LOCALHOST'
