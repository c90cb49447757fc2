"""The sample policy for SROS2 as sets of names, its common part included."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / 'config' / 'security'
INCLUDE = '{http://www.w3.org/2001/XInclude}include'
RULES = ('publish', 'subscribe', 'reply', 'request')


def enclaves() -> dict[str, dict[str, set[str]]]:
    """Give what each enclave may publish, subscribe to, reply to and request, as full names."""
    tree = ElementTree.parse(FOLDER / 'policy.xml')
    found = {}
    for enclave in tree.iter('enclave'):
        name = enclave.attrib['path'].removeprefix('/async_mbrl/')
        (profile,) = enclave.iter('profile')
        allowed: dict[str, set[str]] = {rule: set() for rule in RULES}
        for part in _parts(profile):
            names = {_full(item.text or '', profile.attrib['node']) for item in part}
            for rule, verdict in part.attrib.items():
                assert rule in RULES and verdict == 'ALLOW', part.attrib
                allowed[rule] |= names
        found[name] = allowed
    return found


def _parts(profile: ElementTree.Element) -> list[ElementTree.Element]:
    parts: list[ElementTree.Element] = []
    for part in profile:
        if part.tag == INCLUDE:
            parts += list(ElementTree.parse(FOLDER / part.attrib['href']).getroot())
        else:
            parts.append(part)
    return parts


def _full(name: str, node: str) -> str:
    if name.startswith('~/'):
        return f'/{node}{name[1:]}'
    return name if name.startswith(('/', '*')) else f'/{name}'
