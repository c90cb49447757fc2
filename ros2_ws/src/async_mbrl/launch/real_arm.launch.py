"""Learn on a real arm that ros2_control drives: ``ros2 launch async_mbrl real_arm.launch.py``.

The same nodes as ``async-mbrl up real``; ``robot:=NAME`` names a file in ``config/robots``. The
driver of the arm runs already. With ``dry_run:=true``, the default, everything runs but nothing is
sent; ``dry_run:=false`` lets the arm move.
"""

from launch import LaunchDescription

from async_mbrl.bringup.launching import REAL_ARM, graph
from async_mbrl.bringup.resources import share_folder


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(graph(REAL_ARM, share_folder()))
