"""``async-mbrl up``: start the graph of a run, look after it, show it, judge what it learned."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from async_mbrl.bringup import aftermath
from async_mbrl.bringup.aftermath import Written, written
from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.checks import check_beginning
from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.domain import DomainClaim
from async_mbrl.bringup.folder import OpenRun, open_run, open_use, start_lines
from async_mbrl.bringup.graph import describe, write_parameters
from async_mbrl.bringup.processes import Launcher
from async_mbrl.bringup.resources import share_folder
from async_mbrl.bringup.supervisor import STATUS_INTERRUPTED, State, Supervisor
from async_mbrl.bringup.transport import keep_to_this_machine
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting import outcome
from async_mbrl.reporting.state import LearnerHealth, RunProgress, ViewState
from async_mbrl.reporting.tensorboard import ScalarWriter
from async_mbrl.reporting.view import TerminalView

if TYPE_CHECKING:
    from async_mbrl.ros.monitor import Monitor

STATUS_NOT_LEARNED = 3
"""Exit status of a run that went well, but whose policy missed the success rate of its task."""

PERIOD_S = 0.1
SCALARS_S = 2.0


@dataclass(frozen=True)
class UpOptions:
    """What to do besides the run.

    Attributes:
        view: show a live view where there is a terminal; otherwise print plain lines.
        video: make the animation of before and after.
        episodes: goals of the offline evaluation.
    """

    view: bool = True
    video: bool = True
    episodes: int = outcome.EVALUATION_EPISODES


def up(request: RunRequest, options: UpOptions, working: Path,
       source: Path | None = None) -> int:
    """Run a whole graph, from opening its folder to its report.

    Args:
        request: what was asked for.
        options: what to do besides.
        working: folder in which ``runs/`` lies.
        source: folder of the run whose policy is used; None to learn.

    Returns:
        Exit status: 0 if the evaluation met the task's success rate, or nothing was to be judged,
        3 if it did not, 1 if the run failed, 2 if a node refused its configuration, 130 or 143 if
        it was interrupted or stopped. Using a policy has no other end than that: 0.

    Raises:
        ConfigError: the configuration does not fit; nothing was started.
        OSError: files could not be written, before the nodes were started or after they had ended.
    """
    from async_mbrl.ros.monitor import Monitor
    from async_mbrl.ros.robot_description import robot_description

    if request.where == 'sim':      # the driver of a real arm may run on another machine
        keep_to_this_machine(os.environ, share_folder())
    with closing(DomainClaim()) as domain:
        def check(composition: Composition) -> None:
            check_beginning(composition)
            domain.claim_for(composition)

        if source is None:
            run = open_run(request, share_folder(), working, datetime.now(), check,
                           robot_description)
        else:
            run = open_use(request, source, share_folder(), working, datetime.now(),
                           domain.claim_for, robot_description)
        with run.lock:
            if run.composition.run.dataset:
                from async_mbrl.bringup.pretrain import pretrain  # brings torch

                status = pretrain(run)
                if status != 0:
                    return status
            before = written(run.folder)
            with closing(Monitor()) as monitor:
                monitor.start()
                supervisor = _run(run, options, monitor)
            domain.close()   # the graph has ended; another may begin while this one is judged
            return _finish(run, options, supervisor, before)


class Trouble:
    """What could not be written while nodes run: they must be ended in order, so nothing raises."""

    def __init__(self) -> None:
        """Begin with none."""
        self.what = ''

    @contextmanager
    def noted(self, where: str) -> Iterator[None]:
        """Note an OSError of what is done meanwhile; the first stands."""
        try:
            yield
        except OSError as error:
            self.what = self.what or f'{where}: {error.strerror or error}'


def _run(run: OpenRun, options: UpOptions, monitor: Monitor) -> Supervisor:
    descriptions = describe(run.composition)
    root = run.folder.root
    files = write_parameters(descriptions, root / 'params')
    launcher = Launcher(files, root / 'log', root / 'processes.json')
    state = ViewState()
    view = TerminalView(state, live=None if options.view else False)
    path = root / 'log' / 'up.log'
    trouble = Trouble()
    # Unbuffered: what the disk does not take must not come up again when the file is closed.
    with open(path, 'ab', buffering=0) as log, interruptions() as arrived:

        def say(message: str) -> None:
            with trouble.noted(str(path)):
                log.write(f'{datetime.now():%Y-%m-%d %H:%M:%S} {message}\n'.encode())
            with trouble.noted('terminal'):
                view.say(message)

        for line in start_lines(run):
            say(line)
        supervisor = Supervisor(descriptions, launcher, say)
        with closing(launcher):
            look_after(supervisor, monitor, state, view, ScalarWriter(run.folder), arrived,
                       trouble)
    if trouble.what and supervisor.status == 0:
        print(f'warning: {trouble.what}', file=sys.stderr, flush=True)
    return supervisor


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of ending, meanwhile."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def look_after(supervisor: Supervisor, monitor: Monitor, state: ViewState, view: TerminalView,
               scalars: ScalarWriter, arrived: list[int], trouble: Trouble) -> None:
    """Start the nodes and stay until all have ended, whatever cannot be written meanwhile.

    Args:
        supervisor: of the nodes.
        monitor: gives their statuses.
        state: takes the statuses.
        view: shows the state.
        scalars: follow the metrics of the run.
        arrived: signals, as they arrive.
        trouble: ends the run as soon as there is any.
    """
    handled = 0
    next_scalars_s = 0.0
    with trouble.noted('terminal'):
        view.start()
    try:
        with trouble.noted('nodes cannot be started'):
            supervisor.start(time.monotonic())
        while supervisor.state is not State.ENDED:
            now = time.monotonic()
            for update in monitor.drain():
                state.take(update, now)
                if isinstance(update, LearnerHealth):
                    supervisor.heartbeat(update.name, now, update.state == 'finished')
                elif isinstance(update, RunProgress):
                    supervisor.over = update.phase in ('done', 'failed')
            for number in arrived[handled:]:
                supervisor.stop('interrupted', 128 + number, now)
            handled = len(arrived)
            with trouble.noted('nodes cannot be started'):
                supervisor.step(now)
            with trouble.noted('terminal'):
                view.refresh(now)
            if now >= next_scalars_s:
                next_scalars_s = now + SCALARS_S
                with trouble.noted('TensorBoard scalars'):
                    scalars.follow()
            if trouble.what:
                supervisor.stop(trouble.what, 1, now)
            time.sleep(PERIOD_S)
    finally:
        with trouble.noted('terminal'):
            view.stop(time.monotonic())
        with trouble.noted('TensorBoard scalars'):
            scalars.follow()
        with trouble.noted('TensorBoard scalars'):
            scalars.close()


def _finish(run: OpenRun, options: UpOptions, supervisor: Supervisor, before: Written) -> int:
    folder, composition = run.folder, run.composition
    respawns = {item.name: supervisor.respawns[item.name]
                for item in describe(composition) if item.respawn}
    try:
        status, reason = conclude(folder, composition, supervisor.status, supervisor.reason,
                                  respawns, before)
    except OSError as error:
        status = supervisor.status or 1
        unwritten = f'{folder.summary}: {error.strerror or error}'
        reason = '; '.join(filter(None, (supervisor.reason, unwritten)))
    if status != 0:
        missing = ''
        # After an interruption nobody wants to wait.
        if status < 128 and written(folder).recording == before.recording:
            try:
                aftermath.make_up_recording(folder)
            except (ConfigError, OSError) as error:
                missing += f'; no recording: {error}'
        now = written(folder)
        if now.summary in (None, before.summary):
            missing += '; no summary'
        if (folder.journal.exists() and now.recording in (None, before.recording)
                and 'recording' not in missing):
            missing += f'; no recording, make it with: async-mbrl record {folder.root}'
        state = f'its files are in {folder.root}{missing}' if missing else (
            f'its files are complete in {folder.root}')
        said = reason if status >= 128 else f'error: run ended: {reason}'
        print('; '.join(filter(None, (said, state, _resume_hint(run)))), file=sys.stderr,
              flush=True)
        return status
    if composition.run.mode == 'use':
        print(f'its files are in {folder.root}', flush=True)
        return 0
    from async_mbrl.reporting.closing import close_run  # slow to load, and Ctrl-C is to be quick

    if composition.run.dry_run:
        close_run(folder, composition, outcome.read_summary(folder), video=False)
        print('the dry run is complete, nothing was sent; to let the arm move and learn: '
              '--no-dry-run, in a new folder', flush=True)
        return 0
    if composition.plant is None:
        summary = outcome.read_summary(folder)
    else:
        print(f'evaluating {options.episodes} fresh goals offline ...', flush=True)
        summary = outcome.evaluate_offline(folder, composition, options.episodes)
    close_run(folder, composition, summary, video=options.video)
    return 0 if outcome.succeeded(summary, composition) else STATUS_NOT_LEARNED


def _resume_hint(run: OpenRun) -> str:
    """Say how to go on with a run, empty where there is nothing to go on with."""
    composition = run.composition
    if composition.run.mode == 'use':
        return ''
    moves = composition.where == 'real' and not composition.run.dry_run
    return f'resume it with --run-dir {run.folder.root}' + (' --no-dry-run' if moves else '')


def conclude(folder: RunFolder, composition: Composition, status: int, reason: str,
             respawns: Mapping[str, int], before: Written) -> tuple[int, str]:
    """Complete the summary of a session of a run.

    Args:
        folder: the run.
        composition: its configuration.
        status: exit status that the supervisor came to.
        reason: its reason, empty without one.
        respawns: restarts in this session, by node.
        before: what lay in the folder before.

    Returns:
        Exit status and reason. What robot_interface says of why the run failed goes before what
        the supervisor saw of it.

    Raises:
        OSError: the summary cannot be written.
    """
    interrupted = status >= 128
    if written(folder).summary == before.summary:
        if status == 0:
            status, reason = 1, 'robot_interface ended without writing the summary'
        aftermath.make_up_summary(folder, composition, reason, interrupted)
    summary = outcome.read_summary(folder)
    seen = reason
    if status == 0 and outcome.stopped(summary):
        status, reason = STATUS_INTERRUPTED, 'stopped'
    elif status == 0 and summary.get('phase') != 'done':
        status, reason = 1, 'robot_interface ended before the run was complete'
    if summary.get('phase') == 'failed':
        reason = summary.get('reason') or reason
    elif status >= 128 and composition.run.mode == 'use':
        status = 0      # it goes on until somebody ends it
    counted = Counter(summary.get('respawns') or {})
    counted.update(respawns)
    more: dict[str, Any] = {'respawns': dict(counted),
                            'outcome': {'status': status, 'reason': reason}}
    faults = list((summary.get('safety') or {}).get('faults') or [])
    if seen and not interrupted and seen not in faults:
        more['safety'] = {'faults': [*faults, seen]}
    outcome.extend_summary(folder, more)
    return status, reason
