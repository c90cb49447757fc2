"""The model of the demo arm is the arm that its configuration describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import arm7
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.simulation.model import (
    check_model,
    find_model,
    kinematics_from_model,
    load_model,
    robot_kinematics,
)

MODEL = load_model(find_model('arm7.xml'))
ROBOT = arm7.robot()
KINEMATICS = ToolKinematics(ROBOT.kinematics)
SITES = ROBOT.tool_sites


def test_model_is_the_robot_of_the_configuration():
    check_model(MODEL, ROBOT)
    assert MODEL.key('home').qpos == pytest.approx(ROBOT.home)
    assert MODEL.opt.timestep == 0.002
    assert MODEL.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST


def test_inertia_at_home_is_that_of_a_human_sized_arm():
    data = mujoco.MjData(MODEL)
    mujoco.mj_resetDataKeyframe(MODEL, data, MODEL.key('home').id)
    mujoco.mj_forward(MODEL, data)
    # M e_i column by column: mj_fullM changed its signature between MuJoCo 3 and 4.
    product, diagonal = np.zeros(7), []
    for unit in np.eye(7):
        mujoco.mj_mulM(MODEL, data, product, unit)
        diagonal.append(float(product @ unit))
    assert diagonal == pytest.approx([2.31, 1.66, 0.39, 0.37, 0.057, 0.049, 0.031], rel=0.03)


@given(st.lists(st.floats(-3.0, 3.0), min_size=7, max_size=7))
def test_kinematic_table_equals_the_model(position):
    data = mujoco.MjData(MODEL)
    data.qpos[:] = position
    mujoco.mj_kinematics(MODEL, data)
    expected = np.concatenate([data.site(site).xpos for site in SITES])
    np.testing.assert_allclose(KINEMATICS.points(np.array(position)), expected, atol=1e-9)


def test_kinematic_table_of_turned_and_shifted_frames():
    model = mujoco.MjModel.from_xml_string("""
      <mujoco><compiler angle="radian"/><worldbody>
        <body pos="0.1 0.2 0.3" euler="0.3 -0.2 0.5">
          <body pos="0 0 0.2" euler="0.4 0.1 0">
            <joint name="a" axis="0 1 1" pos="0.05 0 0.02"/><geom size="0.1"/>
            <body pos="0.3 0 0" euler="0 1 0">
              <joint name="b" axis="1 0 0" pos="0 0.03 0"/><geom size="0.1"/>
              <body pos="0.2 0 0.1" euler="0 0 1"><site name="tip_1" pos="0.1 0 0"/>
                <site name="tip_0" pos="0 0.1 0"/><geom size="0.1"/></body>
            </body></body></body></worldbody></mujoco>""")
    kinematics = ToolKinematics(kinematics_from_model(model, ('a', 'b'), 'tip_'))
    data = mujoco.MjData(model)
    for position in np.random.default_rng(0).uniform(-3, 3, (5, 2)):
        data.qpos[:] = position
        mujoco.mj_kinematics(model, data)
        expected = np.concatenate([data.site('tip_0').xpos, data.site('tip_1').xpos])
        np.testing.assert_allclose(kinematics.points(position), expected, atol=1e-9)


def _with_limits(**changes):
    return dataclasses.replace(ROBOT, limits=dataclasses.replace(ROBOT.limits, **changes))


@pytest.mark.parametrize(('robot', 'message'), [
    (dataclasses.replace(ROBOT, joint_names=('j1', *ROBOT.joint_names[1:])),
     r'joint_names: .*j1.*shoulder_pan'),
    (dataclasses.replace(ROBOT, joint_names=ROBOT.joint_names[::-1]), 'in their order'),
    (_with_limits(position_upper=(2.3, *ROBOT.limits.position_upper[1:])),
     r'shoulder_pan leaves the range of the model'),
    (_with_limits(effort=(31.0, *ROBOT.limits.effort[1:])), r'limits.effort: 31.0 .*30'),
])
def test_robot_that_is_not_the_model_is_refused(robot, message):
    with pytest.raises(ConfigError, match=message):
        check_model(MODEL, robot)


def test_joints_and_sites_that_the_model_lacks_are_named():
    names = ROBOT.joint_names
    with pytest.raises(ConfigError, match='no joint .elbow.'):
        kinematics_from_model(MODEL, ('elbow', *names[1:]), SITES)
    with pytest.raises(ConfigError, match='between the base and site tool_0'):
        kinematics_from_model(MODEL, names[:-1], SITES)
    with pytest.raises(ConfigError, match='no site .gripper.'):
        kinematics_from_model(MODEL, names, ('gripper',))
    with pytest.raises(ConfigError, match='no site of the model begins with'):
        kinematics_from_model(MODEL, names, 'gripper_')


@pytest.mark.parametrize(('place', 'fits'), [('', True), ('pos="0 0 0.5"', False),
                                             ('euler="0 0 90"', False)])
def test_base_frame_stands_at_the_origin_of_the_model(tmp_path: Path, place: str,
                                                      fits: bool) -> None:
    path = tmp_path / 'arm.xml'
    path.write_text(f"""<mujoco><worldbody><body name="base" {place}>
        <geom size="0.1"/><body name="link"><joint name="a"/><geom size="0.1"/><site name="tip"/>
        </body></body></worldbody></mujoco>""")
    robot = {'model': str(path), 'joint_names': ['a'], 'tool_sites': ['tip'], 'base_frame': 'base'}
    for frame, good in (('base', fits), ('world', True), ('anything', True), ('link', False)):
        robot['base_frame'] = frame
        if good:
            robot_kinematics(robot)
        else:
            with pytest.raises(ConfigError, match=f"base_frame: link '{frame}' is at"):
                robot_kinematics(robot)


def test_models_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(ConfigError, match='arm8.xml'):
        find_model('arm8.xml')
    broken = tmp_path / 'broken.xml'
    broken.write_text('<mujoco><worldbody><body/></mujoco>')
    with pytest.raises(ConfigError, match='not a valid MJCF'):
        load_model(find_model(str(broken)))
