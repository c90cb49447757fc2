"""``async-mbrl dataset``: its arguments. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_mbrl.core.config import ConfigError

if TYPE_CHECKING:
    from async_mbrl.datasets.episodes import GoalRule

ACTORS = ('unknown', 'policy', 'planner', 'script', 'human')
"""Who may have chosen the actions of foreign data; names of ``columns.Source``."""

_CHECKED = """\
exit status:
  0    no error was found; notes are worth a look
  1    errors were found
  2    not a dataset
"""


def add_dataset(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand with all of its own."""
    dataset = commands.add_parser(
        'dataset', help='make datasets of runs, bags and foreign data; look at them',
        description='Make datasets of runs, rosbag2 recordings and foreign data, look at them, put '
        'them together and divide them.')
    actions = dataset.add_subparsers(metavar='ACTION', required=True)
    _add_import(actions)

    info = actions.add_parser('info', help='tell what is in a dataset',
                              description='Tell what is in a dataset.')
    _add_folder(info)
    _add_skip(info)
    info.add_argument('--json', action='store_true', help='print JSON, with everything')
    info.set_defaults(run=_info)

    check = actions.add_parser(
        'check', help='look for what is wrong with a dataset', epilog=_CHECKED,
        description='Look for what is wrong with a dataset: damage, numbers that are not finite, '
        'actions beyond their limit, units, gaps, episodes that come twice or have no end.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_folder(check)
    check.set_defaults(run=_check)

    merge = actions.add_parser('merge', help='put datasets of one task and robot together',
                               description='Put datasets of one task and robot together.')
    merge.add_argument('datasets', type=Path, nargs='+', metavar='DATASET')
    _add_output(merge)
    merge.set_defaults(run=_merge)

    split = actions.add_parser(
        'split', help='divide a dataset by whole episodes',
        description='Divide a dataset by whole episodes: a share drawn at random, those of the '
        'greatest returns, or those that somebody acted in, go into the first folder, the others '
        'into the second.')
    _add_folder(split)
    split.add_argument('first', type=Path, metavar='FIRST', help='new folder')
    split.add_argument('second', type=Path, metavar='SECOND', help='new folder for the others')
    how = split.add_mutually_exclusive_group(required=True)
    how.add_argument('--share', type=float, metavar='X',
                     help='share of the episodes that goes into the first, in (0, 1)')
    how.add_argument('--return-quantile', type=float, metavar='X',
                     help='quantile of the returns, in (0, 1): episodes from it on go into the '
                     'first')
    how.add_argument('--actor', choices=ACTORS,
                     help='who has chosen at least one action of the episodes that go into the '
                     'first; human: those that a person took over or demonstrated')
    split.add_argument('--seed', type=int, default=0, metavar='N',
                       help='seed of what is drawn (default: 0)')
    split.set_defaults(run=_split)


def _add_import(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        'import', help='make a dataset of runs, bags or foreign data',
        description='Make a dataset of runs (RUN_DIR), rosbag2 recordings, HDF5 files of D4RL, '
        'Minari or LeRobot folders. Runs and their recordings tell their task and robot; for '
        'everything else give --task and --robot.')
    parser.add_argument('sources', type=Path, nargs='+', metavar='SOURCE',
                        help='run folder, rosbag2 folder, HDF5 file, Minari or LeRobot folder')
    _add_output(parser)
    parser.add_argument('--task', metavar='NAME', help='task that the data are of')
    parser.add_argument('--robot', metavar='NAME', help='robot: a name, or the path of a YAML file')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change of their configuration, e.g. task.policy_rate_hz=20. May be '
                        'repeated.')
    parser.add_argument('--goal', metavar='X',
                        help='goal of every episode: reached, where the tool was at the end; '
                        'drawn, as the task draws them; or its numbers, in those of the task, e.g. '
                        '--goal=-0.1,0.5,0.9')
    parser.add_argument('--actor', choices=ACTORS, default='unknown',
                        help='who chose the actions (default: unknown)')
    parser.add_argument('--joint-states', metavar='TOPIC',
                        help='sensor_msgs/JointState in a bag (default: that of the robot, or the '
                        'only one)')
    parser.add_argument('--commands', metavar='TOPIC',
                        help='std_msgs/Float64MultiArray or trajectory_msgs/JointTrajectory in a '
                        'bag (default: that of the robot)')
    parser.add_argument('--gap', type=float, default=1.0, metavar='X',
                        help='pause of the joint states that divides a bag, and age at which a '
                        'command counts no more, s (default: 1.0)')
    parser.add_argument('--own-rewards', action='store_true',
                        help='compute the rewards of the task where an HDF5 file has others')
    parser.add_argument('--degrees', action='store_true',
                        help='angles of a LeRobot dataset are in degrees')
    parser.add_argument('--seed', type=int, default=0, metavar='N',
                        help='seed of goals that are drawn (default: 0)')
    _add_skip(parser)
    parser.set_defaults(run=_import)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='folder of the dataset')


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder of the new dataset; must not exist')


def _add_skip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--skip-damaged', action='store_true',
                        help='leave out what is damaged, and say so, instead of giving up')


def _import(options: argparse.Namespace) -> int:
    from async_mbrl.datasets.columns import Source
    from async_mbrl.datasets.importing import ImportOptions, import_sources

    if not 0.0 < options.gap < 1e6:
        raise ConfigError(f'gap: {options.gap:g} is not a time above 0, s')
    if options.seed < 0:
        raise ConfigError(f'seed: {options.seed} is below the minimum 0')
    about = import_sources(options.sources, options.output, _task(options), ImportOptions(
        goal=_goal(options.goal), actor=Source[options.actor.upper()],
        joint_states=options.joint_states, commands=options.commands, gap_s=options.gap,
        own_rewards=options.own_rewards, degrees=options.degrees, seed=options.seed,
        skip_damaged=options.skip_damaged))
    print(f'{about.folder}: {about.transitions} transitions, {about.bytes / 1e6:.1f} MB')
    return 0


def _task(options: argparse.Namespace) -> Any | None:
    """Build the task that was asked for; None if none was.

    Raises:
        ConfigError: it does not fit, or nothing tells the robot.
    """
    if options.robot is None:
        if options.task is not None or options.set:
            raise ConfigError('robot: missing; give --robot beside --task and --set')
        return None
    from async_mbrl.bringup.arguments import RunRequest
    from async_mbrl.bringup.compose import compose
    from async_mbrl.bringup.resources import robot_file, share_folder
    from async_mbrl.tasks import make_task

    share = share_folder()
    file = robot_file(share, options.robot)
    # An arm of which there is no simulation is as good here.
    real = file is not None and not file.with_suffix('.sim.yaml').exists()
    composition = compose(RunRequest(where='real' if real else 'sim', task=options.task,
                                     robot=options.robot, set=tuple(options.set)), share, Path())
    return make_task(composition.task, composition.robot)


def _goal(text: str | None) -> GoalRule | None:
    from async_mbrl.datasets.episodes import GoalRule

    if text is None:
        return None
    if text in ('reached', 'drawn'):
        return GoalRule(text)
    try:
        return GoalRule('fixed', tuple(map(float, text.split(','))))
    except ValueError:
        raise ConfigError(f'goal: {text[:60]!r} is neither numbers with commas between them, nor '
                          'reached, nor drawn') from None


def _info(options: argparse.Namespace) -> int:
    import json

    from async_mbrl.datasets.statistics import describe

    told = describe(options.dataset, skip_damaged=options.skip_damaged)
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    print(f'{told["folder"]}: {told["task"]}, {told["robot"]} ({told["command_interface"]}), '
          f'{told["policy_rate_hz"]:g} Hz')
    print(f'  {told["transitions"]} transitions, {told["episodes"]} episodes, '
          f'{told["robot_time_s"]:.1f} s of motion; {told["shards"]} files, '
          f'{told["bytes"] / 1e6:.1f} MB')
    print(f'  observation {told["observation_size"]}, action {told["action_size"]}; '
          f'{told["terminated"]} terminated, {told["truncated"]} truncated, '
          f'{told["intervened"]} intervened')
    if told['actors']:
        for title, spread in (('return', told['return']), ('steps', told['steps_of_an_episode'])):
            print(f'  {title}: ' + ', '.join(
                f'{name} {value:.4g}' for name, value in spread.items()))
        print('  actions by: ' + ', '.join(
            f'{name} {count} ({count / told["transitions"]:.1%})'
            for name, count in told['actors'].items()))
    else:
        print('  nothing more can be read of it')
    for source in told['sources']:
        divided = source.get('divided')
        part = (f', the {divided.get("part")} part of a split by {divided.get("split")}'
                if isinstance(divided, dict) else '')
        print(f'  from {source.get("path")}: {source.get("format")}, '
              f'{source.get("transitions")} transitions{part}')
    return 0


def _check(options: argparse.Namespace) -> int:
    from async_mbrl.datasets.checking import check

    findings = check(options.dataset)
    for finding in findings:
        print(finding)
    errors = sum(finding.error for finding in findings)
    print(f'{options.dataset}: {errors} errors, {len(findings) - errors} notes')
    return 1 if errors else 0


def _merge(options: argparse.Namespace) -> int:
    from async_mbrl.datasets.editing import merge

    about = merge(options.datasets, options.output)
    print(f'{about.folder}: {about.transitions} transitions, {about.episodes} episodes')
    return 0


def _split(options: argparse.Namespace) -> int:
    from async_mbrl.datasets.columns import Source
    from async_mbrl.datasets.editing import split

    if options.seed < 0:
        raise ConfigError(f'seed: {options.seed} is below the minimum 0')
    for about in split(options.dataset, options.first, options.second, share=options.share,
                       return_quantile=options.return_quantile, seed=options.seed,
                       actor=None if options.actor is None else Source[options.actor.upper()]):
        print(f'{about.folder}: {about.transitions} transitions, {about.episodes} episodes')
    return 0
