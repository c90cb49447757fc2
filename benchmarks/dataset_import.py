"""How fast recordings become datasets, and how much memory that takes.

For each kind of source and each size: a recording is made, then imported by ``async-mbrl dataset
import``'s own code in a fresh process. Throughput is bytes of the recording by processor time of
that process, start-up included: what one core does. Peak memory of the larger size beside that of
the smaller one tells whether memory is bounded. Needs a sourced environment (``. scripts/env.sh``).

Kinds: ``journal``, a run folder; ``recording``, its MCAP recording, with control steps and joint
states as ``async-mbrl record`` writes them; ``sqlite3``, the same messages in the older format;
``joint_states``, a driver's bag: joint states and commands at 500 Hz, MCAP.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from provenance import RESULTS, provenance
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.resources import share_folder
from async_mbrl.collection.journal import Journal, RecordKind
from async_mbrl.collection.recording import typestore
from async_mbrl.datasets.episodes import GoalRule
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.importing import ImportOptions, import_sources

KINDS = ('journal', 'recording', 'sqlite3', 'joint_states')
DIFFERENT = 2000
"""Messages of a kind that differ in more than their numbers; they come again and again."""
RATE_HZ = 500
"""Of a driver's joint states and commands."""
_NUMBERS = struct.Struct('<QII')
_NUMBERS_AT = 4 + 16
"""Where number, episode and step stand in a transition without a frame."""


def arm_task() -> Any:
    """Build the reach task of the demo arm."""
    from async_mbrl.bringup.compose import compose
    from async_mbrl.tasks import make_task

    composition = compose(RunRequest(), share_folder(), Path())
    return make_task(composition.task, composition.robot)


class Messages:
    """Serialised messages as a run, or a driver, makes them."""

    def __init__(self, task: Any, store: Typestore, seed: int) -> None:
        """Make those that differ."""
        self._store = store
        self._rng = np.random.default_rng(seed)
        self._names = list(task.robot.joint_names)
        self._sizes = task.observation_size, task.action_size
        self.transitions = [self._transition(step) for step in range(DIFFERENT)]
        self.control_steps = [self._control_step(step) for step in range(DIFFERENT)]
        self.joint_states = [self._joint_state() for _ in range(DIFFERENT)]
        self.commands = [self._command() for _ in range(DIFFERENT)]

    def transition(self, number: int, steps: int) -> bytes:
        """Give a transition of a number, in episodes of so many steps."""
        data = bytearray(self.transitions[number % DIFFERENT])
        _NUMBERS.pack_into(data, _NUMBERS_AT, number, number // steps, number % steps)
        return bytes(data)

    def _make(self, kind: str, /, **fields: Any) -> Any:
        return self._store.types[kind](**fields)

    def _bytes(self, message: Any) -> bytes:
        return bytes(self._store.serialize_cdr(message, message.__msgtype__))

    def _header(self) -> Any:
        return self._make('std_msgs/msg/Header', frame_id='',
                          stamp=self._make('builtin_interfaces/msg/Time', sec=1, nanosec=2))

    def _version(self) -> Any:
        return self._make('async_mbrl_interfaces/msg/SnapshotVersion', incarnation=1, counter=2)

    def _vector(self, size: int) -> np.ndarray:
        return self._rng.uniform(-1.0, 1.0, size).astype(np.float32)

    def _transition(self, step: int) -> bytes:
        observation, action = self._sizes
        return self._bytes(self._make(
            'async_mbrl_interfaces/msg/Transition', header=self._header(), number=0, episode=0,
            step=0, observation=self._vector(observation), action_requested=self._vector(action),
            action_applied=self._vector(action), next_observation=self._vector(observation),
            reward=float(step), terminated=False, truncated=False,
            policy_version=self._version(), log_probability=0.5, intervened=False,
            publish_time_ns=0))

    def _control_step(self, step: int) -> bytes:
        observation, action = self._sizes
        return self._bytes(self._make(
            'async_mbrl_interfaces/msg/ControlStep', header=self._header(), number=step, session=1,
            command_number=1, kind=0, episode=1, step=step, mode=0,
            observation=self._vector(observation), action_requested=self._vector(action),
            previous_action_applied=self._vector(action), previous_intervened=False,
            policy_version=self._version(), log_probability=0.5, exploration_std=0.1, reason=''))

    def _joint_state(self) -> bytes:
        count = len(self._names)
        return self._bytes(self._make(
            'sensor_msgs/msg/JointState', header=self._header(), name=self._names,
            position=self._vector(count).astype(np.float64),
            velocity=self._vector(count).astype(np.float64), effort=np.zeros(count)))

    def _command(self) -> bytes:
        layout = self._make('std_msgs/msg/MultiArrayLayout', dim=[], data_offset=0)
        return self._bytes(self._make('std_msgs/msg/Float64MultiArray', layout=layout,
                                      data=0.2 * self._vector(self._sizes[1]).astype(np.float64)))


def write_journal(folder: Path, messages: Messages, task: Any, size: int) -> None:
    """Write the journal of a run of about so many bytes."""
    identity = identity_of(task).to_mapping()
    journal = Journal(folder / 'journal', {'format': 1, **identity,
                                           'joint_names': identity['robot']['joint_names']})
    written = number = 0
    while written < size:
        for kind, data in (
                (RecordKind.CONTROL_STEP, messages.control_steps[number % DIFFERENT]),
                (RecordKind.TRANSITION, messages.transition(number, task.config.episode_steps))):
            journal.append(kind, number, data)
            written += len(data)
        number += 1
    journal.close()


def write_bag(folder: Path, messages: Messages, task: Any, size: int, kind: str,
              store: Typestore) -> None:
    """Write a bag of about so many bytes."""
    plugin = StoragePlugin.SQLITE3 if kind == 'sqlite3' else StoragePlugin.MCAP
    driver = kind == 'joint_states'
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        if not driver:
            writer.set_custom_data('async_mbrl', json.dumps(identity_of(task).to_mapping()))
        types = {'/joint_states': 'sensor_msgs/msg/JointState'} | (
            {'/commands': 'std_msgs/msg/Float64MultiArray'} if driver else
            {'/control_steps': 'async_mbrl_interfaces/msg/ControlStep',
             '/transitions': 'async_mbrl_interfaces/msg/Transition'})
        topics = {topic: writer.add_connection(topic, name, typestore=store)
                  for topic, name in types.items()}
        written = number = 0
        while written < size:
            place, stamp = number % DIFFERENT, number * 1_000_000_000 // RATE_HZ
            for topic, data in _at_once(messages, task, driver, number, place):
                writer.write(topics[topic], stamp, data)
                written += len(data)
            number += 1


def _at_once(messages: Messages, task: Any, driver: bool, number: int,
             place: int) -> Iterator[tuple[str, bytes]]:
    yield '/joint_states', messages.joint_states[place]
    if driver:
        yield '/commands', messages.commands[place]
        return
    yield '/control_steps', messages.control_steps[place]
    yield '/transitions', messages.transition(number, task.config.episode_steps)


def peak_mb() -> float:
    """Give the greatest memory of this process so far, MB.

    Not what getrusage says: that remembers the process that this one was started by.
    """
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return round(int(line.split()[1]) / 1024.0, 1)
    raise RuntimeError('/proc/self/status has no VmHWM')


def measure(kind: str, source: Path, output: Path) -> dict[str, Any]:
    """Import in this process, of which nothing else is asked."""
    foreign = kind == 'joint_states'
    before, before_mb = resource.getrusage(resource.RUSAGE_SELF), peak_mb()
    begin_s = time.perf_counter()
    about = import_sources([source], output, arm_task() if foreign else None,
                           ImportOptions(goal=GoalRule('reached') if foreign else None),
                           lambda _line: None)
    wall_s = time.perf_counter() - begin_s
    after = resource.getrusage(resource.RUSAGE_SELF)
    size = sum(path.stat().st_size for path in source.rglob('*') if path.is_file())
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {'kind': kind, 'source_mb': round(size / 1e6, 1), 'transitions': about.transitions,
            'cpu_s': round(cpu_s, 2), 'wall_s': round(wall_s, 2),
            'mb_per_cpu_minute': round(60.0 * size / 1e6 / cpu_s, 1),
            'memory_before_mb': before_mb, 'peak_memory_mb': peak_mb()}


def row(kind: str, size_mb: int, seed: int, folder: Path) -> dict[str, Any]:
    """Make a recording and measure its import in a process of its own."""
    task, store = arm_task(), typestore()
    messages = Messages(task, store, seed)
    source = folder / kind
    writers: dict[str, Callable[[], None]] = {
        name: lambda: write_bag(source, messages, task, size_mb * 1_000_000, kind, store)
        for name in KINDS}
    writers['journal'] = lambda: write_journal(source, messages, task, size_mb * 1_000_000)
    writers[kind]()
    told = subprocess.run(
        [sys.executable, __file__, '--measure', kind, str(source), str(folder / 'dataset')],
        capture_output=True, text=True, check=True).stdout
    return dict(json.loads(told))


def main() -> None:
    """Measure all kinds and sizes, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[250, 1000],
                        help='of the recordings, MB')
    parser.add_argument('--kinds', nargs='+', default=list(KINDS), choices=KINDS)
    parser.add_argument('--folder', type=Path, default=None,
                        help='where recordings are made, and removed again')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', type=Path, default=RESULTS / 'dataset_import.json')
    parser.add_argument('--measure', nargs=3, metavar=('KIND', 'SOURCE', 'OUTPUT'),
                        help='only import, in this process')
    arguments = parser.parse_args()
    if arguments.measure:
        kind, source, output = arguments.measure
        print(json.dumps(measure(kind, Path(source), Path(output))))
        return
    rows = []
    for kind in arguments.kinds:
        for size_mb in arguments.sizes:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
                rows.append(row(kind, size_mb, arguments.seed, Path(name)))
            print(json.dumps(rows[-1]), flush=True)
    result = {**provenance([arguments.seed]), 'rows': rows}
    arguments.output.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
