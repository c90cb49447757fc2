"""A process that does not belong to the graph, and publishes on its topics all the same.

Making a publisher holds up the process that does it, so a rig that measures leaves it to another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rclpy.serialization import serialize_message

from faults.processes import begin

SUBSCRIBER_S = 3.0
LEAVE_S = 10.0


class Intruder:
    """The process as its parent sees it; ready to begin when the context is entered."""

    def __init__(self, topic: str, kind: str, name: str = 'intruder') -> None:
        """Start it.

        Args:
            topic: on which it is going to publish.
            kind: ``commands`` or ``policies``.
            name: of its node; it may lie.
        """
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'faults.intruder', topic, kind, name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, preexec_fn=begin)

    def __enter__(self) -> Intruder:
        self._answer()
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def begin(self, messages: Sequence[Any] = ()) -> int:
        """Have it make its publisher and publish messages; give when it began, ns."""
        self._say('\t'.join(serialize_message(message).hex() for message in messages))
        return int(self._answer())

    def end(self) -> None:
        """Have it leave."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=LEAVE_S)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + '\n')
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def main(topic: str, kind: str, name: str) -> None:
    """Be the intruder."""
    import rclpy
    from async_mbrl_interfaces.msg import ParameterSnapshot
    from std_msgs.msg import Float64MultiArray

    from async_mbrl.ros import qos

    rclpy.init()
    node = rclpy.create_node(name, enable_rosout=False)
    print('ready', flush=True)
    messages = [bytes.fromhex(item) for item in sys.stdin.readline().split()]
    print(time.time_ns(), flush=True)
    publisher = (node.create_publisher(Float64MultiArray, topic, qos.COMMAND)
                 if kind == 'commands' else
                 node.create_publisher(ParameterSnapshot, topic, qos.snapshots(4)))
    end = time.monotonic() + SUBSCRIBER_S
    while publisher.get_subscription_count() == 0 and time.monotonic() < end:
        time.sleep(0.01)
    for message in messages:
        publisher.publish(message)
    sys.stdin.read()    # it ends with its input
    node.destroy_node()
    rclpy.shutdown()
    os._exit(0)         # not held up by what is left of the middleware


if __name__ == '__main__':
    main(*sys.argv[1:])
