"""Start the whole graph of a run in simulation: ``ros2 launch async_mbrl sim.launch.py``.

The same nodes as ``async-mbrl up sim``, with the same arguments; ``--show-args`` describes them.
Watch it with ``async-mbrl monitor``; afterwards ``async-mbrl evaluate`` and ``async-mbrl report``.
"""

from launch import LaunchDescription

from async_mbrl.bringup.launching import SIM, graph
from async_mbrl.bringup.resources import share_folder


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(graph(SIM, share_folder()))
