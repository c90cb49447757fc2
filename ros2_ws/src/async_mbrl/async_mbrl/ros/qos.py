"""The three kinds of traffic, and no other: streams, snapshots, and state that is only fresh."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

STREAM = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
"""Numbered, must not lose or reorder; what is missed all the same is asked for again."""

FRESH = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE)
"""Only the newest counts, and an old one is worth nothing: joint states."""

HEARTBEAT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE, deadline=Duration(nanoseconds=100_000_000),
    liveliness_lease_duration=Duration(seconds=1))
"""Heartbeats of the controller, as they are published, and as guard, ours too, wants them."""

COMMAND = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
"""Commands to a driver, as ros2_control's forward controllers subscribe to them."""

TAKEOVER = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
"""What a person asks for: only the newest counts, but the end of it must not be lost."""

STATUS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Status a few times a second; a late joiner sees the last ones."""


TRANSFORMS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
"""As tf2 subscribes to /tf."""

GOAL = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
"""Goals from outside, also from a viewer: the newest counts, but each is judged and counted."""


def snapshots(parts: int) -> QoSProfile:
    """Latched snapshots of which only the newest matters, cut into a number of parts."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=max(1, parts),
        reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
