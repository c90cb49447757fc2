"""``/diagnostics`` once a second: what the parts of a node say of themselves, and how bad it is.

A node makes one :class:`Diagnostics` and gives it a function for each of its parts::

    Diagnostics(self, lambda: Part('run', f'{phase}', {'episodes': count},
                                   warnings=(lagging,)))

The functions are called by a timer of the node, so they may look at whatever its callbacks write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from async_mbrl.ros import qos

PERIOD_S = 1.0


@dataclass(frozen=True)
class Part:
    """What one part of a node says of itself.

    The level is ERROR with errors, else WARN with warnings, else OK; empty texts do not count, so
    that a condition can be written as ``reason if late else ''``. The message is all that is wrong,
    or ``text`` if nothing is.
    """

    name: str
    text: str
    values: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def to_message(self, node: str, hardware: str) -> DiagnosticStatus:
        """Give the message of a part of a node."""
        errors, warnings = [*filter(None, self.errors)], [*filter(None, self.warnings)]
        level = (DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN if warnings
                 else DiagnosticStatus.OK)
        return DiagnosticStatus(
            level=level, name=f'{node}: {self.name}', hardware_id=hardware,
            message='; '.join(errors + warnings) or self.text,
            values=[KeyValue(key=key, value=_text(value)) for key, value in self.values.items()])


class Diagnostics:
    """Publish the parts of a node once a second, also while simulated time stands still."""

    def __init__(self, node: Node, *parts: Callable[[], Part], hardware: str = '') -> None:
        """Create publisher and timer.

        Args:
            node: owner.
            parts: called once a second for what they say.
            hardware: id of the hardware, such as the name of the robot.
        """
        self._node = node
        self._parts = parts
        self._hardware = hardware
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', qos.STATUS)
        node.create_timer(PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish what the parts say now."""
        name = self._node.get_name()
        message = DiagnosticArray(status=[part().to_message(name, self._hardware)
                                          for part in self._parts])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


class Growth:
    """How counters have grown since they were last asked about."""

    def __init__(self) -> None:
        """Know no counter."""
        self._counts: dict[str, int] = {}

    def of(self, name: str, count: int) -> int:
        """Give by how much a counter that began at 0 has grown since the last call for it."""
        growth = count - self._counts.get(name, 0)
        self._counts[name] = count
        return growth


class Arrivals:
    """Rate and longest gap of what arrives, between two looks at them."""

    def __init__(self) -> None:
        """Begin without any."""
        self.count = 0
        """Arrivals so far."""
        self._seen = 0
        self._since_s = time.monotonic()
        self._last_s = 0.0
        self._gap_s = 0.0

    def add(self, now_s: float) -> None:
        """Count one that arrived at a steady time, s."""
        if self._last_s:
            self._gap_s = max(self._gap_s, now_s - self._last_s)
        self._last_s = now_s
        self.count += 1

    def look(self) -> tuple[float, float]:
        """Give rate, Hz, and longest gap, s, since the last look."""
        now_s = time.monotonic()
        rate_hz = (self.count - self._seen) / max(1e-6, now_s - self._since_s)
        gap_s, self._gap_s = self._gap_s, 0.0
        self._seen, self._since_s = self.count, now_s
        return rate_hz, gap_s


def _text(value: object) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)
