"""The real-time process: ticks at absolute deadlines, talks to its parent by shared memory.

Started by :class:`async_mbrl.control.process.LoopProcess`; imports neither rclpy nor torch.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback

import numpy as np

from async_mbrl.control.core import IDLE, STALL_S, STATES, ControlCore
from async_mbrl.control.filter import COUNTS
from async_mbrl.control.histogram import record
from async_mbrl.control.mailbox import (
    COUNTER,
    Request,
    RequestKind,
    RingOverrun,
    SharedBlock,
    fault_record,
)
from async_mbrl.control.motion import MOTIONS, ORDERS_LOST
from async_mbrl.control.move import AT_REST_RAD_S
from async_mbrl.control.pacer import Pacer
from async_mbrl.control.policy import PolicyLayout
from async_mbrl.control.realtime import (
    die_with_parent,
    lock_memory,
    shorten_timer_slack,
)
from async_mbrl.control.settings import LoopSettings
from async_mbrl.control.takeover import SILENT_S
from async_mbrl.core.realtime import use_fifo

IDLE_WAKE_TICKS = 5
"""The parent is woken at least every so many ticks, so that it sees the loop alive."""

BRAKING_S = 0.5
"""Time to brake the arm in, once asked to end."""


class ControlLoop:
    """Drive a :class:`ControlCore` from the mailboxes, at the rate of the robot."""

    def __init__(self, settings: LoopSettings, descriptor: int, wake: int) -> None:
        """Build the core and map the mailboxes.

        Args:
            settings: of the loop.
            descriptor: memory file that both processes map.
            wake: eventfd on which the parent waits.
        """
        robot, factor = settings.robot, settings.real_time_factor
        task = settings.make_task()
        self._block: SharedBlock = settings.make_block(descriptor, task)
        self.counters = self._block.counters
        """Counters that the parent sees."""
        # Faster than real time the machine's own delays count for more robot time.
        self._core = ControlCore(robot, task, settings.network,
                                 state_timeout_s=robot.state_timeout_s * max(1.0, factor),
                                 stall_s=STALL_S * factor,
                                 takeover_silent_s=SILENT_S * max(1.0, factor),
                                 dry_run=settings.dry_run, enabled=False)
        self._layout = PolicyLayout(task, settings.network)
        self._wake = wake
        self._period_ns = round(1e9 / (robot.control_rate_hz * factor))
        self._robot_seconds_per_ns = 1e-9 * factor
        self._states = robot.states
        self._position = np.zeros(robot.states)
        self._velocity = np.zeros(robot.states)
        self._state_time_s = float('-inf')
        self._command = np.zeros(1 + robot.joints)
        self._counted = tuple((name, COUNTER[name]) for name in COUNTS)
        self._policies_applied = 0
        self._fault_told: tuple[str, tuple[str, ...]] = ('', ())
        self._ending = False

    def run(self, stop: list[bool]) -> None:
        """Tick until ``stop`` is not empty or the parent asks for the end.

        Then what is going on is ended and the arm held until it is at rest, for ``BRAKING_S`` at
        most; the last command is the safe one, reached no faster than the limits of rate allow.
        """
        counters, core = self.counters, self._core
        ticks, late_ticks = COUNTER['ticks'], COUNTER['late_ticks']
        state, motion = COUNTER['state'], COUNTER['motion']
        asked_to_stop, worst = COUNTER['stop'], COUNTER['worst_lateness_ns']
        lateness, durations = self._block.lateness, self._block.durations
        half_period_ns = self._period_ns // 2
        pacer = Pacer(self._period_ns)
        give_up_s = 0.0
        try:
            while True:
                if not self._ending and (stop or counters[asked_to_stop]):
                    self._ending = True
                    give_up_s = time.monotonic() + BRAKING_S
                    core.halt('the control loop was asked to end')
                if self._ending and (self._at_rest() or time.monotonic() >= give_up_s):
                    self._let_go(pacer)
                    break
                pacer.wait()
                begin_ns = time.monotonic_ns()
                sent = self._tick(pacer.deadline_ns * self._robot_seconds_per_ns)
                counters[ticks] += 1
                counters[state] = STATES.index(core.state)
                counters[motion] = MOTIONS.index(core.motion)
                if core.state != IDLE:
                    record(durations, (time.monotonic_ns() - begin_ns) * 1e-9)
                    for late_ns in pacer.lateness_ns:
                        record(lateness, late_ns * 1e-9)
                        if late_ns > half_period_ns:
                            counters[late_ticks] += 1
                        if late_ns > counters[worst]:
                            counters[worst] = late_ns
                    counters[COUNTER['missed']] = pacer.missed
                if sent or counters[ticks] % IDLE_WAKE_TICKS == 0:
                    os.eventfd_write(self._wake, 1)
        finally:
            self._end()

    def _tick(self, time_s: float) -> bool:
        block, core = self._block, self._core
        state = block.states.latest()
        if state is not None:
            values = np.frombuffer(state)
            self._state_time_s = float(values[0])
            self._position = values[1:1 + self._states]
            self._velocity = values[1 + self._states:]
        policy = block.policies.latest()
        if policy is not None:
            core.set_policy(self._layout.unpack(policy))
        plan = block.newest_plan()
        if plan is not None:
            core.set_plan(plan)
        takeover = block.newest_takeover()
        if takeover is not None:
            core.set_takeover(takeover)
        self._take_requests()
        command = core.tick(time_s, self._position, self._velocity, self._state_time_s)
        if command is not None:
            self._send(time_s, command)
        wanted = core.wanted_state()
        if wanted is not None:
            block.resets.write(wanted.tobytes())
        events = core.drain()
        for event in events:
            block.put_step(event)
        if core.policies_applied != self._policies_applied:
            self._report_policy()
        self._report_fault()
        counters = self.counters
        for name, index in self._counted:
            counters[index] = core.counts[name]
        counters[COUNTER['active']] = int(core.active)
        counters[COUNTER['stale_holds']] = core.stale_holds
        counters[COUNTER['planned_steps']] = core.planned_steps
        counters[COUNTER['takeover_steps']] = core.takeover_steps
        counters[COUNTER['takeovers_ignored']] = core.takeovers_ignored
        counters[COUNTER['takeover_lost']] = int(core.takeover_lost)
        return command is not None or wanted is not None or bool(events)

    def _send(self, time_s: float, command: np.ndarray) -> None:
        self._command[0] = time_s
        self._command[1:] = command
        self._block.commands.write(self._command.tobytes())

    def _take_requests(self) -> None:
        block, core = self._block, self._core
        try:
            while (request := block.get_request()) is not None:
                if isinstance(request, Request):
                    self._serve(request)
                elif not self._ending:
                    core.command(request)
        except RingOverrun as error:
            core.set_cause(ORDERS_LOST, True, f'orders to the control loop were lost: {error}')

    def _serve(self, request: Request) -> None:
        core, kind = self._core, request.kind
        if kind in (RequestKind.CAUSE_PRESENT, RequestKind.CAUSE_GONE):
            core.set_cause(request.name, kind == RequestKind.CAUSE_PRESENT, request.reason)
        elif kind == RequestKind.CLEAR:
            # Who asked was told that there was no answer, and must be right.
            refusal = (core.clear() if time.monotonic_ns() <= request.number else
                       'asked too long ago')
            self._report_fault()
            self._block.answers.write(
                request.number.to_bytes(8, 'little') + fault_record(refusal, ()))
        elif kind in (RequestKind.ENABLE, RequestKind.DISABLE):
            core.enable(kind == RequestKind.ENABLE)
        elif kind == RequestKind.RELEASE:
            core.release()
        elif kind == RequestKind.RESTART:
            core.restart()
        elif kind == RequestKind.HALT:
            core.halt(request.reason)
        elif kind == RequestKind.HOLD_POLICY:
            core.hold_policy(request.reason)

    def _report_fault(self) -> None:
        fault = (self._core.fault, self._core.fault_causes)
        if fault != self._fault_told:
            self._fault_told = fault
            self._block.fault.write(fault_record(*fault))

    def _report_policy(self) -> None:
        self._policies_applied = self._core.policies_applied
        self.counters[COUNTER['policies_applied']] = self._policies_applied
        policy = self._core.policy
        if policy is not None:
            self._block.adoptions.write(np.array(
                [policy.version.incarnation, policy.version.counter, policy.publish_time_ns,
                 time.time_ns()], np.int64).tobytes())

    def _at_rest(self) -> bool:
        return not self._core.active or float(np.abs(self._velocity).max()) < AT_REST_RAD_S

    def _let_go(self, pacer: Pacer) -> None:
        core = self._core
        give_up_s = time.monotonic() + BRAKING_S
        while (safe := core.safe_command()) is not None:
            self._send(pacer.deadline_ns * self._robot_seconds_per_ns, safe)
            os.eventfd_write(self._wake, 1)
            if core.safe or time.monotonic() >= give_up_s:
                break
            pacer.wait()

    def _end(self) -> None:
        for event in self._core.drain():
            self._block.put_step(event)
        self.counters[COUNTER['ended']] = 1
        os.eventfd_write(self._wake, 1)


def main() -> int:
    """Run the loop: ``python -m async_mbrl.control.loop <memory fd> <eventfd>``.

    Reads :class:`LoopSettings` as JSON from standard input.
    """
    descriptor, wake = int(sys.argv[1]), int(sys.argv[2])
    settings = LoopSettings.from_json(sys.stdin.read())
    die_with_parent(settings.parent)
    stop: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    # Ctrl-C reaches the whole process group; the parent decides when the arm is let go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = ControlLoop(settings, descriptor, wake)
    counters = loop.counters
    shorten_timer_slack()
    if settings.priority and use_fifo(settings.priority).startswith('SCHED_FIFO'):
        counters[COUNTER['realtime']] = settings.priority
    counters[COUNTER['memory_locked']] = int(lock_memory())
    # Nothing in the loop makes cycles; a collection in the middle would only delay it.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        loop.run(stop)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
