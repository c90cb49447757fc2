"""An hour of continuous running: whether memory grows, rates drift, or queues fill.

The whole graph runs in simulation as it does for a user, only longer. Every ten seconds memory,
threads and open files of each process are noted, and the rates and counters that the nodes publish.
After a warm-up a line is fitted to each: memory may grow by what the buffers of transitions explain
and a small allowance; rates must stay. Needs a sourced environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from async_mbrl_interfaces import msg
from provenance import RESULTS, ROOT, provenance
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from async_mbrl.bringup.resources import share_folder
from async_mbrl.bringup.transport import keep_to_this_machine
from async_mbrl.core.run import RunFolder
from async_mbrl.reporting import figures
from async_mbrl.ros import qos

SAMPLE_S = 10.0
WARM_UP_SHARE = 0.25
"""Of the time: buffers are allocated, libraries loaded, the graph settles."""

ALLOWANCE_MIB_H = 12.0
"""Growth that is put down to the allocator and to what a run keeps on purpose (its account)."""

DRIFT = 0.02
"""Change of a rate over the whole time that is put down to chance."""

KEPT = {'model_learner': ('transitions', 800), 'policy_learner': ('transitions', 800),
        'robot_interface': ('transitions', 200), 'controller': ('control_steps', 900)}
"""What buffers hold, by node: which counter tells how much, and bytes for each. Rows of a learner's
buffer, doubled while it grows; the index of the journal; control steps that may be asked for."""

COUNTERS = {'ticks': ('controller', 'ticks'), 'transitions': ('run', 'next_transition'),
            'control_steps': ('controller', 'next_control_step'),
            'model_updates': ('model_learner', 'updates'),
            'policy_updates': ('policy_learner', 'updates')}


class Ears:
    """Hear what the nodes say of themselves, and count joint states."""

    def __init__(self) -> None:
        """Join the graph."""
        rclpy.init()
        self.node = rclpy.create_node('soak')
        self.newest: dict[str, Any] = {}
        self.joint_states = 0
        node = self.node
        node.create_subscription(msg.ControllerStatus, 'controller_status',
                                 lambda m: self.newest.update(controller=m), qos.STATUS)
        node.create_subscription(msg.RunStatus, 'run_status',
                                 lambda m: self.newest.update(run=m), qos.STATUS)
        node.create_subscription(msg.LearnerStatus, 'learner_status',
                                 lambda m: self.newest.update({m.name: m}), qos.STATUS)
        node.create_subscription(JointState, 'joint_states', self._count,
                                 qos_profile_sensor_data, raw=True)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)

    def _count(self, _data: bytes) -> None:
        self.joint_states += 1

    def listen(self, seconds: float) -> None:
        """Serve callbacks for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def processes(folder: RunFolder) -> dict[str, int]:
    """Give the processes of the nodes, and the control loop, by name."""
    path = folder.root / 'processes.json'
    if not path.exists():
        return {}
    pids: dict[str, int] = json.loads(path.read_text())
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(pids.get('controller', 0))],
                              capture_output=True, text=True, check=False).stdout.split()
    if children:
        pids['control_loop'] = int(children[0])
    return pids


def usage(pid: int) -> dict[str, int] | None:
    """Give resident memory, threads and open files of a process; None if it is gone."""
    try:
        status = dict(line.split(':', 1) for line in Path(f'/proc/{pid}/status').read_text()
                      .splitlines() if ':' in line)
        return {'rss_kib': int(status['VmRSS'].split()[0]), 'threads': int(status['Threads']),
                'files': len(os.listdir(f'/proc/{pid}/fd'))}
    except (OSError, KeyError):
        return None


def sample(ears: Ears, folder: RunFolder, now_s: float) -> dict[str, Any]:
    """Note how everything is now."""
    newest = ears.newest
    values: dict[str, Any] = {'time_s': round(now_s, 2), 'joint_states': ears.joint_states}
    for name, (who, field) in COUNTERS.items():
        values[name] = getattr(newest[who], field) if who in newest else None
    if 'controller' in newest:
        values['late_ticks'] = newest['controller'].late_ticks
    if 'run' in newest:
        status = newest['run']
        # What was sent and not yet received is what waits somewhere.
        for name in ('model_learner', 'policy_learner'):
            if name in newest:
                values[f'queue_{name}'] = status.next_transition - newest[name].next_transition
        if 'controller' in newest:
            values['queue_control_steps'] = (newest['controller'].next_control_step
                                             - status.next_control_step)
    values['processes'] = {name: used for name, pid in processes(folder).items()
                           if (used := usage(pid)) is not None}
    return values


def slope(times: np.ndarray, values: np.ndarray) -> float:
    """Give the slope of a line through values, least squares."""
    return float(np.polyfit(times - times[0], values, 1)[0]) if len(times) > 2 else 0.0


def judge(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what grew and what drifted, warm-up aside."""
    steady = samples[int(WARM_UP_SHARE * len(samples)):]
    times = np.array([one['time_s'] for one in steady])
    hours = (times[-1] - times[0]) / 3600.0
    grown = {name: (steady[-1][name] or 0) - (steady[0][name] or 0) for name in COUNTERS}
    found: dict[str, Any] = {'hours': hours, 'counted': grown, 'memory': {}, 'rates': {},
                             'queues': {}, 'flaws': []}
    for name in steady[-1]['processes']:
        rows = [one['processes'].get(name) for one in steady]
        if None in rows:
            found['flaws'].append(f'{name} was not there all the time')
            continue
        what_is_kept, size = KEPT.get(name, ('transitions', 0))
        explained = grown[what_is_kept] * size / 2**20 / hours
        row = {'first_mib': rows[0]['rss_kib'] / 1024, 'last_mib': rows[-1]['rss_kib'] / 1024,
               'growth_mib_h': 3600 * slope(times, np.array(
                   [one['rss_kib'] / 1024 for one in rows])),
               'buffers_explain_mib_h': explained,
               **{f'{what}_{which}': rows[place][what] for what in ('threads', 'files')
                  for which, place in (('first', 0), ('last', -1))}}
        found['memory'][name] = row
        if row['growth_mib_h'] > explained + ALLOWANCE_MIB_H:
            found['flaws'].append(f'{name} grows by {row["growth_mib_h"]:.1f} MiB/h')
        for what in ('threads', 'files'):
            if row[f'{what}_last'] > row[f'{what}_first'] + 2:
                found['flaws'].append(f'{name}: more {what}')
    for name in (*COUNTERS, 'joint_states'):
        counts = np.array([one[name] or 0 for one in steady], float)
        rates = np.diff(counts) / np.diff(times)
        mean = float(rates.mean())
        # Transitions come in episodes: the rate of one sample says little, halves say more.
        half = len(rates) // 2
        change = float(rates[half:].mean() / rates[:half].mean() - 1.0) if half and mean else 0.0
        found['rates'][name] = {'mean_hz': mean, 'later_half_against_earlier': change}
        if name in ('ticks', 'joint_states') and abs(change) > DRIFT:
            found['flaws'].append(f'{name} drift by {100 * change:.1f} %')
    for name in (key for key in steady[-1] if key.startswith('queue_')):
        sizes = [one.get(name) or 0 for one in steady]
        found['queues'][name] = {'max': max(sizes), 'last': sizes[-1]}
        if sizes[-1] > 64 and slope(times, np.array(sizes, float)) > 0:
            found['flaws'].append(f'{name} grows: {sizes[-1]}')
    return found


def draw(samples: list[dict[str, Any]], path: Path) -> None:
    """Draw memory and rates over time."""
    minutes = np.array([one['time_s'] for one in samples]) / 60.0
    with figures.style():
        figure, (above, below) = figures.plt.subplots(2, 1, figsize=(6.4, 5.4), sharex=True)
        for name in samples[-1]['processes']:
            above.plot(minutes, [one['processes'].get(name, {}).get('rss_kib', np.nan) / 1024
                                 for one in samples], label=name)
        above.set_ylabel('resident memory, MiB')
        above.set_ylim(bottom=0)
        above.legend(loc='center right', fontsize=7)
        for name in ('ticks', 'joint_states'):
            counts = np.array([one[name] or 0 for one in samples], float)
            below.plot(minutes[1:], np.diff(counts) / np.diff(60.0 * minutes),
                       label=name.replace('_', ' '))
        below.set_ylabel('per second')
        below.set_ylim(bottom=0)
        below.set_xlabel('minutes')
        below.legend(loc='lower right', fontsize=7)
        figure.savefig(path, dpi=150)


def main() -> int:
    """Run, sample, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--minutes', type=float, default=60.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--output', type=Path, default=RESULTS / 'soak.json')
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', '102')
    keep_to_this_machine(os.environ, share_folder())
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=ROOT / 'runs', prefix='soak-') as root:
        folder = RunFolder(Path(root) / 'run')
        command = [sys.executable, '-m', 'async_mbrl.cli', 'up', 'sim', '--no-video', '--seed',
                   str(arguments.seed), '--motion-time', str(120.0 * arguments.minutes),
                   '--run-dir', str(folder.root)]
        for change in arguments.set:
            command += ['--set', change]
        with open(Path(root) / 'output.txt', 'wb') as output:
            up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        ears = Ears()
        begun_s = time.monotonic()
        try:
            while (now_s := time.monotonic() - begun_s) < 60.0 * arguments.minutes:
                ears.listen(SAMPLE_S)
                if up.poll() is not None:
                    print((Path(root) / 'output.txt').read_text()[-2000:], file=sys.stderr)
                    break
                samples.append(sample(ears, folder, now_s + SAMPLE_S))
        finally:
            ears.close()
            ended_early = up.poll() is not None
            up.send_signal(signal.SIGINT)
            up.wait(60.0)
    found = judge(samples)
    if ended_early:
        found['flaws'].append(f'the run ended after {samples[-1]["time_s"]:.0f} s')
    arguments.output.write_text(json.dumps(
        {**provenance([arguments.seed]), **found, 'samples': samples}, indent=1) + '\n')
    draw(samples, arguments.output.with_suffix('.png'))
    for name, row in found['memory'].items():
        print(f'{name:18} {row["first_mib"]:7.1f} -> {row["last_mib"]:7.1f} MiB, '
              f'{row["growth_mib_h"]:+7.1f} MiB/h   threads {row["threads_first"]} -> '
              f'{row["threads_last"]}   files {row["files_first"]} -> {row["files_last"]}')
    for name, row in found['rates'].items():
        print(f'{name:18} {row["mean_hz"]:9.2f} /s, later half '
              f'{100 * row["later_half_against_earlier"]:+.2f} %')
    print('\n'.join(found['flaws']) or f'no growth, no drift; {arguments.output}')
    return 1 if found['flaws'] else 0


if __name__ == '__main__':
    sys.exit(main())
