"""A managed node whose work is done by its bridge, which takes part while the node is active."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from async_mbrl.ros.lifecycle import ManagedNode


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
