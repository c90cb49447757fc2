"""The control loop as seen from its parent: starting it, talking to it, seeing it die."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np

from async_mbrl.control.core import STATES
from async_mbrl.control.episode import ticks_per_step
from async_mbrl.control.histogram import percentiles
from async_mbrl.control.mailbox import (
    COUNTER,
    Request,
    RequestKind,
    SharedBlock,
    from_text,
)
from async_mbrl.control.motion import MOTIONS, Motion
from async_mbrl.control.policy import PolicyLayout, PolicyParameters
from async_mbrl.control.settings import LoopSettings
from async_mbrl.control.takeover import Takeover
from async_mbrl.core.plan import Plan
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import ControlStep, EpisodeCommand

ANSWER_TIMEOUT_S = 0.2
"""Time that the loop is given to answer; some ticks."""

CLEAR_WITHIN_S = 0.8 * ANSWER_TIMEOUT_S
"""A request to clear that the loop reads later is not obeyed; the rest is for its answer."""

_TIME = struct.Struct('d')
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


@dataclass(frozen=True)
class Punctuality:
    """Lateness at deadlines, those left out too, and time that ticks take, while not idle."""

    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float
    tick_p50_s: float
    tick_p99_s: float


@dataclass(frozen=True)
class Adoption:
    """The first tick with a policy."""

    version: Version
    publish_time_ns: int
    first_tick_ns: int


class LoopProcess:
    """The process of the control loop and the parent's side of its mailboxes.

    Must be created by a thread that lives as long as the loop shall: the kernel kills the loop
    when that thread ends.
    """

    def __init__(self, settings: LoopSettings) -> None:
        """Start the loop.

        Raises:
            ConfigError: the settings do not fit each other.
        """
        ticks_per_step(settings.robot, settings.task)
        task = settings.make_task()
        self._layout = PolicyLayout(task, settings.network)
        memory = os.memfd_create('async_mbrl_control')
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        """Readable when the loop has something to say."""
        self._block: SharedBlock = settings.make_block(memory, task)
        self._states = settings.robot.states
        self._state = np.zeros(1 + 2 * self._states)
        # Requests come from several threads, and a ring has one writer.
        self._asking = threading.Lock()
        self._clearing = threading.Lock()
        self._causes: dict[str, str] = {}
        self._withheld = ''
        self._telling = threading.Lock()
        self._told: tuple[str, ...] = ('',)
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'async_mbrl.control.loop', str(memory), str(self.wake)],
            stdin=subprocess.PIPE, pass_fds=(memory, self.wake),
            env={**os.environ, **_ONE_THREAD})
        os.close(memory)
        assert self._process.stdin is not None
        self._process.stdin.write(settings.to_json().encode())
        self._process.stdin.close()

    # ---- to the loop ----

    def put_state(self, time_s: float, position: np.ndarray, velocity: np.ndarray) -> None:
        """Hand over measured joints (states,), rad and rad/s, received at a robot time, s."""
        states = self._states
        self._state[0] = time_s
        self._state[1:1 + states] = position
        self._state[1 + states:] = velocity
        self._block.states.write(self._state.tobytes())

    def put_order(self, command: EpisodeCommand) -> None:
        """Hand over an episode command.

        Raises:
            ValueError: its arrays are far too large.
        """
        with self._asking:
            self._block.put_order(command)

    def put_policy(self, parameters: PolicyParameters) -> None:
        """Hand over a verified policy.

        Raises:
            SnapshotError: its tensors have other shapes than the network.
        """
        self._block.policies.write(self._layout.pack(parameters))

    def put_plan(self, plan: Plan) -> None:
        """Hand over a verified plan.

        Raises:
            ValueError: its actions are of another size, or too many.
        """
        self._block.put_plan(plan)

    def put_takeover(self, takeover: Takeover) -> None:
        """Hand over what a person asks for, verified.

        Raises:
            ValueError: the action is of another size.
        """
        self._block.put_takeover(takeover)

    # The loop begins not enabled. What ends a run ends orders made before it, too.

    def set_cause(self, name: str, present: bool, reason: str = '') -> None:
        """Say that a cause for the arm not to move is present, or gone.

        May be said as often as one likes: only changes reach the loop.

        Args:
            name: of the cause; those that begin with ``emergency_stop`` make an emergency stop.
            present: a cause that is present makes a fault at once, which :meth:`clear` ends.
            reason: said to people.
        """
        with self._asking:
            if present:
                if self._causes.get(name) == reason:
                    return
                self._causes[name] = reason
            elif self._causes.pop(name, None) is None:
                return
            kind = RequestKind.CAUSE_PRESENT if present else RequestKind.CAUSE_GONE
            self._block.put_request(Request(kind, name, reason))

    def clear(self) -> str:
        """Leave the fault or emergency stop, and wait for the answer of the loop.

        Returns:
            Why it is still there; empty if there is none any more.
        """
        # Nothing else waits meanwhile, least of all an emergency stop.
        with self._clearing:
            number = time.monotonic_ns() + round(1e9 * CLEAR_WITHIN_S)   # no other is the same
            with self._asking:
                self._block.put_request(Request(RequestKind.CLEAR, number=number))
            give_up_s = time.monotonic() + ANSWER_TIMEOUT_S
            while time.monotonic() < give_up_s:
                record = self._block.answers.latest()
                if record is not None and int.from_bytes(record[:8], 'little') == number:
                    return from_text(record[8:])
                time.sleep(0.0005)
        return f'the control loop did not answer within {ANSWER_TIMEOUT_S} s'

    def enable(self, on: bool) -> None:
        """Let the loop take orders, or no more; then what runs is given up and the arm held."""
        self._ask(RequestKind.ENABLE if on else RequestKind.DISABLE)

    def release(self) -> None:
        """Send nothing any more until the next order, the arm being somebody else's.

        Does nothing while the loop is enabled.
        """
        self._ask(RequestKind.RELEASE)

    def restart(self) -> None:
        """Begin anew what is sent: commands of the loop did not reach the arm for a while."""
        self._ask(RequestKind.RESTART)

    def halt(self, reason: str) -> None:
        """Give up what runs, if anything does, and hold the arm."""
        self._ask(RequestKind.HALT, reason)

    def hold_policy(self, reason: str) -> None:
        """Hold the arm and refuse orders while there is a reason; '' when there is none.

        May be said as often as one likes: only changes between none and some reach the loop.
        """
        with self._asking:
            if bool(reason) == bool(self._withheld):
                return
            self._withheld = reason
            self._block.put_request(Request(RequestKind.HOLD_POLICY, reason=reason))

    def _ask(self, kind: RequestKind, reason: str = '') -> None:
        with self._asking:
            self._block.put_request(Request(kind, reason=reason))

    # ---- from the loop ----

    def clear_wake(self) -> None:
        """Take note of all wake-ups so far; call before reading."""
        with contextlib.suppress(BlockingIOError):     # none since the last time
            os.eventfd_read(self.wake)

    def newest_command(self) -> tuple[float, bytes] | None:
        """Give the newest command not given yet: robot time of its tick, s, and (n,) doubles."""
        record = self._block.commands.latest()
        return None if record is None else (_TIME.unpack_from(record)[0], record[_TIME.size:])

    def wanted_state(self) -> np.ndarray | None:
        """Give the state that the simulator is to put a benchmark body into, once; None if none."""
        record = self._block.resets.latest()
        return None if record is None else np.frombuffer(record)

    def next_step(self) -> ControlStep | None:
        """Give the next event.

        Raises:
            RingOverrun: events were not read in time and are lost.
        """
        return self._block.get_step()

    def next_adoption(self) -> Adoption | None:
        """Give the next first tick of a policy."""
        record = self._block.adoptions.next()
        if record is None:
            return None
        incarnation, counter, published, first_tick = np.frombuffer(record, np.int64)
        return Adoption(Version(int(incarnation), int(counter)), int(published), int(first_tick))

    def count(self, name: str) -> int:
        """Give a counter by its name in :data:`async_mbrl.control.mailbox.COUNTERS`."""
        return self._block.counters[COUNTER[name]]

    @property
    def state(self) -> str:
        """What the loop does: idle, moving, running, holding, fault or estop."""
        return STATES[self.count('state')]

    @property
    def motion(self) -> Motion:
        """Whether the arm may move, and does."""
        return MOTIONS[self.count('motion')]

    @property
    def fault(self) -> str:
        """Reason of the fault or emergency stop, empty without one."""
        return self._fault_lines()[0]

    @property
    def fault_causes(self) -> tuple[str, ...]:
        """Causes that are still present, as ``name: reason``."""
        return self._fault_lines()[1:]

    def _fault_lines(self) -> tuple[str, ...]:
        # Several threads ask, and what is given once is not given again.
        with self._telling:
            record = self._block.fault.latest()
            if record is not None:
                self._told = tuple(from_text(record).split('\n'))
            return self._told

    @property
    def scheduler(self) -> str:
        """Scheduler of the loop, with its priority."""
        priority = self.count('realtime')
        return f'SCHED_FIFO:{priority}' if priority else 'SCHED_OTHER'

    def punctuality(self) -> Punctuality:
        """Give how punctual the loop has been so far."""
        p50, p99, p999 = percentiles(self._block.lateness, (0.5, 0.99, 0.999))
        tick_p50, tick_p99 = percentiles(self._block.durations, (0.5, 0.99))
        return Punctuality(p50, p99, p999, self.count('worst_lateness_ns') * 1e-9, tick_p50,
                           tick_p99)

    # ---- its life ----

    @property
    def pid(self) -> int:
        """Process id of the loop."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status of the loop; None while it lives."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Ask the loop to send the safe command as its last and to end."""
        self._block.counters[COUNTER['stop']] = 1

    def join(self, timeout_s: float) -> int:
        """Wait for the end of the loop, end it by force if it takes too long; give its status."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        """Give back what :attr:`wake` stands for; nobody may wait for it any more."""
        os.close(self.wake)
