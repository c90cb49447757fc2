"""Faults that must not disturb the arm: what is refused is refused, and the motion goes on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
from async_mbrl_interfaces import msg
from rosgraph_msgs.msg import Clock

from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.ros.convert import snapshot_to_messages, to_time
from faults.arm_rig import ArmRig
from faults.intruder import Intruder
from faults.judge import follows
from faults.ledger import NotSurvived, Outcome

AFTERWARDS_S = 0.8
"""Time that a stranger's snapshot is watched for after it has left."""

REFUSED_S = 2.0
"""Time in which a refusal is reported: statuses come twice a second."""

ORDERS = 3
"""So often is an order given that the arm refuses."""


class Unmoved:
    """Watches that nothing but verified policies acts, and that control steps go on."""

    def __init__(self, rig: ArmRig, poison: np.ndarray | None = None) -> None:
        """Begin to watch.

        Args:
            rig: the rig, moving.
            poison: command that a policy to be refused would ask for, N m.
        """
        self._rig, self._poison = rig, poison
        self._begun_ns, self._steps = time.time_ns(), len(rig.interface.steps)

    def judge(self) -> Outcome:
        """Say how it went.

        Raises:
            NotSurvived: something acted that must not, or the motion has ended.
        """
        rig = self._rig
        unverified = rig.acted(self._steps)
        if self._poison is not None:
            unverified += sum(follows(command, self._poison)
                              for command in rig.wire.since(self._begun_ns))
        if unverified:
            # Counted by whoever makes the trial.
            raise Unverified(unverified)
        aborted = [step.reason for step in rig.interface.steps[self._steps:]
                   if step.kind == msg.ControlStep.ABORTED]
        if aborted:
            raise NotSurvived(f'the motion was broken off: {aborted[0]}')
        last = len(rig.interface.steps)
        rig.until(lambda: len(rig.interface.steps) > last, 3.0, 'control steps after the fault')
        return Outcome()


class Unverified(NotSurvived):
    """A policy acted that had to be refused, so many steps or commands long."""

    def __init__(self, count: int) -> None:
        """Count."""
        super().__init__(f'a policy acted that was to be refused: {count} steps or commands')
        self.count = count


def snapshot_damaged(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """A bit flips somewhere in the bytes of a snapshot."""
    def flip(message: msg.ParameterSnapshot) -> None:
        message.data[int(rng.integers(len(message.data)))] ^= 1 << int(rng.integers(8))

    return _refused(rig, rng, lambda snapshot: rig.learner.send(snapshot, spoil=flip))


def snapshot_cut(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """The end of a snapshot is missing."""
    def cut(message: msg.ParameterSnapshot) -> None:
        del message.data[int(rng.integers(len(message.data))):]

    return _refused(rig, rng, lambda snapshot: rig.learner.send(snapshot, spoil=cut))


def snapshot_of_another_architecture(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """A good snapshot of a network of another shape."""
    hidden = (int(rng.integers(4, 64)), int(rng.integers(4, 63)))
    other = dataclasses.replace(rig.network, hidden=hidden)

    def send(snapshot: Snapshot) -> None:
        rig.learner.send(rig.learner.snapshot(snapshot.version, rig.learner.draw(), other))

    return _refused(rig, rng, send)


def snapshot_not_finite(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """One weight of a good snapshot is NaN or infinite."""
    def send(snapshot: Snapshot) -> None:
        name = str(rng.choice([name for name in snapshot.tensors if name.startswith('layer')]))
        tensor = snapshot.tensors[name].copy()
        tensor.flat[int(rng.integers(tensor.size))] = rng.choice([math.nan, math.inf, -math.inf])
        rig.learner.send(dataclasses.replace(
            snapshot, tensors={**snapshot.tensors, name: tensor}))

    return _refused(rig, rng, send)


def snapshot_older(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """A good snapshot with a version of before, or with the present one."""
    version = rig.learner.version
    older = Version(version.incarnation, max(0, version.counter - int(rng.integers(0, 3))))
    rig.learner.verified.discard((older.incarnation, older.counter))
    try:
        # The version alone does not tell: what acts is seen by its action.
        rig.learner.verified.add((version.incarnation, version.counter))
        return _refused(rig, rng, lambda snapshot: rig.learner.send(
            dataclasses.replace(snapshot, version=older)))
    finally:
        rig.learner.verified.add((older.incarnation, older.counter))


def snapshot_from_a_stranger(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """A second publisher, of a higher incarnation, comes and goes while the first one lives.

    It may even have the name of the learner. Until the name of its node is known its policy is not
    refused, which would be counted, but not listened to either.
    """
    version = Version(rig.learner.version.incarnation + int(rng.integers(1, 5)), 0)
    action = rig.learner.draw()
    parts = snapshot_to_messages(rig.learner.snapshot(version, action), 'stranger',
                                 rig.node.get_clock().now().to_msg())
    topic = rig.learner.policies.topic_name
    name = str(rng.choice(['intruder', 'policy_learner']))
    try:
        with Intruder(topic, 'policies', name) as intruder:
            rig.in_motion(rng)
            watched = Unmoved(rig, action * rig.scale)
            intruder.begin(parts)
            time.sleep(rng.uniform(0.5, REFUSED_S))
        time.sleep(AFTERWARDS_S)
        return watched.judge()
    finally:
        # So that it is not let in as successor when its predecessor is silent for a while.
        rig.learner.publish(Version(version.incarnation + 1, 0))


def learner_restarted(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """The policy learner comes back as another start of itself: it is let in after a silence."""
    rig.in_motion(rng)
    watched = Unmoved(rig)
    rig.learner.restart()
    version = rig.learner.version
    rig.until(lambda: _in_use(rig) == (version.incarnation, version.counter), 5.0,
              'the policy of the restarted learner in use')
    return watched.judge()


def order_lost(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """The message of an order is lost: the controller asks for it, and obeys."""
    rig.do(lambda: setattr(rig.interface, 'paused', True))
    number = rig.interface.next_order
    over = (msg.ControlStep.END, msg.ControlStep.ABORTED)
    rig.until(lambda: any(step.kind in over and step.command_number == number - 1
                          for step in rig.interface.steps), 6.0, 'the end of an episode')
    time.sleep(rng.uniform(0.0, 0.2))
    begun_s = time.monotonic()
    for _ in range(ORDERS):
        first = _answer_to_lost_order(rig)
        # A driver that hesitates at this very moment makes the arm refuse: then it is asked anew,
        # as robot_interface does.
        if first.kind != msg.ControlStep.ABORTED or 'stale' not in first.reason:
            break
    if first.kind != msg.ControlStep.MOVE_DONE:
        raise NotSurvived(f'the lost order was not obeyed: {first.reason}')
    rig.interface.paused = False
    return Outcome(facts={'obeyed_s': time.monotonic() - begun_s})


def _answer_to_lost_order(rig: ArmRig) -> msg.ControlStep:
    """Give an order whose message is lost; give the first answer."""
    number = rig.interface.next_order
    rig.do(lambda: rig.interface.order(lost=True))
    rig.interface.publish_status()
    rig.until(lambda: any(step.command_number == number for step in rig.interface.steps), 4.0,
              'an answer to the lost order')
    return next(step for step in rig.interface.steps if step.command_number == number)


def clock_back(rig: ArmRig, rng: np.random.Generator) -> Outcome:
    """``/clock`` goes back, and comes again: control is on the steady clock and goes on."""
    rig.until(lambda: rig.clock.get_subscription_count() > 0, 3.0, 'a node on simulated time')
    rig.in_motion(rng, episode=True)
    watched = Unmoved(rig)
    back_s = float(rng.choice([0.05, 1.0, 60.0, 1e5]))
    for _ in range(int(rng.integers(1, 20))):
        rig.clock.publish(Clock(clock=to_time(max(0.0, time.time() - back_s))))
        time.sleep(0.01)
    time.sleep(0.3)
    return watched.judge()


def _in_use(rig: ArmRig) -> tuple[int, int]:
    assert rig.controller is not None
    version = rig.controller.policy_version
    return version.incarnation, version.counter


def _refused(rig: ArmRig, rng: np.random.Generator, send: Callable[[Snapshot], None]) -> Outcome:
    """Send a snapshot that must be refused at a random moment, and see that it is."""
    rig.in_motion(rng)
    assert rig.controller is not None
    refused = rig.controller.policies_rejected
    action, learner = rig.learner.draw(), rig.learner
    watched = Unmoved(rig, action * rig.scale)
    send(learner.snapshot(Version(learner.version.incarnation, learner.version.counter + 1),
                          action))
    rig.until(lambda: rig.controller.policies_rejected > refused, REFUSED_S, 'the refusal')
    return watched.judge()
