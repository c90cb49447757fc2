"""Both learners, for the workstation of two machines.

With the arguments and ROS_DOMAIN_ID of ``robot.launch.py`` on the robot PC. The run folder here
holds the checkpoints and the policy, the one there the journal and the summary.
"""

from launch import LaunchDescription

from async_mbrl.bringup.launching import WORKSTATION, graph
from async_mbrl.bringup.resources import share_folder


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(graph(WORKSTATION, share_folder()))
