"""A URDF can be the model of a robot, and it tightens limits but never loosens them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import arm7
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.urdf import UrdfLimits, joint_limits, parse, tighten
from async_mbrl.simulation.model import (
    find_model,
    kinematics_from_model,
    load_model,
    load_plant,
)
from async_mbrl.simulation.physics import ArmPhysics

ROBOT = arm7.robot()


def arm7_urdf(limits: str = '', collision: str = '') -> str:
    """Export the demo arm as a URDF with the same frames, masses and inertias."""
    model = load_model(find_model('arm7.xml'))
    root = ElementTree.Element('robot', name='arm7')

    def numbers(values: np.ndarray) -> str:
        return ' '.join(f'{value:.17g}' for value in values)

    def turned(quaternion: np.ndarray) -> np.ndarray:
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, quaternion)
        return matrix.reshape(3, 3)

    def rpy(matrix: np.ndarray) -> str:
        return numbers(np.array([
            np.arctan2(matrix[2, 1], matrix[2, 2]), -np.arcsin(np.clip(matrix[2, 0], -1, 1)),
            np.arctan2(matrix[1, 0], matrix[0, 0])]))

    ElementTree.SubElement(root, 'link', name='world')
    parents = {0: 'world'}
    for index in range(1, model.nbody):
        body = model.body(index)
        name = body.name
        if int(body.parentid[0]) not in parents or body.mocapid[0] >= 0 or not body.mass[0]:
            continue
        parents[index] = name
        link = ElementTree.SubElement(root, 'link', name=name)
        inertial = ElementTree.SubElement(link, 'inertial')
        ElementTree.SubElement(inertial, 'origin', xyz=numbers(body.ipos))
        ElementTree.SubElement(inertial, 'mass', value=f'{body.mass[0]:.17g}')
        frame = turned(body.iquat)
        tensor = frame @ np.diag(body.inertia) @ frame.T
        ElementTree.SubElement(inertial, 'inertia', {
            key: f'{tensor[row, column]:.17g}' for key, row, column in (
                ('ixx', 0, 0), ('iyy', 1, 1), ('izz', 2, 2), ('ixy', 0, 1), ('ixz', 0, 2),
                ('iyz', 1, 2))})
        if body.jntnum[0]:
            joint = model.joint(int(body.jntadr[0]))
            element = ElementTree.SubElement(root, 'joint', name=joint.name, type='revolute')
            ElementTree.SubElement(element, 'axis', xyz=numbers(joint.axis))
            ElementTree.SubElement(element, 'limit', lower=f'{joint.range[0]}',
                                   upper=f'{joint.range[1]}', velocity='9', effort='99')
            damping = model.dof_damping[joint.dofadr[0]]
            ElementTree.SubElement(element, 'dynamics', damping=f'{damping}')
        else:
            element = ElementTree.SubElement(root, 'joint', name=f'{name}_fixed', type='fixed')
        ElementTree.SubElement(element, 'parent', link=parents[int(body.parentid[0])])
        ElementTree.SubElement(element, 'child', link=name)
        ElementTree.SubElement(element, 'origin', xyz=numbers(body.pos), rpy=rpy(turned(body.quat)))
    ElementTree.SubElement(root, 'link', name='tool0')
    fixed = ElementTree.SubElement(root, 'joint', name='tool_fixed', type='fixed')
    ElementTree.SubElement(fixed, 'parent', link='hand')
    ElementTree.SubElement(fixed, 'child', link='tool0')
    ElementTree.SubElement(fixed, 'origin', xyz='0.1 0 0', rpy='0 0 1.5707963267948966')
    text = ElementTree.tostring(root, encoding='unicode')
    return text.replace('velocity="9" effort="99"', limits or 'velocity="9" effort="99"').replace(
        '<link name="tool0" />', f'<link name="tool0">{collision}</link>')


TOOL_POINTS = (0.0, -0.08, 0.0, 0.07, 0.0, 0.0, -0.035, 0.0, 0.06)
"""The tool points of the demo arm in the frame of tool0."""


@pytest.fixture
def urdf(tmp_path: Path) -> Path:
    path = tmp_path / 'arm7.urdf'
    path.write_text(arm7_urdf())
    return path


def urdf_robot(path: Path):
    return dataclasses.replace(ROBOT, model=str(path), tool_sites=(), tool_link='tool0',
                               tool_points=TOOL_POINTS)


def test_kinematics_of_the_urdf_are_those_of_the_mjcf(urdf: Path) -> None:
    table = kinematics_from_model(load_model(urdf), ROBOT.joint_names, (), 'tool0', TOOL_POINTS)
    ours, other = ToolKinematics(table), ToolKinematics(ROBOT.kinematics)
    for position in np.random.default_rng(0).uniform(-2.0, 2.0, (20, 7)):
        np.testing.assert_allclose(ours.points(position), other.points(position), atol=1e-9)


def test_a_urdf_is_simulated_with_motors_and_gravity_compensation(urdf: Path) -> None:
    robot = urdf_robot(urdf)
    model = load_plant(robot)
    assert model.nu == 7 and (model.body_gravcomp[1:] == 1.0).all()
    armature = load_model(find_model('arm7.xml')).dof_armature
    plant = arm7.ideal_plant(armature=tuple(armature))
    torque = np.array([2.0, -1.0, 1.0, 0.5, -0.2, 0.1, 0.1])
    arms = [ArmPhysics(plant, one, np.random.default_rng(0)) for one in (robot, ROBOT)]
    for _ in range(250):
        for arm in arms:
            arm.step(torque)
    assert np.abs(arms[0].position - ROBOT.home).max() > 0.05
    np.testing.assert_allclose(arms[0].position, arms[1].position, atol=1e-4)
    np.testing.assert_allclose(arms[0].tool_points(), arms[1].tool_points(), atol=1e-4)


def test_an_inner_loop_that_would_be_unstable_is_refused(urdf: Path) -> None:
    with pytest.raises(ConfigError, match='armature: joint .* has an inertia of'):
        ArmPhysics(arm7.ideal_plant(position_damping=200.0), urdf_robot(urdf),
                   np.random.default_rng(0))
    with pytest.raises(ConfigError, match='armature: 2 numbers for 7 joints'):
        ArmPhysics(arm7.ideal_plant(armature=(0.1, 0.1)), urdf_robot(urdf),
                   np.random.default_rng(0))


def test_pictures_are_left_out_and_missing_meshes_named(tmp_path: Path) -> None:
    mesh = '<geometry><mesh filename="package://nowhere/tool.stl"/></geometry>'
    drawn = tmp_path / 'drawn.urdf'
    drawn.write_text(arm7_urdf(collision=f'<visual>{mesh}</visual>'))
    assert load_model(drawn).ngeom == 0
    solid = tmp_path / 'solid.urdf'
    solid.write_text(arm7_urdf(collision=f'<collision>{mesh}</collision>'))
    with pytest.raises(ConfigError, match='no collision mesh package://nowhere/tool.stl; .*source '
                                          'the workspace that holds the package nowhere'):
        load_model(solid)
    near = tmp_path / 'near.urdf'
    (tmp_path / 'tool.dae').write_text('')
    near.write_text(arm7_urdf(collision='<collision><geometry><mesh filename="tool.dae"/>'
                                        '</geometry></collision>'))
    with pytest.raises(ConfigError, match='tool.dae is not one of .stl, .obj; convert it'):
        load_model(near)
    near.write_text(arm7_urdf(collision='<collision><geometry><box size="0.1 0.1 0.1"/>'
                                        '</geometry></collision>'))
    assert load_model(near).ngeom == 1


@pytest.mark.parametrize(('text', 'words'), [
    ('<robot', 'not valid XML'), ('<mujoco/>', 'not <robot>'),
    ('<!DOCTYPE robot [<!ENTITY a "b">]><robot name="&a;"/>', 'document type'),
    ('<robot>' + ' ' * 5_000_000 + '</robot>', 'more than'),
])
def test_what_is_no_urdf_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text)
    (tmp_path / 'bad.urdf').write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_model(tmp_path / 'bad.urdf')


def test_limits_of_a_urdf_are_read() -> None:
    root = parse('<robot><joint name="a" type="revolute"><limit lower="-1" upper="2" velocity="3" '
                 'effort="0"/></joint><joint name="b" type="continuous"><limit lower="0" upper="0" '
                 'velocity="4" effort="5"/></joint><joint name="c" type="prismatic"/></robot>')
    found = joint_limits(root)
    assert found == {'a': UrdfLimits(-1.0, 2.0, 3.0), 'b': UrdfLimits(velocity=4.0, effort=5.0)}
    for bad in ('velocity="nan"', 'velocity="-1"', 'lower="x"', 'effort="inf"'):
        with pytest.raises(ConfigError, match='joint a'):
            joint_limits(parse(f'<robot><joint name="a" type="revolute"><limit {bad}/></joint>'
                               '</robot>'))


def test_what_is_tightened_is_said() -> None:
    limits, changes = tighten(ROBOT.limits, ROBOT.joint_names, {
        'elbow_flex': UrdfLimits(-9.0, 0.1, 1.5, 99.0), 'finger': UrdfLimits(0.0, 0.1, 0.1, 0.1)})
    assert changes == ('position_upper of elbow_flex 0.2 -> 0.1', 'velocity of elbow_flex 3 -> 1.5')
    assert limits == dataclasses.replace(
        ROBOT.limits, position_upper=limits.position_upper, velocity=limits.velocity)
    with pytest.raises(ConfigError, match='elbow_flex .* have nothing in common'):
        tighten(ROBOT.limits, ROBOT.joint_names, {'elbow_flex': UrdfLimits(1.0, 2.0)})


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 10),
                          st.floats(0.01, 100)), min_size=7, max_size=7))
def test_nothing_is_ever_loosened(rows: list[tuple[float, float, float, float]]) -> None:
    given_limits = {name: UrdfLimits(*row) for name, row in zip(ROBOT.joint_names, rows,
                                                                strict=True)}
    try:
        limits, _ = tighten(ROBOT.limits, ROBOT.joint_names, given_limits)
    except ConfigError:
        return
    before = ROBOT.limits
    for index, row in enumerate(rows):
        assert limits.position_lower[index] == max(before.position_lower[index], row[0])
        assert limits.position_upper[index] == min(before.position_upper[index], row[1])
        assert limits.velocity[index] == min(before.velocity[index], row[2])
        assert limits.effort[index] == min(before.effort[index], row[3])
    assert limits.acceleration == before.acceleration and limits.jerk == before.jerk
