"""Taking an arm from the other controllers of ros2_control, and giving it back.

Calls are polled, not served by an executor, so that a callback may wait for the answer, and guard
may go on stopping the arm meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Duration
from controller_manager_msgs.srv import ListControllers, SwitchController
from rclpy.node import Node

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import RobotConfig
from async_mbrl.ros.driver import PolledGroup

APPEAR_S = 45.0
"""A driver that is started together with the run may take so long on a busy machine; less than the
``start_timeout_s`` of a run, so that what is missing is named."""

PATIENCE_S = 5.0
SWITCH_TIMEOUT_S = 2
ACTIVE = 'active'
READY = (ACTIVE, 'inactive')
_POLL_S = 0.005


class SwitchError(RuntimeError):
    """The controller_manager did not answer, or refused; the message says what it was asked."""


class ControllerManager:
    """Client of a controller_manager."""

    def __init__(self, node: Node, name: str) -> None:
        """Create the clients.

        Args:
            node: owner.
            name: of the controller_manager, such as ``/controller_manager``.
        """
        self.name = name
        """Name of the controller_manager."""
        group = PolledGroup()
        self._list = node.create_client(ListControllers, f'{name}/list_controllers',
                                        callback_group=group)
        self._switch = node.create_client(SwitchController, f'{name}/switch_controller',
                                          callback_group=group)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the controller_manager is there; say whether it is."""
        end_s = time.monotonic() + timeout_s
        while not self.ready:
            if time.monotonic() >= end_s:
                return False
            time.sleep(_POLL_S)
        return True

    @property
    def ready(self) -> bool:
        """Whether its services are there."""
        return self._list.service_is_ready() and self._switch.service_is_ready()

    def states(self, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """Give the state of each controller that is loaded.

        Raises:
            SwitchError: there is no answer within ``patience_s``.
        """
        answer = _wait(self.begin_list(), patience_s)
        if answer is None:
            raise SwitchError(f'{self.name} does not list its controllers')
        return {controller.name: controller.state for controller in answer.controller}

    def begin_list(self) -> Call:
        """Ask for the controllers that are loaded, without waiting for the answer."""
        return Call(self._list, ListControllers.Request())

    def begin_switch(self, activate: tuple[str, ...], deactivate: tuple[str, ...],
                     strictness: int = SwitchController.Request.STRICT) -> Call:
        """Ask for a switch, all in one control period, without waiting for the answer."""
        return Call(self._switch, SwitchController.Request(
            activate_controllers=list(activate), deactivate_controllers=list(deactivate),
            strictness=strictness, timeout=Duration(sec=SWITCH_TIMEOUT_S)))

    def switch(self, activate: tuple[str, ...], deactivate: tuple[str, ...],
               patience_s: float = PATIENCE_S) -> None:
        """Switch, all or nothing.

        Raises:
            SwitchError: it was refused, or there is no answer within ``patience_s``.
        """
        if not activate and not deactivate:
            return
        answer = _wait(self.begin_switch(activate, deactivate), patience_s)
        if answer is None or not answer.ok:
            why = 'there is no answer' if answer is None else (
                getattr(answer, 'message', '') or 'it was refused')
            raise SwitchError(f'{self.name}: activating {list(activate)} and deactivating '
                              f'{list(deactivate)}: {why}')


class Call:
    """A request to a service whose answer is polled."""

    def __init__(self, client: Any, request: Any) -> None:
        """Send the request."""
        self._client = client
        self._number = client.handle.send_request(request)
        self.since_s = time.monotonic()
        """When it was sent, steady time."""

    def answer(self) -> Any:
        """Give the answer; None before it is there."""
        while True:
            info, answer = self._client.handle.take_response(self._client.srv_type.Response)
            if info is None:
                return None
            if info.request_id.sequence_number == self._number:
                return answer       # others are answers to calls that were given up


def _wait(call: Call, patience_s: float) -> Any:
    while (answer := call.answer()) is None and time.monotonic() < call.since_s + patience_s:
        time.sleep(_POLL_S)
    return answer


class HandOver:
    """The controllers that take our commands, and those that use the same joints otherwise."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Create the client, if the robot has a controller_manager."""
        self._log = node.get_logger()
        self._controllers, self._others = robot.controllers, robot.other_controllers
        self._manager = (ControllerManager(node, robot.controller_manager)
                         if robot.controller_manager else None)
        self._appeared = False
        self._to_activate: tuple[str, ...] = ()
        self._to_deactivate: tuple[str, ...] = ()
        self._undo: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._asked: Call | None = None

    def lost(self, now_s: float) -> str | None:
        """Ask, without waiting, whether our controllers are active.

        Drivers deactivate controllers on their own, and some activate them again: whoever commands
        an arm must know.

        Args:
            now_s: steady time.

        Returns:
            Which are not, and what they are; None while that is not known anew.
        """
        manager = self._manager
        if manager is None:
            return None
        if self._asked is None or now_s > self._asked.since_s + PATIENCE_S:
            self._asked = manager.begin_list() if manager.ready else None
            return None
        answer = self._asked.answer()
        if answer is None:
            return None
        self._asked = None
        states = {controller.name: controller.state for controller in answer.controller}
        return ', '.join(f'{name} is {states.get(name, "not loaded")}'
                         for name in self._controllers if states.get(name) != ACTIVE)

    def take(self, let_go: Callable[[], None] = lambda: None) -> None:
        """Have our controllers active and the others not; what was otherwise is remembered.

        Args:
            let_go: called before controllers of ours are activated. What was sent to them so far
                had no effect; it must not have one all of a sudden.

        Raises:
            ConfigError: that cannot be.
        """
        manager = self._manager
        if manager is None:
            return
        self._asked = None      # the answer would be of before
        self._undo = ((), ())
        patience_s = PATIENCE_S if self._appeared else APPEAR_S
        if not manager.ready:
            self._log.info(f'waiting for {manager.name}, for {patience_s:g} s at most')
        if not manager.wait(patience_s):
            raise ConfigError(
                f'robot.controller_manager: {manager.name} has not appeared within '
                f'{patience_s:g} s; start the driver, or name the right one, or leave it empty '
                'without ros2_control')
        self._appeared = True
        try:
            states = manager.states()
            for name in self._controllers:
                if states.get(name) not in READY:
                    raise ConfigError(
                        f'robot.controllers: {name} is {states.get(name, "not loaded")} in '
                        f'{manager.name}; load it first: `ros2 run controller_manager spawner '
                        f'--inactive {name}`')
            activate = tuple(name for name in self._controllers if states[name] != ACTIVE)
            deactivate = tuple(name for name in self._others if states.get(name) == ACTIVE)
            # Remembered before it is done: a signal may end the waiting for the answer. Taken again
            # after guard has let go, they are given back as they were found at first.
            self._to_deactivate += tuple(set(activate) - set(self._to_deactivate))
            self._to_activate += tuple(set(deactivate) - set(self._to_activate))
            self._undo = (deactivate, activate)
            if activate:
                let_go()
            manager.switch(activate, deactivate)
        except SwitchError as error:
            raise ConfigError(f'robot.controllers: {error}; `ros2 control list_controllers` shows '
                              'who holds the joints') from None
        if activate or deactivate:
            self._log.info(f'activated {list(activate)}, deactivated {list(deactivate)}')

    def undo(self, limit_s: float) -> None:
        """Have the controllers as they were before :meth:`take` was called last.

        Args:
            limit_s: time for it; that it failed is only said.
        """
        self._restore(*self._undo, limit_s)

    def give_back(self, limit_s: float) -> bool:
        """Leave the controllers as they were found; that it failed is only said.

        Args:
            limit_s: time for it. After a failure what is to be given back is known on.

        Returns:
            Whether the arm is not ours any more.
        """
        taken = bool(self._to_deactivate)
        if not self._restore(self._to_activate, self._to_deactivate, limit_s):
            return False
        self._to_activate = self._to_deactivate = ()
        return taken

    def _restore(self, activate: tuple[str, ...], deactivate: tuple[str, ...],
                 limit_s: float) -> bool:
        """Have some active and others not, whatever they are now; say whether that succeeded."""
        manager = self._manager
        if manager is None or not (activate or deactivate):
            return True
        self._asked = None
        end_s = time.monotonic() + limit_s
        flaw = f'{manager.name} is not there'
        for _ in range(2 if manager.ready else 0):
            # Some are so already: guard has deactivated them, or does so at this very moment.
            try:
                states = manager.states(end_s - time.monotonic())
                on = tuple(name for name in activate if states.get(name) != ACTIVE)
                off = tuple(name for name in deactivate if states.get(name) == ACTIVE)
                manager.switch(on, off, end_s - time.monotonic())
            except SwitchError as error:
                flaw = str(error)
                continue
            self._log.info(f'given back: activated {list(on)}, deactivated {list(off)}')
            return True
        self._log.error(f'the controllers were not given back: {flaw}')
        return False


class Release:
    """Having our controllers deactivated without waiting, and seeing to it that they stay so."""

    RETRY_S = 0.5
    LOOK_PERIOD_S = 1.0
    GRACE_S = 0.3
    """Controllers that were activated again stay so for this long: whoever clears an emergency stop
    takes the arm before it is over."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Create the client, if the robot has a controller_manager."""
        self._log = node.get_logger()
        self._controllers = robot.controllers
        self._manager = (ControllerManager(node, robot.controller_manager)
                         if robot.controller_manager else None)
        self._call: Call | None = None
        self._looking = False
        self._switch_s = self._look_s = float('inf')

    def ask(self, now_s: float, delay_s: float = 0.0) -> None:
        """Have them deactivated after a delay, and kept so until that is cancelled."""
        self._switch_s = min(self._switch_s, now_s + delay_s)

    def cancel(self) -> None:
        """Give up what has not been done yet, and look no more."""
        self._call = None
        self._switch_s = self._look_s = float('inf')

    def poll(self, now_s: float) -> None:
        """Do what is due at a steady time."""
        manager = self._manager
        if manager is None:
            return
        if self._call is not None:
            answer = self._call.answer()
            if answer is None and now_s < self._call.since_s + SWITCH_TIMEOUT_S:
                return
            self._call = None
            if self._looking:
                self._looked(answer, now_s)
            else:
                self._switched(answer, now_s)
        if now_s >= self._switch_s and manager.ready:
            self._switch_s, self._looking = float('inf'), False
            # Not all or nothing: some may not be active.
            self._call = manager.begin_switch((), self._controllers,
                                              SwitchController.Request.BEST_EFFORT)
        elif now_s >= self._look_s and manager.ready:
            self._look_s, self._looking = float('inf'), True
            self._call = manager.begin_list()

    def _switched(self, answer: SwitchController.Response | None, now_s: float) -> None:
        if answer is not None and answer.ok:
            self._log.error(f'deactivated {list(self._controllers)}')
            self._look_s = now_s + self.LOOK_PERIOD_S
            return
        assert self._manager is not None
        self._log.error(f'{self._manager.name} has not deactivated {list(self._controllers)}',
                        throttle_duration_sec=2.0)
        self._switch_s = min(self._switch_s, now_s + self.RETRY_S)

    def _looked(self, answer: ListControllers.Response | None, now_s: float) -> None:
        self._look_s = now_s + self.LOOK_PERIOD_S
        if answer is not None and any(controller.name in self._controllers
                                      and controller.state == ACTIVE
                                      for controller in answer.controller):
            self._switch_s = min(self._switch_s, now_s + self.GRACE_S)
