"""The part of the graph that belongs to the arm, for the robot PC of two machines.

guard, controller and robot_interface, and the simulated arm with ``where:=sim``. The learners are
started by ``learners.launch.py`` on the other machine, with the same arguments and ROS_DOMAIN_ID.
"""

from launch import LaunchDescription

from async_mbrl.bringup.launching import ROBOT_PC, graph
from async_mbrl.bringup.resources import share_folder


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(graph(ROBOT_PC, share_folder()))
