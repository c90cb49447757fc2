"""When the arm is taken and given back; loop, bridge and controller_manager are made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from control_rig import make_robot
from std_srvs.srv import Trigger

from async_mbrl.control.motion import Motion
from async_mbrl.core.config import ConfigError
from async_mbrl.ros import controller_gate
from async_mbrl.ros.controller_gate import ControllerGate
from async_mbrl.ros.run import StopRequested


class MadeUp:
    """Everything around a gate; says in ``done`` what the gate does with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interface: str = 'position') -> None:
        self.done: list[str] = []
        self.motion, self.fault, self.fault_causes = Motion.IDLE, '', ()
        self.refusal = ''
        self.fails: BaseException | None = None
        self.sending = self.ours = False
        self.measured = None
        timer = SimpleNamespace(cancel=lambda: None, reset=lambda: None)
        log = SimpleNamespace(info=print, warning=print, error=lambda text, **_: print(text))
        node = self.node = SimpleNamespace(
            label='inactive', get_logger=lambda: log,
            create_timer=lambda *_, **__: timer,
            create_service=lambda _kind, name, serve: self.services.update({name: serve}))
        self.services: dict[str, Callable] = {}
        monkeypatch.setattr(controller_gate, 'HandOver', lambda *_: self)
        monkeypatch.setattr(controller_gate, 'FIRST_STATE_S', 0.05)
        monkeypatch.setattr(controller_gate, 'PATIENCE_S', 0.05)
        self.gate = ControllerGate(node, make_robot(command_interface=interface), self, self,
                                   dry_run=False)

    def clear_fault(self) -> Trigger.Response:
        return self.services['~/clear_fault'](Trigger.Request(), Trigger.Response())

    # ---- hand-over ----

    def take(self, let_go: Callable[[], None]) -> None:
        if not self.ours:
            let_go()
        self.done.append(f'take{", something being sent" if self.sending else ""}')
        self.ours = True
        if self.fails is not None:
            raise self.fails

    def undo(self, _limit_s: float) -> None:
        self.done.append('undo')
        self.ours = False

    def give_back(self, _limit_s: float) -> bool:
        if self.ours:
            self.done.append('give back')
        taken, self.ours = self.ours, False
        return taken

    # ---- loop and bridge ----

    def count(self, _name: str) -> int:
        return int(self.sending)

    def enable(self, on: bool) -> None:
        self.done.append('enable' if on else 'disable')

    def release(self) -> None:
        self.sending = False

    def clear(self) -> str:
        if not self.refusal:
            self.motion = Motion.IDLE
        return self.refusal

    def set_cause(self, *_: object) -> None:
        pass

    def brake(self) -> None:
        self.enable(False)

    def publish_report(self) -> None:
        pass


def test_what_was_held_before_is_not_sent_to_controllers_that_become_active(monkeypatch):
    made_up = MadeUp(monkeypatch)
    made_up.sending = True
    made_up.gate.open()
    assert made_up.done == ['take', 'enable']
    made_up.sending = True      # and of an arm that is ours nothing is let go
    made_up.gate.open()
    assert made_up.done[2:] == ['take, something being sent', 'enable']


def test_an_arm_in_emergency_stop_is_taken_when_that_is_cleared(monkeypatch):
    made_up = MadeUp(monkeypatch)
    made_up.motion, made_up.fault = Motion.ESTOP, 'the button'
    made_up.gate.open()
    made_up.node.label = 'active'
    assert not made_up.done
    assert 'the button' in made_up.gate.waits_for
    assert '~/clear_fault' in made_up.gate.waits_for
    made_up.fault_causes = ('emergency_stop: the button',)
    assert not made_up.clear_fault().success
    assert not made_up.done
    made_up.fault_causes, made_up.refusal = (), 'still there: something new'
    assert made_up.clear_fault().message == made_up.refusal
    assert made_up.done == ['take', 'undo']
    assert made_up.gate.waits_for
    made_up.refusal = ''
    assert made_up.clear_fault().success
    assert made_up.done[2:] == ['take', 'enable']
    assert not made_up.gate.waits_for


def test_an_arm_that_moves_is_not_kept_when_a_fault_is_cleared(monkeypatch):
    made_up = MadeUp(monkeypatch, interface='effort')
    made_up.motion = Motion.FAULT
    made_up.gate.open()
    made_up.node.label = 'active'
    made_up.measured = (1.0, np.zeros(7), np.ones(7))
    answer = made_up.clear_fault()
    assert not answer.success
    assert 'does not stand still' in answer.message
    assert made_up.done == ['take', 'undo']
    assert 'does not stand still' in made_up.gate.waits_for


def test_a_fault_that_cannot_be_cleared_leaves_controllers_as_they_were(monkeypatch):
    made_up = MadeUp(monkeypatch)
    made_up.gate.open()
    made_up.node.label, made_up.ours = 'active', False       # guard has let go
    made_up.motion, made_up.sending, made_up.refusal = Motion.ESTOP, True, 'still there'
    assert not made_up.clear_fault().success
    assert made_up.done[2:] == ['take, something being sent', 'undo']
    assert made_up.sending, 'what is sent follows the arm'


@pytest.mark.parametrize('error', [StopRequested('SIGTERM'), ConfigError('no'), KeyError('?')])
def test_whatever_ends_the_taking_the_arm_is_given_back(monkeypatch, error):
    made_up = MadeUp(monkeypatch)
    made_up.fails = error
    with pytest.raises(type(error)):
        made_up.gate.open()
    assert made_up.done == ['take', 'disable', 'give back']
