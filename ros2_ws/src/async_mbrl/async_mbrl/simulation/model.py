"""Robot models in MJCF: finding, loading, checking, and the kinematic table taken from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import KinematicChain
from async_mbrl.core.robot import RobotConfig

_PACKAGE = 'async_mbrl'


def find_model(name: str) -> Path:
    """Find a model by the name of a file in the package's ``sim/`` folder, or by a path.

    The folder next to the source comes first, so that edits act at once, then the share folders
    of the ament prefixes.

    Raises:
        ConfigError: there is no such file; the message lists where it was looked for.
    """
    if os.sep in name:
        places = [Path(name).expanduser()]
    else:
        prefixes = [prefix for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
                    if prefix]
        places = [Path(__file__).resolve().parents[2] / 'sim' / name]
        places += [Path(prefix) / 'share' / _PACKAGE / 'sim' / name for prefix in prefixes]
    for place in places:
        if place.is_file():
            return place
    listed = ', '.join(str(place) for place in places)
    raise ConfigError(f'model: no file {name!r}; looked at {listed}; name a file in the sim/ '
                      'folder of the package, or give a path')


def load_model(path: Path) -> mujoco.MjModel:
    """Load an MJCF model.

    Raises:
        ConfigError: the file does not exist or is no valid model.
    """
    if not path.is_file():
        raise ConfigError(f'model: no file {path}')
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise ConfigError(f'model: {path} is not a valid MJCF model: {error}') from None


def actuated_joints(model: mujoco.MjModel) -> tuple[str, ...]:
    """Give the names of the joints that the actuators drive, in the order of the actuators.

    Raises:
        ConfigError: an actuator drives something other than a joint.
    """
    names = []
    for index in range(model.nu):
        actuator = model.actuator(index)
        if actuator.trntype[0] != mujoco.mjtTrn.mjTRN_JOINT:
            raise ConfigError(f'model: actuator {actuator.name} does not drive a joint')
        names.append(model.joint(actuator.trnid[0]).name)
    return tuple(names)


def check_model(model: mujoco.MjModel, robot: RobotConfig) -> None:
    """Check that a robot's configuration describes this model.

    Raises:
        ConfigError: joint names or their order, joint types, actuators or limits do not fit.
    """
    actuated = actuated_joints(model)
    if actuated != robot.joint_names:
        raise ConfigError(
            f'joint_names: {list(robot.joint_names)} of robot {robot.name} are not the actuated '
            f'joints of the model in their order, {list(actuated)}; use the names of the model')
    limits = robot.limits
    for index, name in enumerate(actuated):
        joint, actuator = model.joint(name), model.actuator(index)
        if joint.type[0] != mujoco.mjtJoint.mjJNT_HINGE:
            raise ConfigError(f'model: joint {name} is not a hinge')
        if (actuator.gear[0] != 1.0 or actuator.gaintype[0] != mujoco.mjtGain.mjGAIN_FIXED
                or actuator.gainprm[0] != 1.0
                or actuator.biastype[0] != mujoco.mjtBias.mjBIAS_NONE):
            raise ConfigError(f'model: actuator of {name} is not a motor of gear 1, so that its '
                              'control is a torque')
        low, high = joint.range if joint.limited[0] else (-np.inf, np.inf)
        if limits.position_lower[index] < low or limits.position_upper[index] > high:
            raise ConfigError(
                f'limits: [{limits.position_lower[index]}, {limits.position_upper[index]}] of '
                f'{name} leaves the range of the model [{low}, {high}]')
        strongest = min(-actuator.ctrlrange[0], actuator.ctrlrange[1])
        if actuator.ctrllimited[0] and limits.effort[index] > strongest:
            raise ConfigError(f'limits.effort: {limits.effort[index]} of {name} is more than its '
                              f'motor gives, {strongest}')


def kinematics_from_model(model: mujoco.MjModel, joint_names: Sequence[str],
                          tool_sites: str | Sequence[str]) -> KinematicChain:
    """Take the table for forward kinematics out of a model.

    Args:
        model: the model.
        joint_names: hinges of a serial chain, from the base on.
        tool_sites: names of the sites that are the tool points, or what those names begin with;
            sites found by their beginning are ordered by name.

    Raises:
        ConfigError: no such joint or site, joints do not form a serial chain from base to tool, or
            a joint in the chain is not listed.
    """
    sites = _site_names(model, tool_sites)
    joints = []
    for name in joint_names:
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if index < 0:
            known = [model.joint(i).name for i in range(model.njnt)]
            raise ConfigError(f'joint_names: the model has no joint {name!r}; it has {known}')
        if model.jnt_type[index] != mujoco.mjtJoint.mjJNT_HINGE or model.qpos0[
                model.jnt_qposadr[index]] != 0.0:
            raise ConfigError(f'model: joint {name} is not a hinge with reference 0')
        joints.append(index)
    for site in sites:
        on_the_way = _joints_above(model, model.site(site).bodyid[0])
        if on_the_way != joints:
            found = [model.joint(i).name for i in on_the_way]
            raise ConfigError(f'model: between the base and site {site} are the joints {found}, '
                              f'but joint_names lists {list(joint_names)}')

    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    mujoco.mj_kinematics(model, data)
    positions, quaternions, axes = [], [], []
    origin, frame = np.zeros(3), np.eye(3)
    for index in joints:
        body_frame = data.xmat[model.jnt_bodyid[index]].reshape(3, 3)
        anchor = data.xanchor[index]
        positions.append(frame.T @ (anchor - origin))
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, (frame.T @ body_frame).ravel())
        quaternions.append(quaternion)
        axes.append(model.jnt_axis[index])
        origin, frame = anchor.copy(), body_frame.copy()
    points = [frame.T @ (data.site(site).xpos - origin) for site in sites]
    return KinematicChain(
        joint_positions=_flat(positions), joint_quaternions=_flat(quaternions),
        joint_axes=_flat(axes), tool_points=_flat(points))


def _site_names(model: mujoco.MjModel, tool_sites: str | Sequence[str]) -> list[str]:
    known = [model.site(index).name for index in range(model.nsite)]
    if isinstance(tool_sites, str):
        found = sorted(name for name in known if name.startswith(tool_sites))
        if not found:
            raise ConfigError(f'tool_sites: no site of the model begins with {tool_sites!r}; it '
                              f'has {known}')
        return found
    for name in tool_sites:
        if name not in known:
            raise ConfigError(f'tool_sites: the model has no site {name!r}; it has {known}')
    if not tool_sites:
        raise ConfigError('tool_sites: at least one site is needed')
    return list(tool_sites)


def _joints_above(model: mujoco.MjModel, body: int) -> list[int]:
    """List the joints between the world and a body, from the world on."""
    chain: list[int] = []
    while body != 0:
        first, count = model.body_jntadr[body], model.body_jntnum[body]
        chain = list(range(first, first + count)) + chain
        body = model.body_parentid[body]
    return [int(index) for index in chain]


def _flat(rows: Sequence[np.ndarray]) -> tuple[float, ...]:
    # Rounded to 1e-12: the residue of rotations multiplied out would spoil the YAML of a run.
    return tuple(float(value) + 0.0 for value in np.round(np.concatenate(rows), 12))
