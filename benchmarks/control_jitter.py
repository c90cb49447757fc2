"""How punctual the control loop is with everything running and the cores saturated.

Each window runs the real graph of sim_bridge, guard and controller, the arm executing a policy that
is replaced twice a second, beside both learners, which learn as fast as they can; then, in
alternation, a bare loop of the same schedule beside the same learners. Gaps that the bare loop has
too are the machine's. More windows, at the fastest rate, replace a policy of 1 MB once a second:
late ticks are counted apart in half seconds with and without a replacement. Needs a sourced
environment (``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rclpy
from control_graph import Graph, forbid_fifo
from provenance import provenance

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.resources import share_folder
from async_mbrl.bringup.transport import keep_to_this_machine
from async_mbrl.control.histogram import BINS, percentiles, record
from async_mbrl.control.pacer import Pacer
from async_mbrl.control.realtime import lock_memory, shorten_timer_slack
from async_mbrl.core.realtime import use_fifo
from async_mbrl.tasks import make_task

ROOT = Path(__file__).resolve().parents[1]
LOAD = 'sim_bridge, guard and controller; model and policy learner, learning all the time'
LARGE = (470, 470)
"""Hidden layers of a policy of 1 MB."""
TICKS = 5000
PRIORITY = 50
LOADED_S = 12.0
"""Time that the learners need to begin."""


def learn(what: str) -> None:
    """Learn as the model learner or the policy learner does, without a pause, until killed."""
    import torch
    from model_speed import random_transitions

    from async_mbrl.learning.model_learner import ModelLearner
    from async_mbrl.learning.policy_learner import PolicyLearner

    torch.set_num_threads(1)
    os.nice(10)
    composition = compose(RunRequest(), share_folder(), Path('unused'))
    task = make_task(composition.task, composition.robot)
    transitions = random_transitions(task)
    model = ModelLearner(composition.model, task, incarnation=1, seed=0)
    model.take(transitions)
    learner: Any = model
    if what == 'policy':
        model.step()
        learner = PolicyLearner(composition.improvement, composition.model, composition.network,
                                composition.exploration, task, incarnation=1, seed=0)
        learner.take(transitions)
        learner.take_snapshot(model.snapshot())
    while True:
        learner.step()


def twin(rate_hz: float, seconds: float, priority: int) -> None:
    """Run a bare loop and print its lateness."""
    shorten_timer_slack()
    if priority:
        use_fifo(priority)
    lock_memory()
    gc.disable()
    bins, longest_ns, ticks = [0] * BINS, 0, 0
    pacer = Pacer(round(1e9 / rate_hz))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        longest_ns = max(longest_ns, pacer.wait())
        # Deadlines left out count as in the control loop.
        for late_ns in pacer.lateness_ns:
            record(bins, late_ns * 1e-9)
        ticks += 1
    p50, p99, p999 = percentiles(bins, (0.5, 0.99, 0.999))
    print(json.dumps({'p50_ms': 1e3 * p50, 'p99_ms': 1e3 * p99, 'p999_ms': 1e3 * p999,
                      'max_ms': 1e-6 * longest_ns, 'missed': pacer.missed, 'ticks': ticks}))


def run_twin(rate_hz: float, seconds: float, fifo: bool) -> dict[str, Any]:
    """Run the bare loop in a process of its own and give what it printed."""
    done = subprocess.run(
        [sys.executable, __file__, '--twin', str(rate_hz), str(seconds),
         str(PRIORITY if fifo else 0)], capture_output=True, text=True, check=True,
        preexec_fn=None if fifo else forbid_fifo)
    return json.loads(done.stdout)


def window(composition: Composition, rate_hz: float, seconds: float,
           fifo: bool) -> dict[str, Any]:
    """Measure one window and its twin; give the row."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(composition, Path(folder), fifo)
        try:
            status, shares = graph.run(seconds)
            bridge = graph.bridge
        finally:
            graph.close()
    bare = run_twin(rate_hz, seconds, fifo)
    return {
        'rate_hz': rate_hz, 'load': LOAD, 'scheduler': status.scheduler,
        'p50_ms': status.jitter_p50_ms, 'p99_ms': status.jitter_p99_ms,
        'p999_ms': status.jitter_p999_ms, 'twin_p999_ms': bare['p999_ms'],
        'max_ms': status.jitter_max_ms, 'missed': status.late_ticks, 'ticks': status.ticks,
        'twin_p50_ms': bare['p50_ms'], 'twin_p99_ms': bare['p99_ms'],
        'twin_max_ms': bare['max_ms'], 'tick_p50_us': status.tick_p50_us,
        'tick_p99_us': status.tick_p99_us,
        'policy_latency_p99_ms': status.policy_latency_p99_ms,
        'command_gap_p99_ms': bridge.command_gap_p99_ms,
        'command_gap_p999_ms': bridge.command_gap_p999_ms,
        'stale_holds': status.stale_holds, 'limit_violations': bridge.limit_violations,
        'cpu_share': {name: round(share, 3) for name, share in shares.items()},
    }


def swap_windows(composition: Composition, rate_hz: float, seconds: float,
                 windows: int) -> dict[str, Any]:
    """Replace a policy of 1 MB once a second, or not, in windows that alternate with the twin's."""
    rows, size = [], 0
    for number in range(2 * windows):
        swapped = number % 2 == 0
        with tempfile.TemporaryDirectory() as folder:
            graph = Graph(composition, Path(folder), True)
            try:
                status, _ = graph.run(seconds, 1.0 if swapped else 0.0)
            finally:
                graph.close()
        size = graph.policy_bytes
        rows.append({
            'swapped': swapped, 'scheduler': status.scheduler,
            'swaps': sum(applied for _, _, applied in graph.intervals),
            'ticks_with': sum(ticks for ticks, _, applied in graph.intervals if applied),
            'late_with': sum(late for _, late, applied in graph.intervals if applied),
            'ticks_without': sum(ticks for ticks, _, applied in graph.intervals if not applied),
            'late_without': sum(late for _, late, applied in graph.intervals if not applied),
            'p999_ms': status.jitter_p999_ms, 'max_ms': status.jitter_max_ms,
            'policy_latency_p99_ms': status.policy_latency_p99_ms,
            'twin_missed': run_twin(rate_hz, seconds, True)['missed']})
        row = rows[-1]
        print(f'policies of {size / 1e6:.2f} MB, {row["swaps"]:3} swaps: late '
              f'{row["late_with"]} of {row["ticks_with"]} ticks in half seconds with a swap, '
              f'{row["late_without"]} of {row["ticks_without"]} in others; twin missed '
              f'{row["twin_missed"]}', flush=True)
    total = {name: sum(row[name] for row in rows) for name in (
        'swaps', 'ticks_with', 'late_with', 'ticks_without', 'late_without')}
    expected = total['ticks_with'] * total['late_without'] / max(1, total['ticks_without'])
    return {'rate_hz': rate_hz, 'policy_bytes': size, **total,
            'late_expected_without_swaps': expected,
            'late_attributable': total['late_with'] - expected, 'windows': rows}


def tick_us(rate_hz: float) -> dict[str, float]:
    """Give what a tick takes that filters a command and asks a policy of 2 x 256, microseconds."""
    done = subprocess.run([sys.executable, __file__, '--tick', str(rate_hz)],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def tick(rate_hz: float) -> None:
    """Print what such ticks take in this process, which does nothing else."""
    import filter_tick

    use_fifo(PRIORITY)
    lock_memory()
    gc.disable()
    print(json.dumps(filter_tick.window('effort', rate_hz, TICKS, 0)['tick_us']))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=float, default=20.0, help='length of a window')
    parser.add_argument('--windows', type=int, default=5, help='windows under SCHED_FIFO')
    parser.add_argument('--plain-windows', type=int, default=2,
                        help='windows under the plain scheduler')
    parser.add_argument('--rates', type=float, nargs='+', default=[500.0, 1000.0],
                        help='rates of the loop, Hz')
    parser.add_argument('--swap-windows', type=int, default=5,
                        help='windows with policies of 1 MB, and as many without')
    parser.add_argument('--quick', action='store_true', help='windows of 2 s, to see it work')
    parser.add_argument('--output', type=Path,
                        default=ROOT / 'benchmarks' / 'results' / 'control.json')
    return parser.parse_args()


def main() -> None:
    """Measure, print and write the result."""
    if sys.argv[1:2] == ['--twin']:
        twin(float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
        return
    if sys.argv[1:2] == ['--tick']:
        tick(float(sys.argv[2]))
        return
    if sys.argv[1:2] == ['--learn']:
        learn(sys.argv[2])
        return
    arguments = parse_arguments()
    seconds = 2.0 if arguments.quick else arguments.seconds
    # A domain of its own: a graph that runs beside must not be moved.
    os.environ['ROS_DOMAIN_ID'] = str(101)
    keep_to_this_machine(os.environ, share_folder())
    learners = [subprocess.Popen([sys.executable, __file__, '--learn', what],
                                 env={**os.environ, 'OMP_NUM_THREADS': '1',
                                      'OPENBLAS_NUM_THREADS': '1'})
                for _ in range(max(1, (os.cpu_count() or 2) // 2)) for what in ('model', 'policy')]
    time.sleep(LOADED_S)
    rows = []
    rclpy.init()
    try:
        for rate_hz in arguments.rates:
            for fifo in [True] * arguments.windows + [False] * arguments.plain_windows:
                rows.append(window(composed(rate_hz), rate_hz, seconds, fifo))
                show(rows[-1])
        rate_hz = max(arguments.rates)
        swaps = swap_windows(composed(rate_hz, f'network.hidden={list(LARGE)}'), rate_hz, seconds,
                             arguments.swap_windows)
        if any(learner.poll() is not None for learner in learners):
            raise RuntimeError('a learner has died: the load was not what the result says')
    finally:
        for learner in learners:
            learner.kill()
            learner.wait()
        rclpy.try_shutdown()
    medians: dict[str, float] = {}
    for name in dict.fromkeys(label(row) for row in rows):
        over = [row['p999_ms'] - row['twin_p999_ms'] for row in rows if label(row) == name]
        medians[name] = statistics.median(over)
        print(f'{name}: p99.9 above the bare twin {medians[name]:.3f} ms, median of {len(over)} '
              f'windows of {seconds:g} s')
    print(f'{swaps["swaps"]} swaps of {swaps["policy_bytes"] / 1e6:.2f} MB: '
          f'{swaps["late_attributable"]:.1f} late ticks more than without')
    result = {**provenance([0]), 'tick_us': tick_us(max(arguments.rates)),
              'p999_above_twin_ms': medians, 'policy_swaps': swaps, 'rows': rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + '\n')
    print(f'written: {arguments.output}')


def composed(rate_hz: float, *changes: str) -> Composition:
    """Give the configuration of the demo with another rate, and changes to it."""
    rates = (f'robot.control_rate_hz={rate_hz}', f'plant.state_rate_hz={rate_hz}',
             f'plant.physics_rate_hz={rate_hz}')
    return compose(RunRequest(set=(*rates, *changes)), share_folder(), Path('unused'))


def label(row: dict[str, Any]) -> str:
    """Name the windows that belong together."""
    return f'{row["rate_hz"]:g} Hz, {row["scheduler"]}'


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    print(f'{label(row):22} p50 {row["p50_ms"]:.3f}  p99 {row["p99_ms"]:.3f}  p99.9 '
          f'{row["p999_ms"]:.3f}  max {row["max_ms"]:.2f} ms   twin p99.9 '
          f'{row["twin_p999_ms"]:.3f}  max {row["twin_max_ms"]:.2f} ms   late {row["missed"]} of '
          f'{row["ticks"]}   CPU {row["cpu_share"]}', flush=True)


if __name__ == '__main__':
    main()
