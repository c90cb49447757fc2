"""A graph on two hosts, robot and learner, whose network loses, delays and is cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faults import namespaces
from faults.ledger import Ledger, NotSurvived, Outcome, Trial
from faults.suite import Kind, end_run, try_on
from faults.whole import LEARNERS, START_S, WORKING

MOTION_S = 40.0
CAUGHT_UP_S = 6.0
"""Time in which the learners have what they missed, once the network allows it."""

DELAY_S = 0.05


class TwoHosts:
    """A run with the robot's nodes on one host and the learners on another.

    What is heard of it comes from a file that a listener on the robot's host writes, since no
    process is on both networks.
    """

    def __init__(self, folder: Path, delay_s: float, seed: int) -> None:
        """Start the hosts and the nodes."""
        from async_mbrl.bringup.arguments import RunRequest
        from async_mbrl.bringup.compose import compose
        from async_mbrl.bringup.graph import describe, write_parameters
        from async_mbrl.bringup.resources import share_folder

        folder.mkdir(parents=True)
        composition = compose(
            RunRequest(seed=seed, motion_time=MOTION_S, set=(
                'task.reset_s=2.0', 'collection.live_evaluation_episodes=1')),
            share_folder(), folder)
        (folder / 'config.yaml').write_text(composition.to_yaml())
        nodes = describe(composition)
        files = write_parameters(nodes, folder / 'params')
        self.folder = folder
        self.hosts = namespaces.Hosts(delay_s)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for node in nodes:
            host = 'learner' if node.name in LEARNERS else 'robot'
            with open(folder / f'{node.name}.log', 'wb') as log:
                self.processes[node.name] = self.hosts.start(
                    host, [sys.executable, '-m', f'async_mbrl.nodes.{node.executable}',
                           '--ros-args', '-r', f'__node:={node.name}', '--params-file',
                           str(files[node.name])],
                    env={**os.environ, **node.env}, stdout=log, stderr=subprocess.STDOUT)
        self._heard = folder / 'heard.json'
        with open(folder / 'listener.log', 'wb') as log:
            self.hosts.start('robot', [sys.executable, '-m', 'faults.hosts', str(self._heard)],
                             stdout=log, stderr=subprocess.STDOUT)

    def heard(self) -> dict[str, float]:
        """Give what the listener heard last: transitions of the run and at each learner, ..."""
        try:
            return json.loads(self._heard.read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    def until(self, condition: str, wanted: float, timeout_s: float) -> None:
        """Wait until a figure that is heard reaches a number.

        Raises:
            NotSurvived: it does not in time, or a node has ended.
        """
        end = time.monotonic() + timeout_s
        while self.heard().get(condition, -1.0) < wanted:
            for name, process in self.processes.items():
                if process.poll() is not None and name != 'robot_interface':
                    raise NotSurvived(f'{name} ended with status {process.returncode}: '
                                      + (self.folder / f'{name}.log').read_text()[-400:])
            if time.monotonic() > end:
                raise NotSurvived(f'{condition} is {self.heard().get(condition)}, not {wanted} '
                                  f'within {timeout_s:g} s')
            time.sleep(0.05)

    def caught_up(self, timeout_s: float = CAUGHT_UP_S) -> float:
        """Wait until both learners have all transitions of now; give how long it took, s."""
        transitions, begun_s = self.heard().get('transitions', 0), time.monotonic()
        for name in LEARNERS:
            self.until(name, transitions, timeout_s)
        return time.monotonic() - begun_s

    def ends(self) -> int:
        """Wait for the end of the run; give how many transitions were lost.

        Raises:
            NotSurvived: it does not end as complete.
        """
        try:
            status = self.processes['robot_interface'].wait(60.0 + 4.0 * MOTION_S)
        except subprocess.TimeoutExpired:
            raise NotSurvived(f'the run does not end: {self.heard()}') from None
        summary = json.loads((self.folder / 'summary.json').read_text())
        moved = summary['transitions']
        if status != 0 or summary['phase'] != 'done':
            raise NotSurvived(f'robot_interface ended with status {status}: '
                              f'{summary["phase"]} {summary["reason"]}')
        return max([moved['lost'], *(moved['collected'] - moved[name] for name in LEARNERS)])

    def close(self) -> None:
        """End everything."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.hosts.close()


def packet_loss(run: TwoHosts, rng: np.random.Generator) -> Outcome:
    """Up to 10 % of all frames are lost for 8 s: transitions and policies come all the same."""
    share = rng.uniform(0.02, 0.1)
    policies = run.heard()['policies_applied']
    run.hosts.set_loss(share)
    try:
        time.sleep(8.0)
        run.until('policies_applied', policies + 1, 8.0)
        took_s = run.caught_up()
    finally:
        run.hosts.set_loss(0.0)
    return Outcome(facts={'caught_up_s': took_s, 'loss': share})


def partition(run: TwoHosts, rng: np.random.Generator) -> Outcome:
    """The hosts are parted for 10 s: the arm goes on, and the learners get what they missed."""
    time.sleep(rng.uniform(0.0, 2.0))
    before = run.heard()['transitions']
    run.hosts.cut()
    try:
        time.sleep(10.0)
        moved = run.heard()['transitions'] - before
    finally:
        run.hosts.join()
    if moved < 5:
        raise NotSurvived(f'only {moved} transitions were collected while the learners were away')
    policies = run.heard()['policies_applied']
    took_s = run.caught_up(15.0)
    run.until('policies_applied', policies + 1, 15.0)
    return Outcome(facts={'caught_up_s': took_s})


def delay(run: TwoHosts, rng: np.random.Generator) -> Outcome:
    """Each frame takes 50 ms each way: transitions and policies come all the same."""
    time.sleep(rng.uniform(3.0, 6.0))
    policies = run.heard()['policies_applied']
    run.until('policies_applied', policies + 1, 8.0)
    return Outcome(facts={'caught_up_s': run.caught_up()})


def run_on_two_hosts(run: TwoHosts) -> Outcome:
    """The whole run: complete, and nothing lost."""
    lost = run.ends()
    return Outcome(lost=lost)


KINDS = (
    Kind(packet_loss, 'hosts', 3, 15, 11.0, missing=namespaces.missing),
    Kind(partition, 'hosts', 2, 10, 17.0, missing=namespaces.missing),
    Kind(delay, 'hosts', 2, 10, 8.0, missing=namespaces.missing),
    Kind(run_on_two_hosts, 'hosts', 2, 8, 50.0, missing=namespaces.missing),
)


def run_hosts(ledger: Ledger, todo: Sequence[tuple[Kind, int]], seed: int, folder: Path) -> None:
    """Make the trials, those with a delay on a wire of its own, and judge each run at its end."""
    if namespaces.missing():
        return
    runs = [index for kind, index in todo if kind.fault is run_on_two_hosts]
    for delay_s in (0.0, DELAY_S):
        faults = [(kind, index) for kind, index in todo if kind.fault is not run_on_two_hosts
                  and (kind.fault is delay) == (delay_s > 0.0)]
        while faults or (runs and delay_s):
            number = runs.pop(0) if runs else 1000 + len(ledger.trials)
            begun_s, why, outcome, made = time.monotonic(), '', Outcome(), 0
            run = TwoHosts(folder / f'run-{number}-{time.time_ns()}', delay_s, seed + number)
            try:
                run.until('transitions', 5, START_S)
                run.until('policies_applied', 2, START_S)
                while faults and run.heard()['motion_s'] < 0.7 * MOTION_S:
                    kind, index = faults.pop(0)
                    ledger.add(try_on(run, kind, index, seed))
                    made += 1
                outcome = run_on_two_hosts(run)
                why = f'{outcome.lost} transitions lost' if outcome.lost else ''
            except (NotSurvived, OSError, KeyError) as error:
                why = f'{type(error).__name__}: {error}'
            finally:
                run.close()
            end_run(ledger, Trial('run_on_two_hosts', number, not why, why,
                                  time.monotonic() - begun_s, outcome=outcome), made, faults)


def listen(path: Path) -> None:
    """Write what is heard to a file, ten times a second, until killed."""
    from async_mbrl.core.files import write_atomically
    from faults.whole import Ears

    ears = Ears()
    while True:
        time.sleep(0.1)
        heard = {name: status.next_transition for name, status in ears.learners.items()
                 if status.state in WORKING}
        if ears.run is not None:
            heard |= {'transitions': ears.run.next_transition,
                      'motion_s': ears.run.motion_time_s}
        if ears.controller is not None:
            heard['policies_applied'] = ears.controller.policies_applied
        write_atomically(path, json.dumps(heard))


if __name__ == '__main__':
    listen(Path(sys.argv[1]))
