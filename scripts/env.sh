# Bring the virtual environment, ROS 2 and the built workspace into this bash: `. scripts/env.sh`.
# Where a ROS 2 distribution is sourced, it stays the one that is used.
# shellcheck shell=bash

_async_mbrl_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ! -f $_async_mbrl_root/ros2_ws/install/local_setup.bash ]]; then
  echo "error: nothing is built yet; run scripts/setup.sh first" >&2
  unset _async_mbrl_root
  return 1
fi
# shellcheck disable=SC1091
source "$_async_mbrl_root/.venv/bin/activate"
# The wheels' interpreter sets its library path once per process tree; another one's does not count.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
if [[ -z ${ROS_DISTRO:-} || -z ${AMENT_PREFIX_PATH:-} \
    || $AMENT_PREFIX_PATH == *"$_async_mbrl_root/.venv"* ]]; then
  export ROS_DISTRO=jazzy
  export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV
fi
# shellcheck disable=SC1091
source "$_async_mbrl_root/ros2_ws/install/local_setup.bash"
unset _async_mbrl_root
