"""Stands in for the node and the control loop around an intake of messages."""

from __future__ import annotations

import types
from typing import Any


class Stand:
    """Keeps what was said, and lets a test call what was subscribed."""

    def __init__(self, topic_name: str, *names: str) -> None:
        """Stand around the intake of a topic on which nodes of these names publish."""
        self.names = list(names)
        self.said: list[str] = []
        self.topic_name = topic_name

    def create_subscription(self, _type: type, _topic: str, callback: Any, *_: Any,
                            **_more: Any) -> Stand:
        self.receive = callback
        return self

    def get_namespace(self) -> str:
        return '/'

    def get_publishers_info_by_topic(self, _topic: str) -> list[Any]:
        return [types.SimpleNamespace(node_name=name, node_namespace='/') for name in self.names]

    def get_logger(self) -> Stand:
        return self

    def info(self, text: str, **_more: Any) -> None:
        self.said.append(text)

    warning = info
