"""ROS parameters from configuration dataclasses."""

from __future__ import annotations

import typing
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from async_mbrl.core.config import ConfigError, Leaf, leaves, load, nest

T = TypeVar('T')

_TYPES = {
    bool: Parameter.Type.BOOL, int: Parameter.Type.INTEGER, float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS = {
    bool: Parameter.Type.BOOL_ARRAY, int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY, str: Parameter.Type.STRING_ARRAY,
}
_ALWAYS_KNOWN = ('use_sim_time', 'autostart', 'start_type_description_service')


def peek(node: Node, name: str) -> Any:
    """Give the value that a parameter was started with, before it is declared; None without."""
    given = node._parameter_overrides.get(name)
    return None if given is None else given.value


def config_from_parameters(node: Node, cls: type[T]) -> T:
    """Declare a parameter for each leaf of a configuration dataclass and fill the dataclass.

    Parameters are read-only: what a node runs with is what it was started with.

    Raises:
        ConfigError: unknown or missing parameter, wrong type, value out of range.
    """
    given = {name: parameter.value for name, parameter in node._parameter_overrides.items()
             if name not in _ALWAYS_KNOWN and not name.startswith('qos_overrides.')}
    known = {leaf.name: leaf for leaf in leaves(cls, given=nest(given))}
    for name in given:
        if name not in known:
            near = [other for other in known if other.split('.')[-1] == name.split('.')[-1]]
            hint = f'; did you mean {", ".join(near)}?' if near else ''
            raise ConfigError(f'{name}: unknown parameter of node {node.get_name()}{hint}')
    config = load(cls, nest({name: _plain(value) for name, value in given.items()}))
    for leaf in known.values():
        value: Any = config
        for part in leaf.name.split('.'):
            value = getattr(value, part)
        _declare(node, leaf, list(value) if isinstance(value, tuple) else value)
    return config


def _plain(value: Any) -> Any:
    if value is None:
        return []   # ROS reads an empty list in a parameter file as a parameter that is not set
    return list(value) if not isinstance(value, (bool, int, float, str, list)) else value


def _declare(node: Node, leaf: Leaf, value: Any) -> None:
    element = typing.get_args(leaf.type)
    kind = _ARRAYS[element[0]] if element else _TYPES[leaf.type]
    descriptor = ParameterDescriptor(
        name=leaf.name, type=kind.value, description=leaf.doc, read_only=True,
        additional_constraints=_constraints(leaf))
    limited = leaf.minimum is not None or leaf.maximum is not None
    if limited and leaf.type is float:
        descriptor.floating_point_range = [FloatingPointRange(
            from_value=_or(leaf.minimum, -1.7e308), to_value=_or(leaf.maximum, 1.7e308))]
    elif limited and leaf.type is int:
        descriptor.integer_range = [IntegerRange(
            from_value=int(_or(leaf.minimum, -2**63)), to_value=int(_or(leaf.maximum, 2**63 - 1)))]
    node.declare_parameter(leaf.name, value, descriptor, ignore_override=True)


def _constraints(leaf: Leaf) -> str:
    """Say in words what a descriptor has no field for, of each element where there are several."""
    words = []
    if leaf.choices:
        words.append(f'one of {", ".join(leaf.choices)}')
    if typing.get_args(leaf.type):      # ROS applies ranges to single numbers only
        if leaf.minimum is not None:
            words.append(f'at least {leaf.minimum}')
        if leaf.maximum is not None:
            words.append(f'at most {leaf.maximum}')
        return f'each {" and ".join(words)}' if words else ''
    return ''.join(words)


def _or(value: float | None, fallback: float) -> float:
    return fallback if value is None else float(value)
