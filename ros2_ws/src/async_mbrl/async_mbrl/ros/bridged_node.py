"""A managed node whose work is done by its bridge, which takes part while the node is active."""

from __future__ import annotations

import gc
import sys
from typing import Generic, Protocol, TypeVar

from rclpy.executors import SingleThreadedExecutor

from async_mbrl.ros.lifecycle import ManagedNode
from async_mbrl.ros.run import note_stops

IDLE_S = 0.1
"""How long a thread sleeps at most when there is nothing to do for it."""
SWITCH_INTERVAL_S = 0.0005
"""The interpreter hands the lock over this soon, so that callbacks do not wait for computing."""


class Bridge(Protocol):
    """What carries the messages of a node from the time it is configured."""

    def go_on(self) -> None:
        """Take part from now on."""

    def pause(self) -> None:
        """Take part no more, for now, but go on hearing the others and answering them."""


B = TypeVar('B', bound=Bridge)


class BridgedNode(ManagedNode, Generic[B]):
    """Builds its bridge in ``configure`` and gives it up in ``cleanup``, both of the subclass."""

    bridge: B | None = None

    def activate(self) -> None:
        """Take part."""
        assert self.bridge is not None
        self.bridge.go_on()

    def deactivate(self) -> None:
        """Take part no more, for now."""
        if self.bridge is not None:
            self.bridge.pause()


class ComputingBridge(Bridge, Protocol):
    """A bridge that computes in a thread of its own."""

    @property
    def ended(self) -> bool:
        """Whether the computing has come to its end, by the end of the run or an error."""
        ...


C = TypeVar('C', bound=ComputingBridge)


def serve(node: BridgedNode[C]) -> bool:
    """Serve callbacks in the calling thread, the main one, while the bridge computes in another.

    Returns:
        Whether a signal ended it; it never interrupts what is computed. Otherwise it was the end of
        the computing, or the node was finalized.
    """
    stops = note_stops()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    gc.freeze()
    try:
        while not stops and not node.finalized and not (
                node.bridge is not None and node.bridge.ended):
            executor.spin_once(timeout_sec=IDLE_S)
    finally:
        executor.remove_node(node)
    return bool(stops)
