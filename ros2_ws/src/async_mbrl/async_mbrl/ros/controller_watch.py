"""What the controller watches besides joint states, and what it does when that goes wrong.

Two threads: :meth:`ControllerWatch.look` belongs to the one that serves the control loop, because
what it sees must stop the arm at once; all else are callbacks of the executor.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass

from async_mbrl_interfaces import msg
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from async_mbrl.control.core import MOVING, RUNNING
from async_mbrl.control.motion import EMERGENCY_STOP
from async_mbrl.control.process import LoopProcess
from async_mbrl.control.settings import ControllerSettings
from async_mbrl.core.host import ProcessWatch
from async_mbrl.ros import qos
from async_mbrl.ros.bounds import subscribe
from async_mbrl.ros.controller_report import ControllerReport
from async_mbrl.ros.emergency_stop import EmergencyStopTopic
from async_mbrl.ros.policy_intake import PolicyIntake
from async_mbrl.ros.publishers import strangers, unknown

LOOK_PERIOD_S = 0.25
"""Time between two looks at what is slow: publishers, ages, silences."""

NAMELESS_LOOKS = 8
"""Looks at which a publisher may be without a name."""

TWIN_S = 2.0
"""Another controller of this graph counts as there for so long after it was heard."""

ROBOT_INTERFACE, SECOND_PUBLISHER, GUARD = 'robot_interface', 'second_publisher', 'guard'
ENDED = (msg.RunStatus.DONE, msg.RunStatus.FAILED)

@dataclass(frozen=True)
class WatchOptions:
    """What is watched.

    Attributes:
        settings: ages and silences.
        guard_latches: whether an action of guard is a fault.
        learning: whether new policies are expected.
        dry_run: whether nothing is sent, so that others may publish commands.
    """

    settings: ControllerSettings
    guard_latches: bool
    learning: bool
    dry_run: bool

class ControllerWatch:
    """Watchdogs over the other nodes, the policy, the topic of commands and the emergency stop."""

    def __init__(self, node: Node, commands_topic: str, options: WatchOptions, loop: LoopProcess,
                 intake: PolicyIntake, report: ControllerReport, session: int) -> None:
        """Create subscriptions and the timer.

        Args:
            node: owner.
            commands_topic: full name of the topic of commands.
            options: what is watched.
            loop: the control loop.
            intake: of policies.
            report: knows the age of the policy.
            session: of this start of the controller.
        """
        self._node = node
        self._log = node.get_logger()
        self._options = options
        self._loop = loop
        self._intake = intake
        self._report = report
        self._session = session
        self._robot_interface = ProcessWatch()
        self._runs: collections.deque[msg.RunStatus] = collections.deque(maxlen=10)
        self._run_session = 0
        self._run_heard_s = 0.0
        self._learning = False
        self._silent = self._second = False
        self._twin_heard_s = float('-inf')
        self._withheld = ''
        self._nameless = 0
        self._emergency_stop = EmergencyStopTopic(node)
        self._commands_topic = commands_topic
        subscribe(node, msg.SafetyStatus, 'guard_status', self._on_guard, qos.STATUS)
        subscribe(node, msg.ControllerStatus, 'controller_status', self._on_controller, qos.STATUS)
        # Time must go on while simulated time stands still.
        node.create_timer(LOOK_PERIOD_S, self._look_slowly,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- in the thread of the control loop ----

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Readable when it is time to :meth:`look`."""
        return self._robot_interface.descriptors

    def look(self) -> None:
        """Stop the arm if robot_interface has died, or the emergency stop was asked for."""
        while self._runs:
            self._follow(self._runs.popleft())
        for process in self._robot_interface.check():
            self._loop.set_cause(ROBOT_INTERFACE, True,
                                 f'robot_interface has died (process {process})')
        # One that is taken back at once is a stop all the same.
        if self._emergency_stop.poll():
            self._loop.set_cause(EMERGENCY_STOP, True, f'topic {EMERGENCY_STOP}')
        if not self._emergency_stop.pressed:
            self._loop.set_cause(EMERGENCY_STOP, False)

    def close(self) -> None:
        """Watch no process any more; :meth:`look` is not called after this."""
        self._robot_interface.close()

    def _follow(self, status: msg.RunStatus) -> None:
        if status.session != self._run_session:
            self._run_session = status.session
            self._loop.set_cause(ROBOT_INTERFACE, False)
        if status.phase in ENDED or not status.process:
            self._robot_interface.close()
        elif not self._robot_interface.watch(status.host, (status.process,)):
            self._log.warning(f'run_status: process {status.process} cannot be watched', once=True)

    # ---- callbacks of the executor ----

    def run_status(self, status: msg.RunStatus) -> None:
        """Take a status of robot_interface."""
        self._runs.append(status)
        self._learning = status.phase == msg.RunStatus.LEARNING
        self._run_heard_s = 0.0 if status.phase in ENDED else time.monotonic()
        self._silent = False

    def _on_guard(self, status: msg.SafetyStatus) -> None:
        """Take it for a fault that guard has acted, once this controller has moved the arm."""
        if self._options.guard_latches and self._loop.count('active'):
            acting = status.state == msg.SafetyStatus.FAULT
            self._loop.set_cause(GUARD, acting, f'guard has acted: {status.reason}')

    def _on_controller(self, status: msg.ControllerStatus) -> None:
        if status.session != self._session:
            self._twin_heard_s = time.monotonic()

    def _look_slowly(self) -> None:
        now_s = time.monotonic()
        self._look_for_second_publisher(now_s)
        self._look_for_silence(now_s)
        reason = self._policy_flaw(now_s)
        if reason != self._withheld:
            if reason:
                self._log.warning(f'the arm is held: {reason}')
            self._withheld = reason
            self._loop.hold_policy(reason)

    def _look_for_second_publisher(self, now_s: float) -> None:
        if self._options.dry_run:
            return
        ours = (self._node.get_name(), 'guard')
        others = strangers(self._node, self._commands_topic, *ours)
        # A publisher may be heard of before its node is, and is given time until then.
        self._nameless = self._nameless + 1 if unknown(others) else 0
        if 0 < self._nameless <= NAMELESS_LOOKS:
            others = []
        # One that has died keeps its place among the publishers for a while, so that another
        # controller of this graph is known by what it says.
        if now_s - self._twin_heard_s < TWIN_S:
            others.append('another controller')
        second = bool(others)
        if second != self._second:
            self._second = second
            reason = (f'{", ".join(sorted(set(others)))} may publish on {self._commands_topic}, '
                      'too; only one may command the arm')
            if second:
                self._log.error(reason)
            self._loop.set_cause(SECOND_PUBLISHER, second, reason)

    def _look_for_silence(self, now_s: float) -> None:
        limit_s = self._options.settings.robot_interface_timeout_s
        if self._run_heard_s and not self._silent and now_s - self._run_heard_s > limit_s:
            self._silent = True
            if self._loop.state in (MOVING, RUNNING):
                reason = f'robot_interface has been silent for more than {limit_s:g} s'
                self._log.error(f'the arm is held: {reason}')
                self._loop.halt(reason)

    def _policy_flaw(self, now_s: float) -> str:
        settings = self._options.settings
        if not self._options.learning or not self._learning:
            return ''
        age_s = self._report.policy_age_s
        if settings.policy_age_limit_s and age_s > settings.policy_age_limit_s:
            return (f'the policy is older than policy_age_limit_s ({settings.policy_age_limit_s:g} '
                    's); held until a newer one comes')
        if settings.hold_without_learner and self.learner_silent(now_s):
            return f'the policy learner has been silent for {settings.learner_timeout_s:g} s'
        return ''

    def learner_silent(self, now_s: float) -> bool:
        """Say whether a policy learner that was heard before has fallen silent."""
        heard_s = self._intake.learner_heard_s
        return bool(heard_s) and now_s - heard_s > self._options.settings.learner_timeout_s

    @property
    def withheld(self) -> str:
        """Why the policy may not act; empty while it may."""
        return self._withheld
