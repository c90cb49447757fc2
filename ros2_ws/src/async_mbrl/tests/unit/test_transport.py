"""Which network a graph uses."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from async_mbrl.bringup.transport import PROFILES, RANGE, keep_to_this_machine


def test_a_graph_of_one_machine_uses_the_profile(package_root: Path) -> None:
    environment: dict[str, str] = {}
    keep_to_this_machine(environment, package_root)
    assert environment[RANGE] == 'SYSTEM_DEFAULT'     # another one would add shared memory
    profile = ET.parse(environment[PROFILES]).getroot()
    name = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    assert [item.text for item in profile.iter(f'{name}type')] == ['UDPv4']
    assert {item.text for item in profile.iter(f'{name}address')} == {'127.0.0.1'}
    assert [item.text for item in profile.iter(f'{name}useBuiltinTransports')] == ['false']


def test_other_middlewares_are_confined_in_the_general_way(package_root: Path) -> None:
    environment = {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}
    keep_to_this_machine(environment, package_root)
    assert environment == {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp', RANGE: 'LOCALHOST'}


@pytest.mark.parametrize('chosen', [{RANGE: 'SUBNET'}, {PROFILES: 'mine.xml'}])
def test_what_the_environment_says_stands(package_root: Path, chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    keep_to_this_machine(environment, package_root)
    assert environment == chosen
