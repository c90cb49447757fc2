"""The folder of a run: made, found again, and kept from being used twice at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO

from async_mbrl.bringup import resources
from async_mbrl.bringup.arguments import RunRequest, default
from async_mbrl.bringup.checks import check_takeover, with_robot_file, with_urdf
from async_mbrl.bringup.compose import absolute, compose, compose_use, recompose
from async_mbrl.bringup.composition import Composition, noted, with_run, with_takeover
from async_mbrl.core.config import ConfigError, look_up, read_yaml
from async_mbrl.core.files import link_atomically, write_atomically
from async_mbrl.core.network import policy_architecture
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import architecture_hash
from async_mbrl.reporting.outcome import read_snapshot
from async_mbrl.tasks import make_task

RUNS = 'runs'

_IDENTITY = {'task': 'task.name', 'robot': 'robot.name', 'algorithm': 'run.algorithm',
             'schedule': 'schedule.name', 'seed': 'run.seed', 'where': 'where',
             'init_from': 'run.init_from', 'dry_run': 'run.dry_run',
             'real_time_factor': 'run.real_time_factor'}
"""What a run keeps for life: argument, and key in ``config.yaml``."""


@dataclass(frozen=True)
class OpenRun:
    """A run that may start: nobody else has its folder while ``lock`` is open."""

    composition: Composition
    folder: RunFolder
    resumed: bool
    lock: IO[str]


def open_run(request: RunRequest, share: Path, working: Path, now: datetime,
             check: Callable[[Composition], None] = lambda _: None,
             description: Callable[[], str | None] = lambda: None) -> OpenRun:
    """Check the configuration, then make the folder of a new run or open that of an old one.

    Args:
        request: what was asked for.
        share: folder that holds ``config/`` of the package.
        working: folder in which ``runs/`` lies.
        now: date and time, for the name of a new folder.
        check: called with the configuration that was found good, before anything is written; may
            raise.
        description: called then, for a real arm: gives the URDF that its driver publishes, None
            if it does not. It tightens the limits of the robot; so does the file of the robot,
            where the run began before.

    Raises:
        ConfigError: the configuration does not fit, the folder is that of another run, is in use,
            or cannot be written. Nothing has been started, and no folder made in the first case.
    """
    root = _root(request, share, working, now)
    existing = (root / 'config.yaml').exists()
    if existing:
        composition = resume(request, root)
    else:
        if root.is_dir() and any(path.name != '.lock' for path in root.iterdir()):
            raise ConfigError(f'run_dir: {root} exists, but is not the folder of a run (it has no '
                              'config.yaml); name another one')
        composition = compose(request, share, root)
    return _open(composition, root, existing, share, working, check, description)


def open_use(request: RunRequest, source: Path, share: Path, working: Path, now: datetime,
             check: Callable[[Composition], None] = lambda _: None,
             description: Callable[[], str | None] = lambda: None) -> OpenRun:
    """Make the folder of a run that uses what the run in ``source`` has learned.

    Arguments are those of :func:`open_run`.

    Raises:
        ConfigError: the other run has no policy that can be used, goes on, or the new folder
            cannot be written.
    """
    learned = read_run(source)
    require_idle(source)
    root = _root(replace(request, task=learned.task.name, run_dir=None), share, working, now,
                 '-use')
    composition = compose_use(learned, source.resolve(), request, root)
    policy = RunFolder(source.resolve()).policy
    snapshot = read_snapshot(policy)
    expected = policy_architecture(composition.network,
                                   make_task(composition.task, composition.robot))
    if architecture_hash(snapshot.architecture) != architecture_hash(expected):
        raise ConfigError(f'{policy}: not a policy for the robot, task and network of '
                          f'{source / "config.yaml"}; name a run whose files were left alone')
    return _open(composition, root, False, share, working, check, description)


def _open(composition: Composition, root: Path, existing: bool, share: Path, working: Path,
          check: Callable[[Composition], None],
          description: Callable[[], str | None]) -> OpenRun:
    check(composition)
    if composition.where == 'real':
        if existing or composition.run.mode == 'use':   # begun with the file of another day
            composition = with_robot_file(composition, share)
        urdf = description()
        composition = (noted(composition, 'no robot_description was heard: it tightens no limits')
                       if urdf is None else with_urdf(composition, urdf, 'robot_description'))
    folder = RunFolder(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = _lock(root)
        write_atomically(folder.config, composition.to_yaml())
        if composition.run.mode == 'learn':     # what was learned last is what is used next
            _point_latest(working, root)
    except OSError as error:
        raise ConfigError(f'run_dir: cannot write {root}: {error.strerror}; free some space, or '
                          'name another folder') from None
    return OpenRun(composition, folder, existing, lock)


def resume(request: RunRequest, root: Path) -> Composition:
    """Give the configuration of an existing run, its motion time extended if that was asked for.

    Raises:
        ConfigError: the folder belongs to another run than the one asked for, or something was
            asked for that cannot change once a run has begun.
    """
    source = root / 'config.yaml'
    mapping = read_yaml(source)
    if look_up(mapping, 'run.mode') == 'use':
        raise ConfigError(f'run_dir: {root} is a run that used a policy, it cannot be resumed; '
                          f'use the policy again with: async-mbrl run '
                          f'{look_up(mapping, "run.policy_from")}')
    if request.dry_run is None:     # to move a real arm is said anew each time
        request = replace(request, dry_run=request.where == 'real')
    for name, path in _IDENTITY.items():
        asked, found = getattr(request, name), look_up(mapping, path)
        if name == 'robot' and asked is not None:
            asked = Path(asked).stem if asked.endswith('.yaml') else asked
        if name == 'init_from' and asked:
            asked = absolute(asked)
        if asked is not None and asked != found:
            raise ConfigError(f'run_dir: {root} is a run with {name} {found}, but {name} {asked} '
                              'was asked for; name another folder, or ask for the same')
    composition = recompose(mapping, source)
    if request.set:
        raise ConfigError(f'set: {root} is a run that has begun, its configuration stays as it '
                          'is; only motion_time may grow')
    motion_time = composition.collection.motion_time_s
    if request.motion_time is not None:
        if request.motion_time < motion_time:
            raise ConfigError(f'motion_time: {request.motion_time} is less than the {motion_time} '
                              f'of {root}; a run can only be extended')
        motion_time = request.motion_time
    if request.dataset is not None:     # it may have moved; its content is checked by learners
        if not composition.run.dataset:
            raise ConfigError(f'dataset: {root} is a run that began without one; name another '
                              'folder')
        composition = replace(composition, run=replace(composition.run,
                                                       dataset=absolute(request.dataset)))
    if request.device is not None:      # what was learned does not depend on where
        composition = replace(composition, run=replace(composition.run, device=request.device))
    if request.robot is not None and request.robot.endswith('.yaml'):     # it may have moved
        file = Path(request.robot).expanduser().resolve()
        composition = replace(composition, robot_file=str(file))
    # Who may move an arm is said anew each time, too.
    composition = with_takeover(composition, request.takeover_node)
    check_takeover(composition)
    return with_run(composition, root, motion_time)


def as_begun(request: RunRequest, working: Path) -> RunRequest:
    """Fill in where the arm is, and whether it moves, of the run that a request is for, if any.

    For what is done to a run while no arm can move.

    Raises:
        ConfigError: the configuration of the run cannot be read.
    """
    source = working / Path(request.run_dir or '').expanduser() / 'config.yaml'
    if request.run_dir is None or not source.exists():
        return request
    mapping = read_yaml(source)
    return replace(request, where=look_up(mapping, 'where'),
                   dry_run=look_up(mapping, 'run.dry_run'))


def start_lines(run: OpenRun, commands: bool = True) -> list[str]:
    """Say what begins, which limits are tightened, and whether the arm will move.

    Args:
        run: the run.
        commands: whether what commands the arm is started here, or on another machine, which
            then says whether it will move.
    """
    composition = run.composition
    robot = composition.robot.name
    if composition.run.mode == 'use':
        lines = [f'new run in {run.folder.root}: {robot} uses what was learned in '
                 f'{composition.run.policy_from}; publish goals on the topic goal']
    else:
        what = 'resuming' if run.resumed else 'new run'
        lines = [f'{what} in {run.folder.root}: {robot} learns {composition.task.name} with '
                 f'{composition.run.algorithm}, seed {composition.run.seed}, '
                 f'{composition.collection.motion_time_s:.0f} s of motion']
    lines += composition.notes
    if not commands:
        return lines
    if composition.takeover.node:
        lines.append(f'node {composition.takeover.node} may take over in learning episodes')
    if composition.run.dry_run:
        lines.append('DRY RUN: nothing is sent to the arm')
    elif composition.where == 'real':
        lines.append(f'THE ARM WILL MOVE: commands go to {composition.robot.commands_topic}; keep '
                     'clear of it, and the emergency stop at hand')
    return lines


def read_run(root: Path) -> Composition:
    """Give the configuration of a run that is to be looked at.

    Raises:
        ConfigError: the folder is not that of a run, or its configuration does not fit.
    """
    source = root / 'config.yaml'
    if not source.exists():
        raise ConfigError(f'{root}: not the folder of a run (it has no config.yaml)')
    composition = recompose(read_yaml(source), source)
    return with_run(composition, root.resolve(), composition.collection.motion_time_s)


def require_idle(root: Path) -> None:
    """Make sure that no run goes on in a folder.

    Raises:
        ConfigError: one does.
    """
    try:
        lock = open(root / '.lock')  # noqa: SIM115  closed below
    except OSError:
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f'{root}: a run goes on in this folder; wait until it has '
                              'ended') from None


def _root(request: RunRequest, share: Path, working: Path, now: datetime,
          suffix: str = '') -> Path:
    if request.run_dir is not None:
        return (working / Path(request.run_dir).expanduser()).resolve()
    task = request.task or resources.own_task(resources.robot_file(
        share, request.robot or default('robot')))
    name = f'{now:%Y%m%d-%H%M%S}-{task}{suffix}'
    root = working.resolve() / RUNS / name
    number = 2
    while root.exists():
        root = root.with_name(f'{name}-{number}')
        number += 1
    return root


def _lock(root: Path) -> IO[str]:
    lock = open(root / '.lock', 'w')  # noqa: SIM115  held as long as the run goes on
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f'run_dir: {root} is in use by a run that goes on; end it first, or '
                          'name another folder') from None
    return lock


def _point_latest(working: Path, root: Path) -> None:
    """Let ``runs/latest`` point to the run, where there is a ``runs`` folder at all."""
    runs = working.resolve() / RUNS
    if not runs.is_dir():
        if root.parent.name != RUNS:
            return
        runs = root.parent
    latest = runs / 'latest'
    if latest.is_dir() and not latest.is_symlink():
        raise ConfigError(f'{latest} is a folder, not a link to the newest run; move it away')
    link_atomically(latest, root)
