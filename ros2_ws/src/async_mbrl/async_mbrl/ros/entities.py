"""What a node creates while it is configured, so that it can be given up again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rclpy.node import Node


class Entities:
    """Publishers, subscriptions, clients, services and timers that a node has from here on."""

    def __init__(self, node: Node) -> None:
        """Take note of what there is already."""
        self._node = node
        self._before = [entity for entities, _ in self._kinds() for entity in entities]

    def destroy(self) -> None:
        """Destroy what has come since."""
        for entities, destroy in self._kinds():
            for entity in list(entities):
                if not any(entity is other for other in self._before):
                    destroy(entity)

    def _kinds(self) -> Iterator[tuple[Any, Any]]:
        node = self._node
        yield node.timers, node.destroy_timer
        yield node.clients, node.destroy_client
        yield node.services, node.destroy_service
        yield node.subscriptions, node.destroy_subscription
        yield node.publishers, node.destroy_publisher
