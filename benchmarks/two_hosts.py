"""Learning with the robot on one host and the learners on another, over a link that loses frames.

Two network namespaces with a link between them stand for the hosts; frames are lost on their way
in, both ways. Each case runs the whole graph for some seconds of motion: without loss, with 5 %
loss, and with 5 % loss and the link cut for ten seconds in the middle. Needs root and a sourced
environment (``. scripts/env.sh``); nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import RESULTS, ROOT, provenance

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.graph import NodeDescription, describe, write_parameters
from async_mbrl.bringup.resources import share_folder
from async_mbrl.core.config import look_up
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting import outcome
from async_mbrl.reporting.figures import read_metrics

sys.path.insert(0, str(ROOT / 'ros2_ws' / 'src' / 'async_mbrl' / 'tests'))

from faults.namespaces import Hosts, missing

LOSS = 0.05
CUT_S = 10.0
LEARNERS = ('model_learner', 'policy_learner')
FIGURES = (
    'evaluation.offline.success_rate', 'evaluation.offline.final_distance_m.median',
    'evaluation.live.success_rate', 'robot_time_s', 'wall_time_s', 'data_time_ratio',
    'transitions.collected', 'transitions.lost', 'policy.rejected', 'policy.age_s.p99',
    'latency_ms.transition_to_learner.p50', 'latency_ms.transition_to_learner.p99',
    'latency_ms.policy_to_controller.p50', 'latency_ms.policy_to_controller.p99',
    'safety.limit_violations_sent', 'safety.faults')


@dataclass(frozen=True)
class Case:
    """What the link between the hosts is like."""

    name: str
    loss: float
    cut: bool


CASES = (Case('no_loss', 0.0, False), Case('loss', LOSS, False), Case('partition', LOSS, True))


class Graph:
    """The nodes of a run, each on its host; learners that die are started again."""

    def __init__(self, hosts: Hosts, descriptions: tuple[NodeDescription, ...],
                 folder: Path) -> None:
        """Start the nodes."""
        self._hosts = hosts
        self._files = write_parameters(descriptions, folder / 'params')
        self._logs = folder / 'log'
        self._logs.mkdir()
        self._descriptions = {item.name: item for item in descriptions}
        self.respawns = 0
        self.processes = {item.name: self._start(item) for item in descriptions}

    def _start(self, item: NodeDescription) -> subprocess.Popen[Any]:
        host = 'learner' if item.name in LEARNERS else 'robot'
        command = [sys.executable, '-m', 'async_mbrl.bringup.child', str(os.getpid()),
                   str(item.nice), 'now', item.executable, '--ros-args', '-r',
                   f'__node:={item.name}',
                   '--params-file', str(self._files[item.name])]
        with open(self._logs / f'{item.name}.log', 'ab') as log:
            return self._hosts.start(
                host, command, env={**os.environ, **item.env, **profile()}, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def look(self) -> bool:
        """Start learners again that have died; say whether the run goes on.

        Raises:
            RuntimeError: a node has died that the run cannot do without.
        """
        if self.processes['robot_interface'].poll() is not None:
            return False
        for name, process in list(self.processes.items()):
            if process.poll() is None or process.returncode == 0:
                continue
            if name not in LEARNERS:
                raise RuntimeError(f'{name} ended with {process.returncode}; see {self._logs}')
            self.respawns += 1
            self.processes[name] = self._start(self._descriptions[name])
        return True

    def stop(self) -> None:
        """Stop the nodes in order."""
        for stage in sorted({item.stop_stage for item in self._descriptions.values()}):
            stopped = [self.processes[name] for name, item in self._descriptions.items()
                       if item.stop_stage == stage]
            for process in stopped:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            for process in stopped:
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def profile() -> dict[str, str]:
    """Give the environment that has Fast DDS send messages of one frame."""
    return {'FASTRTPS_DEFAULT_PROFILES_FILE': str(
        share_folder() / 'config' / 'fastdds' / 'lossy.xml')}


def motion_s(folder: RunFolder) -> float:
    """Give the seconds of motion so far."""
    metrics = read_metrics(folder)
    return float(metrics[-1].get('motion_time_s', 0.0)) if metrics else 0.0


def run(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case; give its row."""
    root = arguments.runs / f'{case.name}-{arguments.motion_time:g}s-seed{arguments.seed}'
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    folder = RunFolder(root)
    composition = compose(RunRequest(seed=arguments.seed, motion_time=arguments.motion_time,
                                     set=tuple(arguments.set)), share_folder(), root)
    write_atomically(folder.config, composition.to_yaml())
    limit_s = 120.0 + 12.0 * arguments.motion_time
    cut = [None, None]
    with Hosts() as hosts:
        if case.loss:
            hosts.set_loss(case.loss)
        graph = Graph(hosts, describe(composition), root)
        begun_s = time.monotonic()
        try:
            while graph.look():
                now_s = time.monotonic() - begun_s
                if now_s > limit_s:
                    raise RuntimeError(f'{case.name}: the run has not ended after {limit_s:.0f} s; '
                                       f'see {root / "log"}')
                if case.cut and cut[0] is None and motion_s(folder) > arguments.motion_time / 3:
                    hosts.cut()
                    cut[0] = now_s, motion_s(folder)
                elif cut[0] is not None and cut[1] is None and now_s - cut[0][0] >= CUT_S:
                    cut[1] = now_s, motion_s(folder)
                    hosts.join()
                time.sleep(0.1)
            status = graph.processes['robot_interface'].returncode
            frames = {host: hosts.frames(host) for host in ('robot', 'learner')}
        finally:
            graph.stop()
    summary = outcome.read_summary(folder)
    if folder.policy.exists():
        summary = outcome.evaluate_offline(folder, composition, arguments.episodes)
    row = {'case': case.name, 'loss': case.loss, 'status': status,
           'reason': look_up(summary, 'reason'),
           'frames': {host: {'received': seen, 'lost': lost}
                      for host, (seen, lost) in frames.items()},
           'respawns': graph.respawns,
           'learned_from': {name: look_up(summary, f'transitions.{name}') for name in LEARNERS},
           **{name: look_up(summary, name) for name in FIGURES}}
    if case.cut:
        row['cut'] = None if cut[0] is None or cut[1] is None else {
            'seconds': round(cut[1][0] - cut[0][0], 2),
            'motion_meanwhile_s': round(cut[1][1] - cut[0][1], 2)}
    return row


def main() -> int:
    """Run the cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--motion-time', type=float, default=39.0, help='seconds of motion')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--episodes', type=int, default=200, help='goals of the offline evaluation')
    parser.add_argument('--cases', nargs='+', choices=[case.name for case in CASES],
                        default=[case.name for case in CASES])
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--runs', type=Path, default=ROOT / 'runs' / 'two_hosts',
                        help='where the run folders lie')
    parser.add_argument('--output', type=Path, default=RESULTS / 'two_hosts.json')
    arguments = parser.parse_args()
    reason = missing()
    if reason:
        sys.exit(f'error: {reason}')
    rows = []
    for case in CASES:
        if case.name in arguments.cases:
            rows.append(run(case, arguments))
            print(json.dumps(rows[-1], indent=1), flush=True)
            arguments.output.write_text(json.dumps(
                {**provenance([arguments.seed]), 'motion_time_s': arguments.motion_time,
                 'rows': rows}, indent=1) + '\n')
    bad = [row['case'] for row in rows if row['status'] != 0 or row['transitions.lost'] != 0
           or len(set(row['learned_from'].values())) != 1]
    for name in bad:
        print(f'{name}: the run failed, or transitions were lost')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
