"""Faults after which the arm must be stopped: what is injected, what must hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from faults.arm_rig import ArmRig
from faults.intruder import Intruder
from faults.ledger import NotSurvived, Outcome

PROMISED_MS = 100.0
Fault = Callable[[ArmRig, np.random.Generator], Outcome]


def joint_states_stop(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """Joint states end; the arm goes on moving, unseen, until the safe command."""
    rig.in_motion(rng)
    rig.wire.broken = True
    return rig.stopped(time.time_ns(), limit_ms=PROMISED_MS)


def controller_killed(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """kill -9 of the controller; guard sends the safe command, and the control loop ends."""
    rig.in_motion(rng)
    loop = rig.loop_pid()
    outcome = rig.stopped(rig.signal('controller', signal.SIGKILL), limit_ms=PROMISED_MS)
    rig.until(lambda: _gone(loop), 2.0, 'the end of the control loop')
    return outcome


def control_loop_killed(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """kill -9 of the control loop alone; the controller sends the safe command and ends."""
    rig.in_motion(rng)
    fault_ns = time.time_ns()
    os.kill(rig.loop_pid(), signal.SIGKILL)
    outcome = rig.stopped(fault_ns, limit_ms=PROMISED_MS)
    rig.until(lambda: rig.processes['controller'].poll() is not None, 5.0,
              'the end of the controller')
    if rig.processes['controller'].returncode == 0:
        raise NotSurvived('the controller ended with status 0 after its loop had died')
    return outcome


def controller_stopped(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """SIGSTOP of the controller; guard holds, and when it goes on it does not catch up."""
    rig.in_motion(rng, episode=True)
    fault_ns = rig.signal('controller', signal.SIGSTOP)
    try:
        outcome = rig.stopped(fault_ns, limit_ms=PROMISED_MS,
                              watch_s=rng.uniform(0.3, 1.0))
    finally:
        resumed_ns = rig.signal('controller', signal.SIGCONT)
    rig.begins_anew(resumed_ns, watch_s=0.1)
    return outcome


def robot_interface_killed(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """kill -9 of robot_interface; the controller sends the safe command."""
    rig.in_motion(rng)
    return rig.stopped(rig.interface.leave(), limit_ms=PROMISED_MS)


def robot_interface_silent(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """robot_interface is stopped, not dead: its episode ends, and the arm is held."""
    rig.in_motion(rng)
    fault_ns = rig.interface.leave(signal.SIGSTOP)
    return rig.stopped(fault_ns, limit_ms=3000.0, watch_s=3.2, unsafe=rig.as_policy)


def driver_stopped(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """SIGSTOP of the driver: no joint states come, and nobody takes commands."""
    rig.in_motion(rng)
    fault_ns = rig.signal('sim_bridge', signal.SIGSTOP)
    try:
        return rig.stopped(fault_ns, limit_ms=PROMISED_MS)
    finally:
        rig.signal('sim_bridge', signal.SIGCONT)


def joint_states_not_finite(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """Positions or velocities turn NaN or infinite, from one joint state to the next."""
    joint, value = rng.integers(rig.robot.joints), rng.choice([np.nan, np.inf, -np.inf])
    field = rng.choice(['position', 'velocity'])

    def spoil(message: JointState) -> JointState:
        getattr(message, field)[joint] = value
        return message

    rig.in_motion(rng)
    rig.wire.alteration = spoil
    return rig.stopped(time.time_ns(), limit_ms=PROMISED_MS)


def joint_states_jump(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """A joint is suddenly elsewhere, as after a slipped encoder, and stays there."""
    joint = rng.integers(rig.robot.joints)
    by = rng.uniform(0.3, 1.0) * rng.choice([-1.0, 1.0])

    def shift(message: JointState) -> JointState:
        message.position[joint] += by
        return message

    rig.in_motion(rng)
    rig.wire.alteration = shift
    return rig.stopped(time.time_ns(), limit_ms=PROMISED_MS)


def joint_states_back_in_time(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """Joint states carry stamps of before, as a driver does whose clock was set back."""
    by = int(rng.integers(1, 100))

    def set_back(message: JointState) -> JointState:
        message.header.stamp.sec -= by
        return message

    rig.in_motion(rng)
    rig.wire.alteration = set_back
    return rig.stopped(time.time_ns(), limit_ms=PROMISED_MS)


def emergency_stop(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """The emergency stop, by its topic; cleared only after it was taken back."""
    rig.until(lambda: rig.button.get_subscription_count() > 0, 3.0, 'a subscriber')
    rig.in_motion(rng)
    fault_ns = time.time_ns()
    rig.button.publish(Bool(data=True))
    try:
        outcome = rig.stopped(fault_ns, limit_ms=PROMISED_MS)
        if rig.call(rig.clear).success:
            raise NotSurvived('the fault was cleared although the button was still pressed')
    finally:
        rig.button.publish(Bool(data=False))
        time.sleep(0.1)
    return outcome


def emergency_stop_called(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """The emergency stop, by its service."""
    rig.until(rig.stop.service_is_ready, 3.0, 'the service emergency_stop')
    rig.in_motion(rng)
    fault_ns = time.time_ns()
    rig.do(lambda: rig.stop.call_async(Trigger.Request()))
    return rig.stopped(fault_ns, limit_ms=PROMISED_MS)


def second_publisher(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """Somebody else announces commands: the controller stops, and says who disturbs."""
    with Intruder(rig.robot.commands_topic, 'commands') as intruder:
        rig.in_motion(rng, episode=True)
        outcome = rig.stopped(intruder.begin(), limit_ms=3000.0, watch_s=3.2)
        rig.until(lambda: rig.controller.state == 'fault', 1.5, 'a fault')
    return outcome


def _gone(pid: int) -> bool:
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True
