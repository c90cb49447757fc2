"""Who may publish on a topic, by the names of nodes.

Without SROS2 a node can have any name: this keeps out what is there by mistake, or does not bother
to lie. With it the enclave says who may publish, and no name is believed (``config/security``).
"""

from __future__ import annotations

from rclpy.node import Node

UNKNOWN = '_NODE_NAME_UNKNOWN_'
"""Name of a node that has not been heard of yet, although its publisher has."""


def full_name(node: Node, name: str) -> str:
    """Give the name of a node of this graph, with its namespace."""
    return f'{node.get_namespace().rstrip("/")}/{name}'


def publishers(node: Node, topic: str) -> list[str]:
    """Name the node of each publisher of a topic, with its namespace."""
    return sorted(f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                  for info in node.get_publishers_info_by_topic(topic))


def strangers(node: Node, topic: str, *names: str) -> list[str]:
    """Name the publishers of a topic that are not the nodes ``names`` of this graph."""
    return sorted(set(publishers(node, topic)) - {full_name(node, name) for name in names})


def unknown(names: list[str]) -> bool:
    """Whether these are all of nodes that have not been heard of yet."""
    return bool(names) and all(name.endswith(UNKNOWN) for name in names)
