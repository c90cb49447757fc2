"""The ``async-mbrl`` command. What a subcommand needs is imported when it runs, not before."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from async_mbrl.bringup.arguments import (
    ARGUMENTS,
    PLACES,
    Argument,
    RunRequest,
    parse_request,
)
from async_mbrl.core.config import ConfigError
from async_mbrl.datasets.command import add_dataset

if TYPE_CHECKING:
    from async_mbrl.bringup.composition import Composition
    from async_mbrl.core.run import RunFolder

_STATUS = """\
exit status:
  0    the run is complete and its policy meets the success rate of the task
  1    the run failed; the reason is said
  2    the configuration does not fit; nothing was moved
  3    the run is complete, but its policy misses the success rate of the task
  130  interrupted (143: asked to terminate); the run can be resumed
"""


_EMULATED = ('task', 'robot', 'algorithm', 'schedule', 'seed', 'dataset', 'device', 'set')
"""Arguments of a run that also make sense where nothing takes wall time."""
_COMPOSED = ('task', 'robot', 'algorithm', 'schedule', 'set')
"""Arguments of a run on which its settings depend."""
_PRETRAINED = tuple(argument.name for argument in ARGUMENTS
                    if argument.name not in ('schedule', 'init_from', 'takeover'))
"""Arguments of a run that begins without a robot."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        where = f'{error.filename}: ' if error.filename else ''
        print(f'error: {where}{error.strerror or error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='async-mbrl', description='Robot arms learn while they move: asynchronous '
        'model-based reinforcement learning on ROS 2.')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    up = commands.add_parser(
        'up', help='start the whole graph, learn, evaluate, report', epilog=_STATUS,
        description='Start the whole graph, show how it learns, then evaluate and report.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    up.add_argument('where', choices=PLACES, help='simulation, or a real arm, which gets no '
                    'commands unless --no-dry-run is given')
    for argument in ARGUMENTS:
        _add(up, argument)
    up.add_argument('--episodes', type=_at_least_one, default=200, metavar='N',
                    help='goals of the offline evaluation at the end (default: 200)')
    up.add_argument('--no-view', action='store_true',
                    help='print plain lines instead of a live view')
    up.add_argument('--no-video', action='store_true',
                    help='make no animation of before and after')
    up.set_defaults(run=_up)

    pretrain = commands.add_parser(
        'pretrain', help='learn from a dataset, before the run goes online',
        description='Learn from a dataset without a robot, in the folder of a run: of a new one, '
        'for which --dataset is needed, or of one that was interrupted or made by a launch file. '
        'async-mbrl up --run-dir goes on from there online; with --dataset it does all of this by '
        'itself.')
    pretrain.add_argument('--where', choices=PLACES, default='sim',
                          help='where the arm of a new run will be (default: sim)')
    for argument in ARGUMENTS:
        if argument.name in _PRETRAINED:
            _add(pretrain, argument)
    pretrain.set_defaults(run=_pretrain)

    emulate = commands.add_parser(
        'emulate', help='learn in simulation on an emulated clock: one process, the same numbers '
        'each time', description='Learn in simulation on an emulated clock, without ROS: robot and '
        'learners take turns in one process as the schedule says, and a seed gives the same '
        'numbers each time.')
    for argument in ARGUMENTS:
        if argument.name in _EMULATED:
            _add(emulate, argument)
    emulate.add_argument('--samples', type=_at_least_one, default=10_000, metavar='N',
                         help='transitions to collect (default: 10000)')
    emulate.add_argument('--output', type=Path, default=None, metavar='FILE',
                         help='JSON file for the learning curve and all other figures')
    emulate.set_defaults(run=_emulate)

    settings = commands.add_parser(
        'settings', help='list what can be set, with values, ranges and meanings',
        description='List what --set can change: each setting with the value that a run would '
        'have, its default and range, and its meaning.')
    settings.add_argument('pattern', nargs='*', help='only settings whose name or meaning '
                          'contains one of these, e.g. exploration')
    settings.add_argument('--where', choices=PLACES, default='sim',
                          help='where the arm will be (default: sim)')
    for argument in ARGUMENTS:
        if argument.name in _COMPOSED:
            _add(settings, argument)
    settings.set_defaults(run=_settings)

    bench = commands.add_parser(
        'bench', help='run a comparison that takes hours, in pieces',
        description='Run a comparison that takes hours; what is done is not done again.')
    _add_paper(bench.add_subparsers(metavar='COMPARISON', required=True))

    use = _on_run(commands, 'run', _use,
                  'act with what a run has learned, towards goals from the topic goal')
    use.add_argument('--where', choices=PLACES, default='sim',
                     help='simulation, or a real arm (default: sim)')
    _add_dry_run(use)
    use.add_argument('--no-view', action='store_true',
                     help='print plain lines instead of a live view')

    evaluate = _on_run(commands, 'evaluate', _evaluate,
                       'judge the policy of a run on fresh goals, faster than real time')
    evaluate.add_argument('--episodes', type=_at_least_one, default=200, metavar='N',
                          help='number of goals (default: 200)')
    evaluate.add_argument('--seed', type=int, default=None, metavar='N',
                          help='seed of goals, start poses and noise (default: the same each time)')

    report = _on_run(commands, 'report', _report,
                     'make report.html of a run, its animation and TensorBoard scalars')
    report.add_argument('--no-video', action='store_true',
                        help='make no animation of before and after')

    figure = _on_run(commands, 'figure', _figure, 'make one picture of a run')
    figure.add_argument('--output', type=Path, default=None, metavar='FILE',
                        help='PNG to write (default: figure.png in the folder of the run)')

    _on_run(commands, 'record', _record,
            'make the rosbag2 recording (MCAP) of a run from its journal')

    add_dataset(commands)

    monitor = commands.add_parser(
        'monitor', help='watch a graph that runs, e.g. under ros2 launch',
        description='Watch a graph that runs, e.g. under ros2 launch, until Ctrl-C.')
    monitor.add_argument('--no-view', action='store_true',
                         help='print plain lines instead of a live view')
    monitor.set_defaults(run=_monitor)
    return parser


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument.name == 'dry_run':
        _add_dry_run(parser)
        return
    if argument.name == 'set':
        parser.add_argument('--set', action='append', metavar='KEY=VALUE',
                            help=argument.doc.replace(', separated by ";"', '') + ' May be '
                            'repeated.')
        return
    told = f' (default: {argument.default})' if argument.default else ''
    metavar = {int: 'N', float: 'X'}.get(argument.kind, 'NAME')
    parser.add_argument(argument.flag, metavar='DIR' if argument.name == 'run_dir' else metavar,
                        help=argument.doc.replace('%', '%%') + told)


def _add_paper(comparisons: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    paper = comparisons.add_parser(
        'paper', help='asynchronous against synchronous and interleaved schedules',
        description='Compare schedules, as in Zhang et al. 2019: on the real clock through the '
        'whole graph, and on an emulated clock at equal learning for each sample. Every row is '
        'written when it is complete; the same command goes on with what is missing.')
    paper.add_argument('--quick', action='store_true',
                       help='a few short rows, about a quarter of an hour on two cores')
    paper.add_argument('--list', action='store_true', dest='tell',
                       help='tell the rows and how long they will take')
    paper.add_argument('--only', nargs='+', default=[], metavar='NAME',
                       help='rows whose names contain or match one of these, e.g. hopper-mb_mpo')
    paper.add_argument('--minutes-left', type=float, default=None, metavar='N',
                       help='begin no row that will not be complete within so many minutes')
    paper.add_argument('--jobs', type=_at_least_one, default=1, metavar='N',
                       help='rows on the emulated clock that run side by side (default: 1)')
    paper.add_argument('--output', type=Path, default=None, metavar='FILE',
                       help='results; plots and table go beside them (default: '
                       'benchmarks/results/paper.json, or paper_quick.json)')
    paper.add_argument('--runs', type=Path, default=Path('runs/paper'), metavar='DIR',
                       help='where the runs lie (default: runs/paper)')
    paper.set_defaults(run=_bench_paper)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--dry-run', action=argparse.BooleanOptionalAction, default=None,
                        help='everything runs, but nothing is sent to the arm; --no-dry-run lets a '
                        'real arm move (default: dry with a real arm only)')


def _on_run(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
            run: object, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary,
                                 description=f'{summary[0].upper()}{summary[1:]}.')
    parser.add_argument('run_dir', type=Path, metavar='RUN_DIR',
                        help='folder of the run, e.g. runs/latest')
    parser.set_defaults(run=run)
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is less than 1')
    return value


def _open(options: argparse.Namespace) -> tuple[RunFolder, Composition]:
    from async_mbrl.bringup.folder import read_run, require_idle
    from async_mbrl.core.run import RunFolder

    composition = read_run(options.run_dir)
    require_idle(options.run_dir)
    return RunFolder(options.run_dir.resolve()), composition


def _request(options: argparse.Namespace, names: Sequence[str]) -> RunRequest:
    """Give what was asked for by arguments of some names; dry_run, a switch here, is no text."""
    given = {name: getattr(options, name) for name in names if name not in ('set', 'dry_run')}
    return parse_request({**given, 'set': ';'.join(options.set) if options.set else None})


def _up(options: argparse.Namespace) -> int:
    names = (*(argument.name for argument in ARGUMENTS), 'where')
    request = replace(_request(options, names), dry_run=options.dry_run)
    from async_mbrl.bringup.up import UpOptions, up

    return up(request, UpOptions(view=not options.no_view, video=not options.no_video,
                                 episodes=options.episodes), Path.cwd())


def _pretrain(options: argparse.Namespace) -> int:
    request = replace(_request(options, (*_PRETRAINED, 'where')), dry_run=options.dry_run)
    from datetime import datetime

    from async_mbrl.bringup.checks import check_beginning
    from async_mbrl.bringup.folder import as_begun, open_run
    from async_mbrl.bringup.pretrain import pretrain
    from async_mbrl.bringup.resources import share_folder

    def check(composition: Composition) -> None:
        if not composition.run.dataset:
            raise ConfigError('dataset: none to learn from; name one with --dataset')
        check_beginning(composition)

    run = open_run(as_begun(request, Path.cwd()), share_folder(), Path.cwd(), datetime.now(), check)
    with run.lock:
        status = pretrain(run)
    if status == 0:
        moves = ' --no-dry-run' if (run.composition.where == 'real'
                                    and not run.composition.run.dry_run) else ''
        if run.folder.policy.exists() and run.composition.plant is not None:
            print(f'judge it with: async-mbrl evaluate {run.folder.root}')
        print(f'go on online with: async-mbrl up {run.composition.where} --run-dir '
              f'{run.folder.root}{moves}')
    return status


def _emulate(options: argparse.Namespace) -> int:
    from async_mbrl.bringup.compose import compose
    from async_mbrl.bringup.resources import share_folder

    composition = compose(_request(options, _EMULATED), share_folder(), Path())
    if options.output is not None and not os.access(options.output.parent, os.W_OK | os.X_OK):
        raise ConfigError(f'output: {options.output}: its folder is missing or cannot be written; '
                          'make it, or name another file')
    from async_mbrl.emulation.command import emulate
    from async_mbrl.emulation.run import EmulationError

    try:
        emulate(composition, options.samples, options.output,
                lambda line: print(line, flush=True))
    except EmulationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def _settings(options: argparse.Namespace) -> int:
    from async_mbrl.bringup.compose import compose
    from async_mbrl.bringup.resources import share_folder
    from async_mbrl.bringup.settings_list import settings_list

    composition = compose(_request(options, (*_COMPOSED, 'where')), share_folder(), Path())
    lines = list(settings_list(composition, options.pattern))
    if not lines:
        raise ConfigError(f'settings: none contains {" or ".join(map(repr, options.pattern))}; '
                          'without a pattern all are listed')
    print('\n'.join(lines))
    return 0


def _bench_paper(options: argparse.Namespace) -> int:
    from async_mbrl.bench.command import PaperOptions, paper

    name = 'paper_quick.json' if options.quick else 'paper.json'
    return paper(PaperOptions(
        quick=options.quick, only=options.only, minutes_left=options.minutes_left,
        jobs=options.jobs, tell=options.tell,
        results=options.output or Path('benchmarks/results') / name,
        runs=options.runs / 'quick' if options.quick else options.runs))


def _use(options: argparse.Namespace) -> int:
    from async_mbrl.bringup.up import UpOptions, up

    return up(RunRequest(where=options.where, dry_run=options.dry_run),
              UpOptions(view=not options.no_view), Path.cwd(), options.run_dir)


def _evaluate(options: argparse.Namespace) -> int:
    folder, composition = _open(options)
    from async_mbrl.reporting import outcome
    from async_mbrl.reporting.closing import print_summary

    seed = outcome.EVALUATION_SEED if options.seed is None else options.seed
    if seed < 0:
        raise ConfigError(f'seed: {seed} is below the minimum 0')
    summary = outcome.evaluate_offline(folder, composition, options.episodes, seed)
    print_summary(summary)
    return 0 if outcome.succeeded(summary, composition) else 3


def _report(options: argparse.Namespace) -> int:
    folder, composition = _open(options)
    from async_mbrl.reporting import outcome
    from async_mbrl.reporting.closing import close_run
    from async_mbrl.reporting.tensorboard import rewrite_scalars

    rewrite_scalars(folder)
    close_run(folder, composition, outcome.read_summary(folder), video=not options.no_video)
    return 0


def _figure(options: argparse.Namespace) -> int:
    folder, composition = _open(options)
    from async_mbrl.reporting import outcome
    from async_mbrl.reporting.animation import AnimationError, stills
    from async_mbrl.reporting.figures import read_metrics, save_overview

    path = options.output or folder.root / 'figure.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        pictures = stills(folder, composition)
    except (AnimationError, ConfigError) as error:
        print(f'no pictures of the arm: {error}', file=sys.stderr)
        pictures = {}
    save_overview(path, outcome.read_summary(folder), read_metrics(folder), composition, pictures)
    print(path)
    return 0


def _record(options: argparse.Namespace) -> int:
    folder, _ = _open(options)
    from async_mbrl.collection.recording import write_recording

    write_recording(folder)
    print(folder.recording)
    return 0


def _monitor(options: argparse.Namespace) -> int:
    from async_mbrl.bringup.watch import watch

    return watch(live=None if not options.no_view else False)


if __name__ == '__main__':
    sys.exit(main())
