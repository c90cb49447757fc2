"""The sample policy for SROS2 names every node, topic and service of the sources, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import security_policy

from async_mbrl.bringup.graph import NODES
from async_mbrl.core.config import read_yaml
from async_mbrl.core.robot import RobotConfig

PACKAGE = Path(__file__).resolve().parents[2] / 'async_mbrl'
PEOPLE = {'monitor', 'operator'}
CREATES = ('create_publisher', 'create_subscription', 'create_service', 'create_client',
           'subscribe', 'Stream')
OWN = {f'~/{name}' for name in (
    'describe_parameters', 'get_parameter_types', 'get_parameters', 'list_parameters',
    'set_parameters', 'set_parameters_atomically', 'get_type_description', 'change_state',
    'get_state', 'get_available_states', 'get_available_transitions', 'get_transition_graph',
    'transition_event')} | {'/rosout', '/parameter_events'}
"""What rclpy gives every managed node."""


def names_in_sources() -> set[str]:
    """Give the names of topics and services that the sources say as such."""
    found = set()
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            found |= set(_names(node))
    # Settings of the robot, with the names that the demo arm has for them.
    for field in ('joint_states_topic', 'commands_topic'):
        found.add(RobotConfig.__dataclass_fields__[field].default)
    return found


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        named = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if any(name.endswith('TOPIC') for name in named):
            yield str(node.value.value)
    if not isinstance(node, ast.Call):
        return
    called = ast.unparse(node.func).split('.')[-1]
    if called == 'Triggers':
        yield from (f'~/{keyword.arg}' for keyword in node.keywords if keyword.arg)
    if called in CREATES:
        yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str))
        for argument in node.args:      # such as f'{name}/list_controllers'
            if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[-1],
                                                                  ast.Constant):
                yield f'*{argument.values[-1].value}'


def matches(name: str, allowed: set[str]) -> bool:
    """Whether a name of the sources is one of some full names."""
    if name.startswith(('~', '*')):
        return any(full.endswith(name[1:]) for full in allowed)
    return (name if name.startswith('/') else f'/{name}') in allowed


def test_there_is_an_enclave_for_every_node() -> None:
    assert set(security_policy.enclaves()) == {*NODES, *PEOPLE}


def test_every_name_of_the_sources_is_in_the_policy() -> None:
    allowed = {name for node, rules in security_policy.enclaves().items() if node in NODES
               for names in rules.values() for name in names}
    found = names_in_sources()
    assert len(found) > 25
    assert {name for name in found if not matches(name, allowed)} == set()


def test_every_name_of_the_policy_is_in_the_sources() -> None:
    found = names_in_sources() | OWN
    unknown = {name for node, rules in security_policy.enclaves().items() if node in NODES
               for names in rules.values() for name in names
               if not any(matches(other, {name}) for other in found)}
    assert unknown == set()


def may(rule: str, name: str) -> set[str]:
    return {node for node, rules in security_policy.enclaves().items() if name in rules[rule]}


def test_who_may_publish_what_matters() -> None:
    assert may('publish', '/policy_parameters') == {'policy_learner'}
    assert may('publish', '/model_parameters') == {'model_learner'}
    assert may('publish', '/planned_actions') == {'planner'}
    assert may('publish', '/takeover') == {'teleop'}
    assert may('publish', '/commands') == {'controller', 'guard'}
    assert may('publish', '/joint_states') == {'sim_bridge'}
    assert may('publish', '/transitions') == {'robot_interface'}
    assert may('publish', '/episode_commands') == {'robot_interface'}
    assert may('publish', '/control_steps') == {'controller'}
    assert may('publish', '/safety_status') == {'controller'}
    assert may('publish', '/run_status') == {'robot_interface'}
    assert may('publish', '/emergency_stop') == {'operator'}
    assert may('reply', '/robot_interface/get_transitions') == {'robot_interface'}
    assert may('request', '/controller_manager/switch_controller') == {'controller', 'guard'}


def test_nobody_may_publish_everything() -> None:
    for node, rules in security_policy.enclaves().items():
        assert not [name for name in rules['publish'] if '*' in name], node


def test_what_is_published_is_heard_and_what_is_asked_is_answered() -> None:
    rules = security_policy.enclaves()

    def of(rule: str) -> set[str]:
        return {name for node in NODES for name in rules[node][rule]}

    outside = {'/rosout', '/diagnostics', '/markers', '/tf', '/commands_dry_run',
               *(f'/{node}/transition_event' for node in NODES)}
    assert of('publish') - of('subscribe') == outside
    assert of('subscribe') - of('publish') == {'/emergency_stop', '/goal', '/joy',
                                               '/robot_description'}
    assert of('request') <= of('reply')


def test_the_demo_arm_has_the_names_of_the_policy() -> None:
    robot = read_yaml(PACKAGE.parent / 'config' / 'robots' / 'arm7.yaml')
    assert not {'joint_states_topic', 'commands_topic'} & set(robot)
    assert robot.get('controller_manager', '/controller_manager') == '/controller_manager'


def test_no_comment_stands_between_enclaves() -> None:
    """Where the tools of sros2 take it for one."""
    text = (security_policy.FOLDER / 'policy.xml').read_text()
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    (enclaves,) = ElementTree.fromstring(text, parser).iter('enclaves')
    assert {child.tag for child in enclaves} == {'enclave'}
