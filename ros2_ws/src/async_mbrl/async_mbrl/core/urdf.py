"""URDF: read with bounds, its joint limits, and how they tighten those of a robot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.parsers import expat

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import JointLimits

MOST_BYTES = 4 * 1024 * 1024
"""Size of a description at most; those of arms are some 100 kB."""


@dataclass(frozen=True)
class UrdfLimits:
    """Limits of one joint in a URDF; infinite where it gives none.

    Attributes:
        lower: least position, rad.
        upper: greatest position, rad.
        velocity: greatest speed, rad/s.
        effort: greatest torque, N m.
    """

    lower: float = -math.inf
    upper: float = math.inf
    velocity: float = math.inf
    effort: float = math.inf


def parse(text: str) -> ElementTree.Element:
    """Read a URDF; document types, and so entities, are refused.

    Raises:
        ConfigError: it is too long, not XML, or no robot.
    """
    content = text.encode()
    if len(content) > MOST_BYTES:
        raise ConfigError(f'URDF: {len(content)} bytes, more than {MOST_BYTES}; give the '
                          'description of the arm alone')
    scout = expat.ParserCreate()
    scout.StartDoctypeDeclHandler = _refuse_doctype
    try:
        scout.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise ConfigError(f'URDF: not valid XML: {error}; run xacro first if it is one') from None
    if root.tag != 'robot':
        raise ConfigError(f'URDF: its outermost element is <{root.tag}>, not <robot>')
    return root


def joint_limits(root: ElementTree.Element) -> dict[str, UrdfLimits]:
    """Give the limits of the joints that turn, by name.

    A speed or torque of 0 says that nobody filled it in, as many descriptions do.

    Raises:
        ConfigError: a limit is no finite number.
    """
    found = {}
    for joint in root.findall('joint'):
        name, kind, limit = joint.get('name', ''), joint.get('type'), joint.find('limit')
        if kind not in ('revolute', 'continuous') or limit is None:
            continue
        least, greatest = (_number(limit, key, name) for key in ('lower', 'upper'))
        ranged = kind == 'revolute'
        found[name] = UrdfLimits(
            lower=least if ranged else -math.inf, upper=greatest if ranged else math.inf,
            velocity=_number(limit, 'velocity', name) or math.inf,
            effort=_number(limit, 'effort', name) or math.inf)
    return found


def tighten(limits: JointLimits, names: Sequence[str],
            given: dict[str, UrdfLimits]) -> tuple[JointLimits, tuple[str, ...]]:
    """Take the tighter one of each limit of position, speed and torque; never the looser.

    Args:
        limits: of the robot.
        names: its joints, in their order.
        given: what a URDF says, by joint; joints that it lacks stay as they are.

    Returns:
        The limits, and what was tightened, as text for each number.

    Raises:
        ConfigError: the ranges of a joint have nothing in common.
    """
    rows = {key: list(getattr(limits, key)) for key in (
        'position_lower', 'position_upper', 'velocity', 'effort')}
    changes = []
    for index, name in enumerate(names):
        urdf = given.get(name)
        if urdf is None:
            continue
        for key, value, tighter in (
                ('position_lower', urdf.lower, max), ('position_upper', urdf.upper, min),
                ('velocity', urdf.velocity, min), ('effort', urdf.effort, min)):
            before = rows[key][index]
            rows[key][index] = tighter(before, value)
            if rows[key][index] != before:
                changes.append(f'{key} of {name} {before:g} -> {value:g}')
        low, high = rows['position_lower'][index], rows['position_upper'][index]
        if low >= high:
            raise ConfigError(
                f'limits: [{limits.position_lower[index]}, {limits.position_upper[index]}] of '
                f'{name} and [{urdf.lower}, {urdf.upper}] of the URDF have nothing in common')
    return (dataclasses.replace(limits, **{key: tuple(row) for key, row in rows.items()}),
            tuple(changes))


def _refuse_doctype(name: str, *_others: object) -> None:
    raise ConfigError(f'URDF: it declares a document type ({name}); descriptions need none, and '
                      'its entities are not read')


def _number(limit: ElementTree.Element, key: str, joint: str) -> float:
    text = limit.get(key, '0')
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (key in ('velocity', 'effort') and value < 0.0):
        raise ConfigError(f'URDF: limit {key}={text!r} of joint {joint} is not a number that '
                          'limits')
    return value
