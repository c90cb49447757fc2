"""Parameters of a node are those of its configuration, and nothing else is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import arm7
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from async_mbrl.core.config import ConfigError, Leaf, leaves, param, to_mapping
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros.params import config_from_parameters, peek

pytestmark = pytest.mark.usefixtures('ros')


@dataclass(frozen=True)
class Config:
    """What a node might be given."""

    run: RunSettings = param('the run')
    robot: RobotConfig = param('the robot')
    period_s: float = param('period, s', 0.5, minimum=0.1)
    tries: int = param('how often', 3, minimum=1, maximum=9)
    names: tuple[str, ...] = param('names, may be none', ())
    layers: tuple[int, ...] = param('units', (64, 64), minimum=1, maximum=4096)
    shares: tuple[float, ...] = param('shares', (0.5,), minimum=0.0)
    depths: tuple[float, ...] = param('depths, m', (-2.5,), maximum=-0.5)
    colours: tuple[str, ...] = param('colours', ('red',), choices=('red', 'green'))


CONFIG = Config(RunSettings('run', 4, 'me_ppo'), arm7.robot())


def value_of(leaf: Leaf, mapping: dict[str, Any]) -> Any:
    value: Any = mapping
    for part in leaf.name.split('.'):
        value = value[part]
    return value


def flat(config: Any) -> dict[str, Any]:
    mapping = to_mapping(config)
    return {leaf.name: value_of(leaf, mapping)
            for leaf in leaves(type(config), given=mapping)}


@contextmanager
def node(parameters: dict[str, Any]) -> Iterator[Node]:
    """A node started with parameters, as from a parameter file."""
    made = Node('tested', parameter_overrides=[
        Parameter(name, value=value) for name, value in parameters.items() if value != []])
    try:
        yield made
    finally:
        made.destroy_node()


def test_a_configuration_survives_the_way_through_parameters() -> None:
    with node(flat(CONFIG)) as made:
        assert peek(made, 'run.algorithm') == 'me_ppo'
        assert peek(made, 'run.nothing') is None
        assert config_from_parameters(made, Config) == CONFIG
        assert made.get_parameter('robot.limits.effort').value == list(CONFIG.robot.limits.effort)


def test_parameters_are_described_and_read_only() -> None:
    with node(flat(CONFIG)) as made:
        config_from_parameters(made, Config)
        known = {leaf.name: leaf for leaf in leaves(Config, given=to_mapping(CONFIG))}
        descriptors = {found.name: found for found in made.describe_parameters(list(known))}
        for name, leaf in known.items():
            assert descriptors[name].description == leaf.doc
            assert descriptors[name].read_only
        period, tries = descriptors['period_s'], descriptors['tries']
        assert period.floating_point_range[0].from_value == 0.1
        assert (tries.integer_range[0].from_value, tries.integer_range[0].to_value) == (1, 9)
        assert 'effort, velocity' in descriptors['robot.command_interface'].additional_constraints
        said = {name: found.additional_constraints for name, found in descriptors.items()}
        assert said['layers'] == 'each at least 1 and at most 4096'
        assert said['shares'] == 'each at least 0.0'
        assert said['depths'] == 'each at most -0.5'
        assert said['colours'] == 'each one of red, green'
        assert said['names'] == said['tries'] == ''
        assert not descriptors['layers'].integer_range
        refused = made.set_parameters([Parameter('tries', value=4)])[0]
        assert not refused.successful
        assert 'read-only' in refused.reason


@pytest.mark.parametrize(('change', 'says'), [
    ({'robot.limit.effort': [1.0] * 7},
     r'robot\.limit\.effort: unknown parameter of node tested; did you mean robot\.limits\.effort'),
    ({'speed': 1.0}, 'speed: unknown parameter of node tested$'),
    ({'period_s': 'often'}, 'period_s: expected float'),
    ({'tries': 2.5}, 'tries: expected int'),
    ({'tries': 10}, 'tries: 10 is above the maximum 9'),
    ({'robot.home': [0.0] * 6}, r'robot\.home: 6 numbers for 7 joints'),
    ({'robot.limits.effort': None}, r'robot\.limits\.effort: missing'),
    ({'robot.limits.velocity': None}, r'robot\.limits\.velocity: missing'),
    ({'run.seed': None}, r'run\.seed: missing'),
])
def test_what_does_not_fit_is_refused_by_its_name(change: dict[str, Any], says: str) -> None:
    parameters = {name: value for name, value in (flat(CONFIG) | change).items()
                  if value is not None}
    with node(parameters) as made, pytest.raises(ConfigError, match=f'^{says}'):
        config_from_parameters(made, Config)


def test_what_every_node_has_is_no_unknown_parameter() -> None:
    with node(flat(CONFIG) | {'use_sim_time': False}) as made:
        assert config_from_parameters(made, Config) == CONFIG
