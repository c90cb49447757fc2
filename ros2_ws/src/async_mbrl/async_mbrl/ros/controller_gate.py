"""What must hold before the controller may move the arm, and stopping and clearing by hand."""

from __future__ import annotations

import time

from rclpy.clock import Clock, ClockType
from std_srvs.srv import Trigger

from async_mbrl.control.motion import EMERGENCY_STOP, Motion
from async_mbrl.control.move import AT_REST_RAD_S
from async_mbrl.control.plausibility import Standstill
from async_mbrl.control.process import LoopProcess
from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import ArmConfig, RobotConfig
from async_mbrl.ros.controller_bridge import ControllerBridge
from async_mbrl.ros.controller_manager import HandOver
from async_mbrl.ros.lifecycle import ManagedNode

ESTOP_SERVICE = f'{EMERGENCY_STOP}_service'
CONTROLLERS = 'controllers'
STILL_S = 0.3
STILL_RAD = 0.01
FIRST_STATE_S = 1.0
"""Joint states are waited for so long; if they come later, the arm is checked then."""

PATIENCE_S = 2.0
"""An arm that still moves after so long is not held by its driver."""

GIVE_BACK_S, LAST_TRY_S = 1.0, 0.5
"""A controller_manager has so long to take the arm back, and again before the node ends; bringup
waits 3.8 s for that, braking included."""

RELEASE_S = 0.1
"""Some ticks of the control loop."""

_POLL_S = 0.005
_LATE_PERIOD_S = 0.05
_CONTROLLERS_PERIOD_S = 0.1


class ControllerGate:
    """Enables the control loop once the arm is ours and stands still, and takes it back."""

    def __init__(self, node: ManagedNode, robot: RobotConfig, loop: LoopProcess,
                 bridge: ControllerBridge, dry_run: bool) -> None:
        """Create the services ``~/emergency_stop`` and ``~/clear_fault``."""
        self._node = node
        self._log = node.get_logger()
        self._loop = loop
        self._bridge = bridge
        # A benchmark body stands where it was put until it is commanded, whatever that means.
        self._effort = isinstance(robot, ArmConfig) and robot.command_interface == 'effort'
        self._compensated = isinstance(robot, ArmConfig) and robot.gravity_compensated
        self._dry_run = dry_run
        # In a dry run the arm stays with whoever has it.
        self._hand_over = None if dry_run else HandOver(node, robot)
        self.waits_for = ''
        """Why orders are not taken yet although the node is active; empty if they are."""
        self._enabled = self._uncleared = False
        self._still = Standstill(STILL_S, STILL_RAD, AT_REST_RAD_S)
        self._late = node.create_timer(_LATE_PERIOD_S, self._check_late,
                                       clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._late.cancel()
        self._lost = ''
        self._watch = node.create_timer(_CONTROLLERS_PERIOD_S, self._watch_controllers,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._watch.cancel()
        node.create_service(Trigger, '~/emergency_stop', self._on_emergency_stop)
        node.create_service(Trigger, '~/clear_fault', self._on_clear_fault)

    def open(self) -> None:
        """Take the arm, see whether it stands still, and take orders.

        In fault or emergency stop controllers are left as they are until it is cleared.

        Raises:
            ConfigError: the arm cannot be taken, or moves although nothing is sent.
        """
        motion = self._loop.motion
        if self._hand_over is not None and motion in (Motion.FAULT, Motion.ESTOP):
            self._uncleared = True
            self._wait_for(f'{motion.value}: {self._loop.fault}; the arm is taken once that is '
                           'cleared: ~/clear_fault')
            return
        try:
            if self._hand_over is not None:
                self._hand_over.take(self._send_nothing)
            self._begin()
        except BaseException:       # it may be asked to stop, too
            self.close()
            raise

    def _begin(self) -> None:
        """See whether the arm, which is ours, stands still, and take orders.

        Raises:
            ConfigError: it moves although nothing is sent.
        """
        if self._hand_over is not None:
            self._watch.reset()
        if not self._checks_gravity():
            self._enable()
            return
        self._still = Standstill(STILL_S, STILL_RAD, AT_REST_RAD_S)
        if self._stands():
            self._enable()
            return
        self._wait_for('no joint states yet; whether the arm stands still is checked then')
        self._late.reset()

    def _enable(self) -> None:
        self.waits_for = ''
        self._enabled = True
        self._loop.enable(True)

    def _wait_for(self, what: str) -> None:
        self.waits_for = what
        self._log.warning(what)

    def _send_nothing(self) -> None:
        """See to it that controllers which are activated begin with nothing.

        What is held may be a place of before, while they were not active. Enabled, what is sent
        follows the arm while it is stopped.
        """
        if self._enabled:
            return
        self._loop.release()
        give_up_s = time.monotonic() + RELEASE_S
        while self._loop.count('active') and time.monotonic() < give_up_s:
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Stop the arm and give it back; without anybody to give it to it is held on."""
        self._late.cancel()
        self._watch.cancel()
        self._find_lost('')
        self.waits_for = ''
        self._enabled = self._uncleared = False
        self._bridge.brake()
        if self.give_back(GIVE_BACK_S):
            self._loop.release()

    def give_back(self, limit_s: float = LAST_TRY_S) -> bool:
        """Leave the controllers as they were found; say whether the arm is not ours any more."""
        return self._hand_over is not None and self._hand_over.give_back(limit_s)

    def _watch_controllers(self) -> None:
        assert self._hand_over is not None
        lost = self._hand_over.lost(time.monotonic())
        if lost is not None:
            self._find_lost(lost)

    def _find_lost(self, lost: str) -> None:
        """Take it for a fault that commands do not reach the arm: it would begin at any moment."""
        if lost != self._lost:
            self._lost = lost
            if lost:
                self._log.error(f'commands do not reach the arm: {lost}')
            self._loop.set_cause(CONTROLLERS, bool(lost), lost)

    # ---- gravity ----

    def _checks_gravity(self) -> bool:
        """Whether an effort of 0 is taken to hold the arm, and that can be seen now."""
        if not self._effort or self._dry_run or self._loop.count('active'):
            return False
        if not self._compensated:
            self._log.warning('robot.gravity_compensated is false: the safe command is effort 0, '
                              'under which the arm sinks')
        return self._compensated

    def _stands(self) -> bool:
        """Wait until the arm has stood still for a while; False if joint states do not come.

        Raises:
            ConfigError: it does not.
        """
        began_s, first_s, last_s = time.monotonic(), 0.0, 0.0
        while True:
            now_s, measured = time.monotonic(), self._bridge.measured
            if measured is not None and measured[0] != last_s:
                last_s, first_s = measured[0], first_s or now_s
                if self._still.stands(*measured):
                    return True
            if not first_s and now_s > began_s + FIRST_STATE_S:
                return False
            if first_s and now_s > first_s + PATIENCE_S:
                raise ConfigError(self._complaint())
            time.sleep(_POLL_S)

    def _check_late(self) -> None:
        measured = self._bridge.measured
        if measured is None:
            return
        if self._still.stands(*measured):
            self._late.cancel()
            self._enable()
        elif self._still.worst:
            self.waits_for = self._complaint()
            self._log.error(self.waits_for, throttle_duration_sec=PATIENCE_S)

    def _complaint(self) -> str:
        return ('robot.gravity_compensated: true, but the arm does not stand still although '
                f'nothing is sent to it: {self._still.worst or "joint states have ceased"}. Tell '
                'the driver mass and centre of mass of what the arm carries, see to it that '
                'nothing else moves it, or use another interface than effort')

    # ---- services ----

    def _on_emergency_stop(self, _request: Trigger.Request,
                           response: Trigger.Response) -> Trigger.Response:
        self._loop.set_cause(ESTOP_SERVICE, True, 'service ~/emergency_stop')
        self._log.error('emergency stop, by service')
        response.success = True
        response.message = 'stopped; ~/clear_fault ends it'
        return response

    def _on_clear_fault(self, _request: Trigger.Request,
                        response: Trigger.Response) -> Trigger.Response:
        response.message = self._clear()
        response.success = not response.message
        if response.success:
            response.message = f'cleared: {self._loop.motion.value}'
            self._log.info(response.message)
        self._bridge.publish_report()
        return response

    def _clear(self) -> str:
        """Clear the fault; say why not, or nothing."""
        self._loop.set_cause(ESTOP_SERVICE, False)
        # Lost controllers are taken back below.
        present = [cause for cause in self._loop.fault_causes
                   if cause.partition(':')[0] not in (ESTOP_SERVICE, CONTROLLERS)]
        if present:
            return f'still there: {"; ".join(present)}'
        if self._hand_over is None or self._node.label != 'active':
            return self._loop.clear()
        refusal = self._take_and_clear(self._hand_over)
        if refusal:     # the controllers stay as the fault left them
            self._hand_over.undo(GIVE_BACK_S)
        return refusal

    def _take_and_clear(self, hand_over: HandOver) -> str:
        try:
            hand_over.take(self._send_nothing)      # guard may have let go of it
            self._find_lost('')
            refusal = self._loop.clear()
            if not refusal and self._uncleared:
                self._begin()
                self._uncleared = False
        except ConfigError as error:
            refusal = str(error)
            if self._uncleared:
                self._watch.cancel()
                self._wait_for(f'{refusal}; ~/clear_fault tries again')
        return refusal
