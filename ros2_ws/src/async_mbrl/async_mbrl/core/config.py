"""Frozen dataclasses as configuration: one source for YAML files, ROS parameters and the code.

A field is declared with :func:`param`, which records its meaning and range. :func:`load` fills a
dataclass from a nested mapping and refuses what does not fit, naming the full key.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar('T')

_MISSING = dataclasses.MISSING

MAXIMUM_BYTES = 1024 * 1024
"""Of a configuration file."""

_QUOTED = 200
"""Characters of a value that an error message repeats."""

_INTEGER_BITS = 63


class ConfigError(ValueError):
    """A configuration does not fit; the message names the key, the value, the limit, the remedy."""


def param(
    doc: str,
    default: Any = _MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a field of a configuration dataclass.

    Args:
        doc: what the field means, with its unit.
        default: value used where none is given; without one the key is required.
        minimum: least value allowed, for numbers and for each element of a tuple of numbers.
        maximum: greatest value allowed.
        choices: the strings allowed.
    """
    metadata = {'doc': doc, 'minimum': minimum, 'maximum': maximum, 'choices': choices}
    if default is _MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One scalar or array of a configuration, by its dotted name."""

    name: str
    type: Any
    default: Any
    required: bool
    doc: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...] | None


def variant(cls: type[T], mapping: Any) -> type[T]:
    """Give the class that a mapping is loaded as: ``cls``, or one derived from it.

    A class that stands for several has a class method ``variant``, which chooses by what the
    mapping says.

    Raises:
        ConfigError: the mapping names none of them, or one that is not wanted here.
    """
    choose = getattr(cls, 'variant', None)
    if choose is None or not isinstance(mapping, Mapping):
        return cls
    chosen: type = choose(mapping)
    if not issubclass(chosen, cls):
        raise ConfigError(f'this is a {chosen.__name__}, but a {cls.__name__} is wanted here')
    return chosen


def leaves(cls: type, prefix: str = '', given: Any = None) -> list[Leaf]:
    """List every leaf of a configuration dataclass, nested ones with dotted names.

    Args:
        cls: the dataclass.
        prefix: put in front of the names.
        given: values by field name, by which classes that stand for several are chosen.

    Raises:
        ConfigError: as :func:`variant`.
    """
    try:
        cls = variant(cls, given)
    except ConfigError as error:
        raise ConfigError(f'{prefix}{error}') from None
    hints = typing.get_type_hints(cls)
    found: list[Leaf] = []
    for field in dataclasses.fields(cls):
        name = f'{prefix}{field.name}'
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += leaves(typing.cast(type, hint), f'{name}.', look_up(given, field.name))
            continue
        required = field.default is _MISSING and field.default_factory is _MISSING
        default = None if field.default is _MISSING else field.default
        if field.default_factory is not _MISSING:
            default = field.default_factory()
        meta = field.metadata
        found.append(Leaf(name, hint, default, required, meta.get('doc', ''), meta.get('minimum'),
                          meta.get('maximum'), meta.get('choices')))
    return found


def load(cls: type[T], mapping: Mapping[str, Any], path: str = '') -> T:
    """Fill a configuration dataclass from a nested mapping.

    Args:
        cls: a frozen dataclass whose fields are bool, int, float, str, tuples of these, or such
            dataclasses again.
        mapping: values by field name.
        path: name of the mapping itself, put in front of the keys in error messages.

    Raises:
        ConfigError: unknown key, missing key, wrong type, or value out of range; or as
            :func:`variant`.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f'{path or cls.__name__}: expected a mapping, got {_quoted(mapping)}')
    try:
        cls = variant(cls, mapping)
    except ConfigError as error:
        raise ConfigError(f'{path}.{error}' if path else str(error)) from None
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    where = f'{path}.' if path else ''
    for key in mapping:
        if key not in fields:
            known = ', '.join(sorted(fields))
            raise ConfigError(
                f'{where}{str(key)[:_QUOTED]}: unknown key; known here: {known}')
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = f'{where}{name}'
        hint = hints[name]
        if name in mapping:
            if dataclasses.is_dataclass(hint):
                values[name] = load(typing.cast(type, hint), mapping[name], key)
            else:
                values[name] = _checked(mapping[name], hint, field.metadata, key)
        elif dataclasses.is_dataclass(hint) and field.default is _MISSING:
            values[name] = load(typing.cast(type, hint), {}, key)
        elif field.default is _MISSING and field.default_factory is _MISSING:
            doc = field.metadata.get('doc', '')
            raise ConfigError(f'{key}: missing; it has no default ({doc}); give it a value')
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f'{where}{error}') from None


def to_mapping(config: Any) -> dict[str, Any]:
    """Turn a configuration dataclass into nested dicts and lists, ready for YAML."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = to_mapping(value)
        else:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings; where one has a value and parts, the parts count."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split('.')
        node = result
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        if not isinstance(node.get(last), dict):
            node[last] = value
    return result


def look_up(mapping: Any, path: str) -> Any:
    """Give what stands under a dotted path in nested mappings, None if nothing."""
    for name in path.split('.'):
        if not isinstance(mapping, Mapping) or name not in mapping:
            return None
        mapping = mapping[name]
    return mapping


def parse_yaml(text: str | bytes) -> Any:
    """Give what YAML says.

    Raises:
        ConfigError: it is not valid, or has an alias.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  derived from the safe one
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
            RecursionError) as error:    # constructors of numbers, dates and the like raise them
        raise ConfigError(f'not valid YAML: {str(error)[:_QUOTED]}') from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: the file does not exist or cannot be read, is larger than any configuration,
            is not YAML, or holds no mapping.
    """
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise ConfigError(f'{path}: {path.stat().st_size} bytes, more than {MAXIMUM_BYTES}; '
                              'not a configuration')
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f'{path}: no such file') from None
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror}') from None
    try:
        content = parse_yaml(data)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: expected a mapping at the top, got {type(content).__name__}')
    return content


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, by which a small file could stand for an endless value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f'line {mark.line + 1}: aliases are not taken; write it out')
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and not node.value.isascii() and any(
                '\ud800' <= character <= '\udfff' for character in node.value):
            raise yaml.YAMLError(f'line {node.start_mark.line + 1}: half a character')
        return node


def _quoted(value: Any) -> str:
    return repr(value)[:_QUOTED]


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any], key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        element = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(
                f'{key}: expected a list of {element.__name__}, got {_quoted(value)}')
        return tuple(_scalar(item, element, metadata, f'{key}[{i}]')
                     for i, item in enumerate(value))
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        raise TypeError(f'{key}: unions are not supported in configurations')
    return _scalar(value, hint, metadata, key)


def _scalar(value: Any, kind: type, metadata: Mapping[str, Any], key: str) -> Any:
    if type(value) is int and value.bit_length() > _INTEGER_BITS:
        raise ConfigError(f'{key}: a whole number of {value.bit_length()} bits; parameters have '
                          f'at most {_INTEGER_BITS}')
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(
            f'{key}: expected {kind.__name__}, got {_quoted(value)} ({type(value).__name__})')
    low, high = metadata.get('minimum'), metadata.get('maximum')
    if kind in (int, float):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f'{key}: {value} is not a finite number')
        if low is not None and value < low:
            raise ConfigError(f'{key}: {value} is below the minimum {low}')
        if high is not None and value > high:
            raise ConfigError(f'{key}: {value} is above the maximum {high}')
    choices = metadata.get('choices')
    if choices and value not in choices:
        raise ConfigError(f'{key}: {_quoted(value)} is not one of {", ".join(choices)}')
    return value
