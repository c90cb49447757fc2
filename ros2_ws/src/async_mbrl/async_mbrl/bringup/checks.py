"""Whether the parts of a configuration, each checked by itself, fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import default
from async_mbrl.bringup.composition import Composition, noted
from async_mbrl.bringup.graph import LEARNERS
from async_mbrl.control.settings import TELEOP
from async_mbrl.core.config import ConfigError, load, read_yaml
from async_mbrl.core.robot import ArmConfig, JointLimits, WorkspaceLimits, tighten
from async_mbrl.core.run import RunFolder
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import read_about
from async_mbrl.learning.recorded import INDEX, recorded_text
from async_mbrl.tasks import make_task

HEARTBEATS_IN_TIMEOUT = 4
"""Control ticks, and so heartbeats at the most, that guard must wait for before it acts."""


def check(composition: Composition, origin: Mapping[str, str]) -> Composition:
    """Check that the parts of a configuration fit together.

    Args:
        composition: parts that were each checked by itself.
        origin: files that sections come from, for error messages.

    Returns:
        The configuration, its limits tightened by the robot's model where that is a URDF.

    Raises:
        ConfigError: a part does not fit another one, or the robot's model.
    """
    from async_mbrl.simulation.model import find_model, is_urdf, load_plant

    if composition.where == 'sim' and composition.plant is None:
        raise ConfigError('plant: missing; a robot without it cannot be simulated')
    if composition.robot.kind == 'benchmark':
        _check_body(composition)
    if composition.where == 'real' and composition.run.real_time_factor != 1.0:
        raise ConfigError(f'real_time_factor: {composition.run.real_time_factor}, but a real arm '
                          'keeps to the clock; leave it 1')
    _check_guard(composition)
    check_takeover(composition)
    make_task(composition.task, composition.robot)
    try:
        composition.improvement.check_network(composition.network)
    except ConfigError as error:
        raise ConfigError(f'{error}{stands_in("network", origin)}') from None
    try:
        composition.improvement.check_exploration(composition.exploration)
    except ConfigError as error:
        raise ConfigError(f'{error}{stands_in("exploration", origin)}') from None
    try:
        composition.improvement.check_model(composition.model)
    except ConfigError as error:
        raise ConfigError(f'{error}{stands_in("improvement", origin)}') from None
    if composition.improvement.PLANS and composition.schedule.sequential:
        raise ConfigError(f'schedule.name: {composition.schedule.name}, but '
                          f'{composition.run.algorithm} plans in the newest model while the arm '
                          'moves; use async')
    if composition.run.dataset:
        if composition.run.init_from:
            raise ConfigError(f'init_from: {composition.run.init_from}, but a run with a dataset '
                              'begins with what it learns from that; give one of the two')
        _check_offline(composition)
        if composition.schedule.sequential:
            raise ConfigError(f'schedule.name: {composition.schedule.name}, but a dataset is '
                              'learned from while the arm moves; use async')
    path = find_model(composition.robot.model)
    if is_urdf(path):
        composition = with_urdf(composition, path.read_text(), str(path))
    if composition.plant is not None:
        try:
            load_plant(composition.robot)
        except ConfigError as error:
            raise ConfigError(f'robot.{error}{stands_in("robot", origin)}') from None
    return composition


def check_takeover(composition: Composition) -> None:
    """See to it that a joystick that may take over can move the robot.

    Raises:
        ConfigError: it cannot.
    """
    if composition.takeover.node == TELEOP and (
            flaw := composition.takeover.flaw(composition.robot)):
        raise ConfigError(flaw)


def _check_device(composition: Composition) -> None:
    """See to it that the device of the learners is there, on the machine that they are started on.

    Raises:
        ConfigError: it is not, or the model is to be computed in a way that it has not.
    """
    if composition.run.device != default('device'):
        from async_mbrl.learning.device import find_device  # brings torch
        from async_mbrl.learning.product import check_product

        device = find_device(composition.run.device)
        if composition.improvement.NEEDS_MODEL:
            check_product(composition.model.product, device)


def check_beginning(composition: Composition) -> None:
    """See to it that what a run begins from is there, and where it learns.

    A dataset is of its task and robot, too, and the same that the run has learned from.

    Raises:
        ConfigError: it is not.
    """
    _check_device(composition)
    run = composition.run

    def learned(root: Path) -> bool:
        return any((place / INDEX).is_file() for place in (
            root, *(RunFolder(root).learner(name) for name in LEARNERS)))

    # A run that has learned something of its own looks there no more.
    if run.init_from and not learned(Path(run.run_dir)) and not learned(Path(run.init_from)):
        raise ConfigError(f'init_from: {run.init_from}: nothing has been learned there; name the '
                          'folder of a run that has learned, or of a checkpoint')
    if not run.dataset:
        return
    try:
        about = read_about(Path(run.dataset),
                           identity_of(make_task(composition.task, composition.robot)))
    except ConfigError as error:
        raise ConfigError(f'dataset: {error}; one that has moved is named by --dataset') from None
    for name in LEARNERS:
        digest = recorded_text(RunFolder(Path(run.run_dir)).learner(name), 'offline_digest')
        if digest and digest != about.digest:
            raise ConfigError(
                f'dataset: {run.dataset} has the content {about.digest[:12]}, but {name} of '
                f'{run.run_dir} was learned from a dataset of content {digest[:12]}; name that '
                'one by --dataset, or begin a new run')


def _check_body(composition: Composition) -> None:
    """See to it that a body that exists only in simulation is asked for nothing else.

    Raises:
        ConfigError: it is.
    """
    robot = composition.robot.name
    if composition.where == 'real':
        raise ConfigError(f'where: real, but robot {robot} is a benchmark body, which exists only '
                          'in simulation; start it with: async-mbrl up sim')
    if composition.run.mode == 'use':
        raise ConfigError(f'run.mode: use, but robot {robot} is a benchmark body, to which no '
                          'goals can be given; see what its policy does with: async-mbrl evaluate')
    if composition.model.kind == 'structured':
        raise ConfigError(f'model.kind: structured, but robot {robot} is a benchmark body, of '
                          'which no kinematics is known; use plain')


def _check_offline(composition: Composition) -> None:
    """See to it that the algorithm can learn from a dataset before the arm moves.

    Raises:
        ConfigError: it cannot.
    """
    improvement = composition.improvement
    improvement.check_offline()
    if (improvement.NEEDS_MODEL and improvement.offline_updates
            and not composition.model.offline_updates):
        raise ConfigError(f'improvement.offline_updates: {improvement.offline_updates}, but '
                          'model.offline_updates is 0: the policy would be improved in a model '
                          'that has learned nothing; give both, or make both 0')


def stands_in(section: str, origin: Mapping[str, str]) -> str:
    """Say, for the end of an error message, which file a section comes from, if it is known."""
    return f' (in {origin[section]})' if section in origin else ''


def _check_guard(composition: Composition) -> None:
    """See to it that guard does not take a slow control loop for a silent one.

    Raises:
        ConfigError: heartbeats, of which there is one a control tick at most, come too seldom.
    """
    rate_hz = composition.robot.control_rate_hz * composition.run.real_time_factor
    least_s = HEARTBEATS_IN_TIMEOUT / rate_hz
    if composition.guard.timeout_s < least_s - 1e-9:
        raise ConfigError(f'guard.timeout_s: {composition.guard.timeout_s}, but the controller '
                          f'shows life {rate_hz:g} times a second of wall time (control_rate_hz '
                          f'times real_time_factor); at least {least_s:.3f} s are needed: raise '
                          'control_rate_hz, or guard.timeout_s')


def with_urdf(composition: Composition, description: str, source: str) -> Composition:
    """Tighten the limits of the robot by those of a URDF; they are never loosened.

    Args:
        composition: the configuration.
        description: text of the URDF.
        source: where it comes from, for error messages.

    Raises:
        ConfigError: it is no URDF, or what is left does not fit the robot or the task.
    """
    from async_mbrl.core import urdf

    robot = composition.robot
    assert isinstance(robot, ArmConfig)
    try:
        given = urdf.joint_limits(urdf.parse(description))
        if not set(given) & set(robot.joint_names):
            return noted(composition, f'{source} limits none of the joints: it tightens nothing')
        limits, changes = urdf.tighten(robot.limits, robot.joint_names, given)
        return _tightened(composition, limits, robot.workspace, changes, source)
    except ConfigError as error:
        raise ConfigError(f'robot: {error} (limits of {source})') from None


def with_robot_file(composition: Composition, share: Path) -> Composition:
    """Tighten limits and workspace of an earlier run by what the robot's file says now.

    They are never loosened: what was learned within narrower ones stays there.

    Args:
        composition: configuration of the run.
        share: folder that holds ``config/``.

    Raises:
        ConfigError: the file is not one of a robot, or what is left does not fit.
    """
    robot = composition.robot
    if not isinstance(robot, ArmConfig):
        return composition      # what limits it are its motors, which are those of its model
    file = resources.robot_file(share, composition.robot_file or robot.name)
    if file is None:
        return noted(composition, f'{composition.robot_file or robot.name} is not there any more: '
                      'limits are those that the run had')
    present = read_yaml(file)
    try:
        if tuple(present.get('joint_names') or ()) != robot.joint_names:
            raise ConfigError('joint_names are not those of the run; give the robot a new name')
        limits, changes = tighten(robot.limits, load(
            JointLimits, present.get('limits') or {}, 'limits'), robot.joint_names)
        workspace, more = tighten(robot.workspace, load(
            WorkspaceLimits, present.get('workspace') or {}, 'workspace'), 'xyz')
        return _tightened(composition, limits, workspace, (*changes, *more), str(file))
    except ConfigError as error:
        raise ConfigError(f'robot: {error} (in {file})') from None


def _tightened(composition: Composition, limits: JointLimits, workspace: WorkspaceLimits,
               changes: Sequence[str], source: str) -> Composition:
    """Put in limits; a ConfigError says what does not fit."""
    if not changes:
        return composition
    assert isinstance(composition.robot, ArmConfig)
    robot = dataclasses.replace(composition.robot, limits=limits, workspace=workspace)
    make_task(composition.task, robot)
    return noted(dataclasses.replace(composition, robot=robot),
                 f'limits tightened by {source}: {"; ".join(changes)}')
