"""``async-mbrl up``: start the graph of a run, look after it, show it, judge what it learned."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.folder import OpenRun, open_run
from async_mbrl.bringup.graph import NODES, describe, write_parameters
from async_mbrl.bringup.processes import Launcher
from async_mbrl.bringup.resources import share_folder
from async_mbrl.bringup.supervisor import State, Supervisor
from async_mbrl.core.config import ConfigError
from async_mbrl.reporting import outcome
from async_mbrl.reporting.state import LearnerHealth, ViewState
from async_mbrl.reporting.tensorboard import ScalarWriter
from async_mbrl.reporting.view import TerminalView

if TYPE_CHECKING:
    from async_mbrl.ros.monitor import Monitor

STATUS_NOT_LEARNED = 3
"""Exit status of a run that went well, but whose policy missed the success rate of its task."""

PERIOD_S = 0.1
SCALARS_S = 2.0
DISCOVERY_S = 0.7


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


def up(request: RunRequest, options: UpOptions, working: Path) -> int:
    """Run a whole graph in simulation, from opening its folder to its report.

    Returns:
        Exit status: 0 if the offline evaluation met the task's success rate, 3 if it did not, 1 if
        the run failed, 2 if a node refused its configuration, 130 or 143 if it was interrupted.

    Raises:
        ConfigError: the configuration does not fit; nothing was started.
    """
    from async_mbrl.ros.monitor import Monitor

    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    run = open_run(request, share_folder(), working, datetime.now(), _require_quiet_domain)
    with run.lock:
        with closing(Monitor()) as monitor:
            monitor.start()
            supervisor = _run(run, options, monitor)
        respawns = {item.name: supervisor.respawns[item.name]
                    for item in describe(run.composition) if item.respawn}
        return _finish(run, options, supervisor, respawns)


def _require_quiet_domain() -> None:
    from async_mbrl.ros.monitor import Monitor

    with closing(Monitor()) as monitor:
        others = monitor.present(NODES, DISCOVERY_S)
    if others:
        raise ConfigError(
            f'ROS_DOMAIN_ID: in domain {os.environ.get("ROS_DOMAIN_ID", "0")} there is already a '
            f'graph ({", ".join(others)}); end it, or choose another domain')


def _run(run: OpenRun, options: UpOptions, monitor: Monitor) -> Supervisor:
    descriptions = describe(run.composition)
    root = run.folder.root
    files = write_parameters(descriptions, root / 'params')
    launcher = Launcher(files, root / 'log', root / 'processes.json')
    state = ViewState()
    view = TerminalView(state, live=None if options.view else False)
    with open(root / 'log' / 'up.log', 'a', buffering=1) as log, interruptions() as arrived:

        def say(message: str) -> None:
            log.write(f'{datetime.now():%Y-%m-%d %H:%M:%S} {message}\n')
            view.say(message)

        say(_start_line(run))
        supervisor = Supervisor(descriptions, launcher, say)
        _look_after(supervisor, monitor, state, view, ScalarWriter(run.folder), arrived)
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


def _look_after(supervisor: Supervisor, monitor: Monitor, state: ViewState, view: TerminalView,
                scalars: ScalarWriter, arrived: list[int]) -> None:
    view.start()
    handled = 0
    next_scalars_s = 0.0
    try:
        supervisor.start(time.monotonic())
        while supervisor.state is not State.ENDED:
            now = time.monotonic()
            for update in monitor.drain():
                state.take(update, now)
                if isinstance(update, LearnerHealth):
                    supervisor.heartbeat(update.name, now, update.state == 'finished')
            for number in arrived[handled:]:
                supervisor.stop('interrupted', 128 + number, now)
            handled = len(arrived)
            supervisor.step(now)
            view.refresh(now)
            if now >= next_scalars_s:
                next_scalars_s = now + SCALARS_S
                scalars.follow()
            time.sleep(PERIOD_S)
    finally:
        view.stop(time.monotonic())
        scalars.follow()
        scalars.close()


def _start_line(run: OpenRun) -> str:
    composition = run.composition
    what = 'resuming' if run.resumed else 'new run'
    return (f'{what} in {run.folder.root}: {composition.robot.name} learns '
            f'{composition.task.name} with {composition.run.algorithm}, seed '
            f'{composition.run.seed}, {composition.collection.motion_time_s:.0f} s of motion')


def _finish(run: OpenRun, options: UpOptions, supervisor: Supervisor,
            respawns: dict[str, int]) -> int:
    folder, composition = run.folder, run.composition
    before = outcome.read_summary(folder)
    counted = Counter(before.get('respawns') or {})
    counted.update(respawns)
    status, reason = supervisor.status, supervisor.reason
    if status == 0 and before.get('phase') != 'done':
        status, reason = 1, 'robot_interface ended before the run was complete'
    outcome.extend_summary(folder, {'respawns': dict(counted),
                                    'outcome': {'status': status, 'reason': reason}})
    if status != 0:
        print(f'error: run ended: {reason}; its files are complete in {folder.root}; '
              f'resume it with --run-dir {folder.root}', file=sys.stderr, flush=True)
        return status
    from async_mbrl.reporting.closing import close_run  # slow to load, and Ctrl-C is to be quick

    print(f'evaluating {options.episodes} fresh goals offline ...', flush=True)
    summary = outcome.evaluate_offline(folder, composition, options.episodes)
    close_run(folder, composition, summary, video=options.video)
    return 0 if outcome.succeeded(summary, composition) else STATUS_NOT_LEARNED
