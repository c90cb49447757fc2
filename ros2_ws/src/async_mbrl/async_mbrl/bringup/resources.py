"""Where the package keeps its YAML files and models, installed or in the source tree."""

from __future__ import annotations

from pathlib import Path

from async_mbrl.core.config import ConfigError, read_yaml

PACKAGE = 'async_mbrl'


def share_folder() -> Path:
    """Give the folder that holds ``config/``, ``sim/`` and ``launch/`` of this package.

    Next to the source if the package runs from there, so that edits act at once; otherwise where
    the ament index says.

    Raises:
        ConfigError: neither place has them.
    """
    source = Path(__file__).resolve().parents[2]
    if (source / 'config' / 'robots').is_dir():
        return source
    try:
        from ament_index_python.packages import (
            PackageNotFoundError,
            get_package_share_directory,
        )
        share = Path(get_package_share_directory(PACKAGE))
    except ImportError:
        raise ConfigError(f'package {PACKAGE}: config/ is not at {source}, and there is no ament '
                          'index; build the workspace and source install/setup.bash') from None
    except PackageNotFoundError:
        raise ConfigError(f'package {PACKAGE}: not in the ament index; build the workspace and '
                          'source install/setup.bash') from None
    if not (share / 'config' / 'robots').is_dir():
        raise ConfigError(f'package {PACKAGE}: {share} has no config/robots; build it again')
    return share


def robots(share: Path) -> tuple[str, ...]:
    """List the robots described in the package; ``<robot>.sim.yaml`` belongs to a robot."""
    names = (path.name.removesuffix('.yaml') for path in (share / 'config/robots').glob('*.yaml'))
    return tuple(sorted(name for name in names if '.' not in name))


def robot_file(share: Path, robot: str) -> Path | None:
    """Find the file of a robot by its name in the package, or by the path of a YAML file.

    Beside the file of a robot ``<robot>.yaml`` lie ``<robot>.sim.yaml``, if it can be simulated,
    and for a robot that is not in the package ``<task>.<robot>.yaml``, where it does a task.

    Returns:
        The file; None if there is neither.
    """
    if robot in robots(share):
        return share / 'config' / 'robots' / f'{robot}.yaml'
    path = Path(robot).expanduser()
    return path.resolve() if path.suffix == '.yaml' and path.is_file() else None


def own_task(robot_file: Path | None) -> str:
    """Give the task that a robot does if none is asked for: one of its own, or ``reach``.

    Raises:
        ConfigError: the file cannot be read.
    """
    task = None if robot_file is None else read_yaml(robot_file).get('task')
    return task if isinstance(task, str) else 'reach'


def tasks(share: Path) -> tuple[str, ...]:
    """List the tasks described in the package; ``<task>.<robot>.yaml`` belongs to a task."""
    names = (path.name.removesuffix('.yaml') for path in (share / 'config/tasks').glob('*.yaml'))
    return tuple(sorted(name for name in names if '.' not in name))


def algorithms(share: Path) -> tuple[str, ...]:
    """List the algorithms described in the package; ``<algorithm>.<robot>.yaml`` belongs to one."""
    names = (path.name.removesuffix('.yaml')
             for path in (share / 'config/algorithms').glob('*.yaml'))
    return tuple(sorted(name for name in names if '.' not in name))
