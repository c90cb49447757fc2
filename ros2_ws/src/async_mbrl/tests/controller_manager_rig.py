"""A controller_manager of ros2_control, as far as handing over goes."""

from __future__ import annotations

from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers, SwitchController
from rclpy.node import Node


class FakeControllerManager:
    """Services of a controller_manager on a node of a test."""

    def __init__(self, node: Node, name: str, states: dict[str, str]) -> None:
        self.states = states
        self.switches: list[tuple[list[str], list[str]]] = []
        self.broken = False
        node.create_service(ListControllers, f'{name}/list_controllers', self._list)
        node.create_service(SwitchController, f'{name}/switch_controller', self._switch)

    def active(self) -> set[str]:
        return {name for name, state in self.states.items() if state == 'active'}

    def _list(self, _request: ListControllers.Request,
              response: ListControllers.Response) -> ListControllers.Response:
        response.controller = [ControllerState(name=name, state=state)
                               for name, state in self.states.items()]
        return response

    def _switch(self, request: SwitchController.Request,
                response: SwitchController.Response) -> SwitchController.Response:
        activate, deactivate = list(request.activate_controllers), list(
            request.deactivate_controllers)
        self.switches.append((activate, deactivate))
        strict = request.strictness == SwitchController.Request.STRICT
        possible = (all(self.states.get(name) == 'inactive' for name in activate)
                    and all(self.states.get(name) == 'active' for name in deactivate))
        response.ok = not self.broken and (possible or not strict)
        if response.ok:
            self.states.update(dict.fromkeys(activate, 'active'))
            self.states.update(dict.fromkeys(deactivate, 'inactive'))
        return response
