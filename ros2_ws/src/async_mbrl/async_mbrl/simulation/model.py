"""Robot models in MJCF and URDF: finding, loading, checking, and their kinematic table."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import KinematicChain
from async_mbrl.core.robot import ArmConfig, BenchmarkConfig, RobotConfig
from async_mbrl.simulation.urdf import load_urdf

_PACKAGE = 'async_mbrl'

_GYMNASIUM = 'gymnasium:'
"""Begins the name of a model that lies in the package gymnasium."""

_FREE = ('_x', '_y', '_z', '_qw', '_qx', '_qy', '_qz')
"""What is put behind the name of a free joint to name each number of its position."""

_AT_ORIGIN = 1e-6
"""Difference, in m and of rotation matrices, up to which a link stands at the origin."""


def find_model(name: str) -> Path:
    """Find a model by the name of a file in the package's ``sim/`` folder, or by a path.

    The folder next to the source comes first, so that edits act at once, then the share folders
    of the ament prefixes.

    Raises:
        ConfigError: there is no such file; the message lists where it was looked for.
    """
    if name.startswith(_GYMNASIUM):
        return _find_in_gymnasium(name.removeprefix(_GYMNASIUM))
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


def _find_in_gymnasium(name: str) -> Path:
    # Importing it would cost every process more than finding it.
    package = importlib.util.find_spec('gymnasium')
    if package is None or package.origin is None:
        raise ConfigError(f'model: {_GYMNASIUM}{name} lies in the Python package gymnasium, which '
                          'is not installed; run: pip install gymnasium')
    folder = Path(package.origin).parent / 'envs' / 'mujoco' / 'assets'
    if os.sep in name or not (folder / name).is_file():
        known = sorted(path.name for path in folder.glob('*.xml'))
        raise ConfigError(f'model: {_GYMNASIUM}{name} is not one of the models of gymnasium: '
                          f'{", ".join(known)}')
    return folder / name


def is_urdf(path: Path) -> bool:
    """Say whether a file is a URDF, by its name."""
    return path.suffix.lower() == '.urdf'


def load_model(path: Path) -> mujoco.MjModel:
    """Load an MJCF or URDF model as it is.

    Raises:
        ConfigError: the file does not exist or is no valid model.
    """
    return _compile(_load_spec(path), path)


def load_plant(robot: RobotConfig) -> mujoco.MjModel:
    """Load the model of a robot, ready to be simulated.

    A model without actuators, as of a URDF, is given a motor for each joint of the robot, and
    gravity compensation unless the robot says that it has none.

    Raises:
        ConfigError: the model does not exist, is not valid, or does not fit the robot.
    """
    path = find_model(robot.model)
    spec = _load_spec(path)
    if not spec.actuators and isinstance(robot, ArmConfig):
        known = [joint.name for joint in spec.joints]
        for name in robot.joint_names:
            if name not in known:
                raise ConfigError(f'joint_names: the model has no joint {name!r}; it has {known}')
            spec.add_actuator(name=name, target=name,
                              trntype=mujoco.mjtTrn.mjTRN_JOINT).set_to_motor()
        if robot.gravity_compensated or robot.command_interface != 'effort':
            for body in spec.bodies[1:]:
                body.gravcomp = 1.0
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model = _compile(spec, path)
    check_model(model, robot)
    return model


def _load_spec(path: Path) -> mujoco.MjSpec:
    if not path.is_file():
        raise ConfigError(f'model: no file {path}')
    if is_urdf(path):
        return load_urdf(path)
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise ConfigError(f'model: {path} is not a valid MJCF model: {error}') from None


def _compile(spec: mujoco.MjSpec, path: Path) -> mujoco.MjModel:
    # Warnings of the compiler are those of the binding; MuJoCo writes a file into the working
    # directory as well, unless somebody takes them.
    mujoco.set_mju_user_warning(_ignore)
    try:
        with warnings.catch_warnings():
            # The half-cheetah of gymnasium is as it is.
            warnings.filterwarnings('ignore', "compiler attribute 'settotalmass' is deprecated")
            return spec.compile()
    except ValueError as error:
        raise ConfigError(f'model: {path} is not a valid model: {error}') from None
    finally:
        mujoco.set_mju_user_warning(None)


def _ignore(_message: str) -> None:
    pass


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


def free_roots(model: mujoco.MjModel) -> list[int]:
    """List the joints that leave a body free in space."""
    return [index for index in range(model.njnt)
            if model.jnt_type[index] == mujoco.mjtJoint.mjJNT_FREE]


def state_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """Name the numbers of the position of a model, in their order.

    Raises:
        ConfigError: there is a ball joint, for which there are no names.
    """
    names: list[str] = []
    for index in range(model.njnt):
        name, kind = model.joint(index).name, model.jnt_type[index]
        if kind == mujoco.mjtJoint.mjJNT_BALL:
            raise ConfigError(f'model: joint {name} is a ball')
        free = kind == mujoco.mjtJoint.mjJNT_FREE
        names += [name + end for end in _FREE] if free else [name]
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
    if isinstance(robot, BenchmarkConfig):
        _check_body(model, robot)
        return
    assert isinstance(robot, ArmConfig)
    limits = robot.limits
    for index, name in enumerate(actuated):
        joint, actuator = model.joint(name), model.actuator(index)
        if joint.type[0] != mujoco.mjtJoint.mjJNT_HINGE:
            raise ConfigError(f'model: joint {name} is not a hinge')
        if (actuator.gear[0] != 1.0 or actuator.gaintype[0] != mujoco.mjtGain.mjGAIN_FIXED
                or actuator.gainprm[0] != 1.0
                or actuator.biastype[0] != mujoco.mjtBias.mjBIAS_NONE):
            raise ConfigError(f'model: actuator of {name} is not a motor of gear 1, so that its '
                              'control is a torque; make it one, or give the model no actuators '
                              'at all, then motors are added')
        low, high = joint.range if joint.limited[0] else (-np.inf, np.inf)
        if limits.position_lower[index] < low or limits.position_upper[index] > high:
            raise ConfigError(
                f'limits: [{limits.position_lower[index]}, {limits.position_upper[index]}] of '
                f'{name} leaves the range of the model [{low}, {high}]')
        strongest = min(-actuator.ctrlrange[0], actuator.ctrlrange[1])
        if actuator.ctrllimited[0] and limits.effort[index] > strongest:
            raise ConfigError(f'limits.effort: {limits.effort[index]} of {name} is more than its '
                              f'motor gives, {strongest}')


def _check_body(model: mujoco.MjModel, robot: BenchmarkConfig) -> None:
    if state_names(model) != robot.state_joint_names:
        raise ConfigError(f'state_joint_names: {list(robot.state_joint_names)} are not those of '
                          f'the model in their order, {list(state_names(model))}')
    for index, name in enumerate(robot.joint_names):
        actuator = model.actuator(index)
        if (actuator.gaintype[0] != mujoco.mjtGain.mjGAIN_FIXED or actuator.gainprm[0] != 1.0
                or actuator.biastype[0] != mujoco.mjtBias.mjBIAS_NONE
                or actuator.ctrlrange[0] != -actuator.ctrlrange[1]):
            raise ConfigError(f'model: actuator of {name} is not a motor that gives as much to '
                              'either side')
        most = actuator.gear[0] * actuator.ctrlrange[1]
        if not np.isclose(robot.action_scale[index], most):
            raise ConfigError(f'action_scale: {robot.action_scale[index]} of {name}, but its motor '
                              f'gives {most} (gear times range of the control); give that')


def robot_kinematics(robot: Mapping[str, Any]) -> KinematicChain:
    """Take the table for forward kinematics out of the model that a robot names.

    Args:
        robot: keys of :class:`RobotConfig` as read from its file: ``model``, ``joint_names``,
            ``base_frame``, and ``tool_sites`` or else ``tool_link`` and ``tool_points``.

    Raises:
        ConfigError: as :func:`kinematics_from_model`; or the base frame is a link that does not
            stand at the origin of the model.
    """
    model = load_model(find_model(robot['model']))
    _check_base(model, robot.get('base_frame') or ArmConfig.base_frame)
    return kinematics_from_model(
        model, robot['joint_names'], robot.get('tool_sites') or (), robot.get('tool_link') or '',
        robot.get('tool_points') or ())


def _check_base(model: mujoco.MjModel, name: str) -> None:
    """Refuse a base frame in which the poses of the model would be wrong."""
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if body < 0:
        return      # a name for the world of the model
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    if _joints_above(model, body) or not (
            np.allclose(data.xpos[body], 0.0, atol=_AT_ORIGIN)
            and np.allclose(data.xmat[body], np.eye(3).ravel(), atol=_AT_ORIGIN)):
        raise ConfigError(
            f'base_frame: link {name!r} is at {np.round(data.xpos[body], 4).tolist()} m in the '
            'model, turned or moving perhaps, but poses are given in the frame of its world; name '
            'that frame, or let the model begin with the link')


def kinematics_from_model(model: mujoco.MjModel, joint_names: Sequence[str],
                          tool_sites: str | Sequence[str] = (), tool_link: str = '',
                          tool_points: Sequence[float] = ()) -> KinematicChain:
    """Take the table for forward kinematics out of a model.

    Args:
        model: the model.
        joint_names: hinges of a serial chain, from the base on.
        tool_sites: names of the sites that are the tool points, or what those names begin with;
            sites found by their beginning are ordered by name.
        tool_link: link that carries the tool points, where no sites do.
        tool_points: (points, 3) in the frame of that link, m.

    Raises:
        ConfigError: no such joint, site or link, joints do not form a serial chain from base to
            tool, or a joint in the chain is not listed.
    """
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
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    mujoco.mj_kinematics(model, data)
    tools = _tools(model, data, tool_sites, tool_link, tool_points)
    for what, body, _ in tools:
        on_the_way = _joints_above(model, body)
        if on_the_way != joints:
            found = [model.joint(i).name for i in on_the_way]
            raise ConfigError(f'model: between the base and {what} are the joints {found}, but '
                              f'joint_names lists {list(joint_names)}')

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
    points = [frame.T @ (position - origin) for _, _, position in tools]
    tool_frame: tuple[float, ...] = ()
    if tool_link and not tool_sites:
        link = tools[0][1]
        corners = data.xpos[link] + np.vstack([np.zeros(3), data.xmat[link].reshape(3, 3).T])
        tool_frame = _flat([frame.T @ (corner - origin) for corner in corners])
    return KinematicChain(
        joint_positions=_flat(positions), joint_quaternions=_flat(quaternions),
        joint_axes=_flat(axes), tool_points=_flat(points), tool_frame=tool_frame)


def _tools(model: mujoco.MjModel, data: mujoco.MjData, sites: str | Sequence[str], link: str,
           points: Sequence[float]) -> list[tuple[str, int, np.ndarray]]:
    """Give what carries each tool point, its body, and where the point is now, (3,), m."""
    if sites or not link:
        names = _site_names(model, sites)
        return [(f'site {name}', int(model.site(name).bodyid[0]), data.site(name).xpos)
                for name in names]
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, link)
    if body < 0:
        known = [model.body(index).name for index in range(1, model.nbody)]
        raise ConfigError(f'tool_link: the model has no link {link!r}; it has {known}')
    if not points or len(points) % 3:
        raise ConfigError(f'tool_points: {len(points)} numbers; give x, y, z of each point, at '
                          f'least one, in the frame of {link}')
    turn = data.xmat[body].reshape(3, 3)
    return [(f'link {link}', body, data.xpos[body] + turn @ np.asarray(row))
            for row in np.reshape(points, (-1, 3))]


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
        raise ConfigError('tool_sites: none given, and no tool_link; name the sites that are the '
                          'tool points, or the link that carries tool_points')
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
