"""The states of motion, under any sequence of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from async_mbrl.control.motion import ORDERS_LOST, Motion, MotionMachine

FAULTS = ('guard', 'robot_interface', 'joint_states')
STOPS = ('emergency_stop', 'emergency_stop_service')


def ready_machine() -> MotionMachine:
    machine = MotionMachine()
    machine.observe(fresh=True, policy=True)
    return machine


class AnySequence(RuleBasedStateMachine):
    """Whatever happens in whatever order, the promises of the machine hold."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = MotionMachine(enabled=False)
        self.present: set[str] = set()
        self.latched = False
        self.stopped = False
        self.conditions = (False, False)
        self.enabled = False
        self.withheld = False

    @rule(fresh=st.booleans(), policy=st.booleans())
    def observe(self, fresh: bool, policy: bool) -> None:
        self.machine.observe(fresh, policy)
        self.conditions = (fresh, policy)

    @rule(on=st.booleans())
    def enable(self, on: bool) -> None:
        self.machine.enable(on)
        self.enabled = on

    @rule(on=st.booleans())
    def withhold(self, on: bool) -> None:
        self.machine.withhold('too old' if on else '')
        self.withheld = on

    @rule()
    def begin(self) -> None:
        allowed = (self.enabled and all(self.conditions) and not self.withheld
                   and not self.latched)
        assert bool(self.machine.refusal()) is not allowed
        if allowed:
            self.machine.begin()
            assert self.machine.motion is Motion.RUNNING
        else:
            with pytest.raises(RuntimeError):
                self.machine.begin()

    @rule()
    def end(self) -> None:
        self.machine.end()

    @rule()
    def hold(self) -> None:
        before = self.machine.sending
        motion = self.machine.motion
        self.machine.hold()
        if not before:
            assert self.machine.sending == (motion is Motion.READY)

    @precondition(lambda self: not self.enabled)
    @rule()
    def release(self) -> None:
        self.machine.release()
        assert not self.machine.sending

    @rule(name=st.sampled_from(FAULTS + STOPS), present=st.booleans())
    def set_cause(self, name: str, present: bool) -> None:
        self.machine.set_cause(name, present, 'why')
        if present:
            self.present.add(name)
            self.latched = True
            self.stopped |= name in STOPS
        else:
            self.present.discard(name)

    @rule()
    def clear(self) -> None:
        sending = self.machine.sending
        blind = self.latched and sending and not self.conditions[0]
        answer = self.machine.clear()
        assert bool(answer) == (bool(self.present) or blind)
        for name in (*self.present, *(['stale'] if blind else [])):
            assert name in answer
        if not answer:
            self.latched = self.stopped = False
            if sending:
                assert self.machine.motion in (Motion.HOLDING, Motion.RUNNING)
            else:
                assert self.machine.motion in (Motion.IDLE, Motion.READY)

    @invariant()
    def only_a_clearing_without_causes_leaves_a_fault(self) -> None:
        assert self.machine.latched is self.latched
        expected = Motion.ESTOP if self.stopped else Motion.FAULT
        assert (self.machine.motion is expected) or not self.latched
        assert bool(self.machine.fault) is self.latched

    @invariant()
    def what_is_ready_or_idle_sends_nothing(self) -> None:
        motion = self.machine.motion
        if motion in (Motion.IDLE, Motion.READY):
            assert not self.machine.sending
        if motion in (Motion.RUNNING, Motion.HOLDING):
            assert self.machine.sending

    @invariant()
    def nothing_runs_that_may_not(self) -> None:
        if self.machine.motion is Motion.RUNNING:
            assert self.enabled
            assert self.conditions[0]
            assert not self.withheld
            assert not self.latched


AnySequence.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnySequence = AnySequence.TestCase


def test_nothing_is_ready_without_joint_states_policy_and_enabling():
    machine = MotionMachine(enabled=False)
    assert machine.motion is Motion.IDLE
    machine.observe(fresh=True, policy=True)
    assert machine.motion is Motion.IDLE
    assert machine.refusal().startswith('not now: the controller is not active')
    machine.enable(True)
    assert machine.motion is Motion.READY
    machine.observe(fresh=False, policy=True)
    assert machine.motion is Motion.IDLE
    machine.observe(fresh=True, policy=False)
    assert machine.motion is Motion.IDLE


def test_an_emergency_stop_takes_over_a_fault_and_its_reason():
    machine = ready_machine()
    machine.begin()
    machine.set_cause('guard', True, 'silence')
    assert (machine.motion, machine.fault) == (Motion.FAULT, 'silence')
    machine.set_cause('emergency_stop', True, 'button')
    assert (machine.motion, machine.fault) == (Motion.ESTOP, 'button')
    machine.set_cause('guard', True, 'silence again')
    assert machine.motion is Motion.ESTOP
    assert machine.refusal() == 'emergency stop: button'
    machine.set_cause('guard', False)
    machine.set_cause('emergency_stop', False)
    assert machine.motion is Motion.ESTOP, 'latched'
    assert machine.clear() == ''
    assert machine.motion is Motion.HOLDING


def test_lost_orders_are_a_fault_for_good():
    machine = ready_machine()
    machine.set_cause(ORDERS_LOST, True, 'too many')
    machine.set_cause(ORDERS_LOST, False)
    assert machine.clear() == 'still there: orders_lost: too many'


def test_an_arm_that_is_ours_is_not_let_go():
    machine = ready_machine()
    machine.begin()
    with pytest.raises(RuntimeError, match='active'):
        machine.release()
