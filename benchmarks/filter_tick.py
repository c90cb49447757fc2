"""How long the command filter and the policy take in a tick of the control loop.

Every tick is measured with a policy step in it, as if the policy ran at the rate of the loop:
observation, a network of two hidden layers of 256, the filter. After it, at the same pace, what the
machine needs for the network's three products alone: the floor. One process, one thread, SCHED_FIFO
and locked memory where allowed, no garbage collection. Needs a sourced environment
(``. scripts/env.sh``).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from typing import Any

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'

import numpy as np  # noqa: E402  (after the number of its threads is set)
from provenance import RESULTS, ROOT, provenance  # noqa: E402

from async_mbrl.control.filter import CommandFilter  # noqa: E402
from async_mbrl.control.policy import NumpyPolicy, PolicyParameters  # noqa: E402
from async_mbrl.control.realtime import lock_memory, shorten_timer_slack  # noqa: E402
from async_mbrl.core.network import PolicyNetworkConfig  # noqa: E402
from async_mbrl.core.realtime import use_fifo  # noqa: E402
from async_mbrl.tasks import make_task  # noqa: E402

sys.path.insert(0, str(ROOT / 'ros2_ws/src/async_mbrl/tests'))

import arm7  # noqa: E402
from control_rig import make_snapshot  # noqa: E402

NETWORK = PolicyNetworkConfig((256, 256), 'tanh', 'clip')
WARM_UP = 200


def window(interface: str, rate_hz: float, ticks: int, seed: int) -> dict[str, Any]:
    """Measure some ticks, paced as the control loop is, on an arm that moves about home."""
    robot = arm7.robot(command_interface=interface, control_rate_hz=rate_hz)
    task = make_task(arm7.task(), robot)
    rng = np.random.default_rng(seed)
    policy = NumpyPolicy(task, NETWORK)
    snapshot = make_snapshot(task, network=NETWORK)
    weights = {name: 0.1 * rng.normal(size=tensor.shape).astype(np.float32)
               for name, tensor in snapshot.tensors.items() if name.startswith('layer')}
    policy.use(PolicyParameters.from_snapshot(make_snapshot(task, network=NETWORK, **weights)))
    command_filter = CommandFilter(robot)
    home, scale = np.array(robot.home), np.array(robot.action_scale)
    applied, goal = np.zeros(robot.joints), task.tool_points(home).astype(np.float32)
    command_filter.start(home, applied)
    spans: dict[str, list[float]] = {'tick': [], 'filter_and_policy': [], 'observation': [],
                                     'policy': [], 'filter': [], 'floor': []}
    period_s = 1.0 / rate_hz
    deadline_s = time.monotonic()
    for tick in range(WARM_UP + ticks):
        deadline_s += period_s
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        phase = 2.0 * np.pi * tick * period_s
        position, velocity = home + 0.1 * np.sin(phase), np.full(robot.joints, np.cos(phase))
        begin_s = time.perf_counter()
        observation = task.observe(position, velocity, applied, goal)
        observed_s = time.perf_counter()
        action = policy.mean(observation)
        asked = action * scale if interface != 'position' else position + 0.02 * action
        middle_s = time.perf_counter()
        command_filter.apply(asked, position, velocity)
        end_s = time.perf_counter()
        if tick >= WARM_UP:
            for name, span_s in (
                    ('tick', end_s - begin_s), ('filter_and_policy', end_s - observed_s),
                    ('observation', observed_s - begin_s), ('policy', middle_s - observed_s),
                    ('filter', end_s - middle_s)):
                spans[name].append(span_s)
    matrices = policy.parameters.weights if policy.parameters else ()
    for _ in range(ticks):
        deadline_s += period_s
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        begin_s = time.perf_counter()
        x = np.ones(task.feature_size, np.float32)
        for matrix in matrices:
            x = matrix.dot(x)
        spans['floor'].append(time.perf_counter() - begin_s)
    return {'interface': interface, 'rate_hz': rate_hz, 'ticks': ticks,
            **{f'{name}_us': _percentiles(times_s) for name, times_s in spans.items()}}


def _percentiles(times_s: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(times_s) * 1e6, [50, 99])
    return {'p50': round(float(p50), 1), 'p99': round(float(p99), 1)}


def main() -> None:
    """Measure all interfaces at both rates, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ticks', type=int, default=5000, help='of each window')
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    scheduler = use_fifo(50)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    shorten_timer_slack()
    lock_memory()
    gc.collect()
    gc.freeze()
    gc.disable()
    rows = [window(interface, rate_hz, arguments.ticks, arguments.seed)
            for interface in ('effort', 'velocity', 'position') for rate_hz in (500.0, 1000.0)]
    load = os.getloadavg()[0]
    result = {**provenance([arguments.seed]), 'scheduler': scheduler,
              'load_average': round(load, 1),
              'network': list(NETWORK.hidden), 'rows': rows}
    print(json.dumps(result, indent=1))
    (RESULTS / 'filter_tick.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
