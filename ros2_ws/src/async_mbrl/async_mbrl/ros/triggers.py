"""Services that an operator calls, answered when what was asked for has happened.

rclpy answers a service when its callback returns, or keeps the executor busy until it does. These
are polled instead, and answered whenever that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.service import Service
from std_srvs.srv import Trigger

from async_mbrl.ros.driver import PolledGroup

PERIOD_S = 0.1
"""How often services are to be polled."""


class Request:
    """A call that waits for its answer."""

    def __init__(self, service: Service, header: Any) -> None:
        """Take the call of a service."""
        self._service = service
        self._header = header
        self.answered = False

    def answer(self, success: bool, message: str) -> None:
        """Answer; only the first answer is sent."""
        if not self.answered:
            self.answered = True
            self._service.send_response(Trigger.Response(success=success, message=message),
                                        self._header)


class Triggers:
    """The services ``~/<name>`` of a node, each with what it does."""

    def __init__(self, node: Node, **actions: Callable[[Request], None]) -> None:
        """Create the services.

        Args:
            node: owner.
            actions: by name; each takes the call, and answers it then or later, in the thread
                that polls.
        """
        self._node = node
        group = PolledGroup()
        self._services = [
            (node.create_service(Trigger, f'~/{name}', _polled, callback_group=group), action)
            for name, action in actions.items()]
        self._open: list[Request] = []

    def poll(self) -> None:
        """Take the calls that have come."""
        for service, action in self._services:
            while True:
                _, header = service.handle.service_take_request(Trigger.Request)
                if header is None:
                    break
                request = Request(service, header)
                self._open = [item for item in self._open if not item.answered] + [request]
                self._node.get_logger().info(f'asked to {service.service_name.split("/")[-1]}')
                action(request)

    def refuse_open(self, reason: str) -> None:
        """Answer all that wait, because what they wait for will not come any more."""
        for request in self._open:
            request.answer(False, reason)


def _polled(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
    """Stand where a callback is wanted; these services are polled."""
    return response
