"""The URDF that the driver of an arm publishes, if it does."""

from __future__ import annotations

import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

TIMEOUT_S = 2.0
"""Time for the description to arrive; a publisher on the same network is found in half of it."""

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL)


def robot_description(timeout_s: float = TIMEOUT_S) -> str | None:
    """Give what is published on ``robot_description``; None if nothing arrives in time."""
    context = rclpy.Context()
    # Not the arguments of this process: `robot:=fr3` of `ros2 launch` would rename things.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node('async_mbrl_description', context=context, start_parameter_services=False,
                enable_rosout=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    arrived: list[str] = []
    try:
        node.create_subscription(String, 'robot_description',
                                 lambda message: arrived.append(message.data), _LATCHED)
        end = time.monotonic() + timeout_s
        while not arrived and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    return arrived[0] if arrived else None
