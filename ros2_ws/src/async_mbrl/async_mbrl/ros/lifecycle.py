"""Managed nodes: hooks in place of callbacks, errors that are said, and starting by themselves.

rclpy takes whatever a transition callback raises for an error and says nothing about it. Here the
callbacks are final: they call a hook, log what it raises, and end in the error state. What any
other callback raises takes the same way, through :func:`run_managed`.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, final

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from async_mbrl.core.config import ConfigError
from async_mbrl.ros.driver import PolledGroup
from async_mbrl.ros.events import SILENT_PUBLISHER, SILENT_SUBSCRIPTION, QosEvents
from async_mbrl.ros.run import StopRequested, raise_stop

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


class ManagedNode(LifecycleNode):
    """A lifecycle node of this package.

    A subclass reads its parameters in ``__init__``, so that ``ros2 param describe`` knows them
    from the beginning, and overrides the hooks. Unless the parameter ``autostart`` is false it
    configures and activates itself. What serves its callbacks must return once it is
    :attr:`finalized`. Events of all its publishers and subscriptions are reported.
    """

    def __init__(self, name: str) -> None:
        """Create the node, unconfigured."""
        self.events = QosEvents(self)
        """Quality-of-service events of this node."""
        super().__init__(name)
        self.failure: BaseException | None = None
        """What has ended in the error state; None if nothing has."""
        self._refusal: Exception | None = None
        self._stopped = False
        self._before: list[Any] = []
        self.autostart = bool(self.declare_parameter('autostart', True).value)

    def create_publisher(self, *args: Any, **options: Any) -> Publisher:
        """Create a publisher whose events are reported; arguments as those of rclpy."""
        publisher = super().create_publisher(
            *args, **{'event_callbacks': SILENT_PUBLISHER, **options})
        self.events.watch_publisher(publisher)
        return publisher

    def create_subscription(self, *args: Any, **options: Any) -> Subscription:
        """Create a subscription whose events are reported; arguments as those of rclpy."""
        subscription = super().create_subscription(
            *args, **{'event_callbacks': SILENT_SUBSCRIPTION, **options})
        # In a wait set, events of one that is polled would wake the executor for each message.
        if not isinstance(options.get('callback_group'), PolledGroup):
            self.events.watch_subscription(subscription)
        return subscription

    # ---- hooks ----

    def configure(self) -> None:
        """Build everything that needs no arm; inactive afterwards.

        Publishers, subscriptions, services, clients and timers created here or later are destroyed
        after :meth:`cleanup`.

        Raises:
            ConfigError: parameters do not fit; the node stays unconfigured.
        """

    def activate(self) -> None:
        """Begin to work.

        Raises:
            ConfigError: something that is needed is missing; the node stays inactive.
        """

    def deactivate(self) -> None:
        """Pause, what moves being stopped first."""

    def cleanup(self) -> None:
        """Give up what else :meth:`configure` built; also called before the node is shut down."""

    def on_failure(self) -> None:
        """Stop what moves: something has gone wrong. Followed by the end of the process."""

    # ---- state ----

    @property
    def label(self) -> str:
        """Primary state: unconfigured, inactive, active or finalized."""
        return str(self._state_machine.current_state[1])

    @property
    def finalized(self) -> bool:
        """Whether the node has come to its end, by shutdown or by an error."""
        return self.label == 'finalized'

    def start(self) -> None:
        """Configure and activate.

        Raises:
            ConfigError: a hook refused.
            StopRequested: it was asked to stop meanwhile.
            BaseException: what else a hook raised.
        """
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not SUCCESS:
                raise self.failure or self._refusal or RuntimeError(f'not started: {self.label}')

    def fail(self, error: BaseException) -> None:
        """End in the error state because of what was raised outside a transition."""
        self.get_logger().fatal(''.join(traceback.format_exception(error)))
        self.failure = error
        if self.label == 'active':
            self.trigger_deactivate()
        elif self.label == 'inactive':
            self.trigger_cleanup()
        else:
            self._stop()

    # ---- transitions ----

    @final
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call :meth:`configure`."""
        self._before = [entity for entity, _ in self._entities()]
        return self._guarded('configure', self.configure)

    @final
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call :meth:`activate`."""
        result = self._guarded('activate', self.activate)
        if result is SUCCESS:
            super().on_activate(state)
        return result

    @final
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call :meth:`deactivate`."""
        result = self._guarded('deactivate', self.deactivate)
        if result is SUCCESS:
            super().on_deactivate(state)
        return result

    @final
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call :meth:`cleanup`."""
        return self._guarded('cleanup', self._clean_up)

    @final
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call :meth:`deactivate` and :meth:`cleanup`, as far as the node had come.

        The end cannot be refused: what these refuse is only said.
        """
        if state.label == 'active' and self._guarded('deactivate', self.deactivate) is ERROR:
            return ERROR
        if state.label in ('active', 'inactive') and (
                self._guarded('cleanup', self._clean_up) is ERROR):
            return ERROR
        return SUCCESS

    @final
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop what moves, and end."""
        self._stop()
        return FAILURE

    def _guarded(self, name: str, hook: Callable[[], None]) -> TransitionCallbackReturn:
        if self.failure is not None:
            return ERROR        # it is fail() that asks
        try:
            hook()
        except ConfigError as error:
            self.get_logger().error(f'{name}: {error}')
            self._refusal = error
            return FAILURE
        except StopRequested as stop:       # rclpy would make an error of it
            self._refusal = stop
            return FAILURE
        except Exception as error:
            self.get_logger().fatal(f'{name}: {traceback.format_exc()}')
            self.failure = error
            return ERROR
        return SUCCESS

    def _clean_up(self) -> None:
        try:
            self.cleanup()
        finally:
            for entity, destroy in self._entities():
                if not any(entity is other for other in self._before):
                    destroy(entity)

    def _entities(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Give what the node has on the graph, and its timers, each with what destroys it."""
        return [(entity, destroy) for entities, destroy in (
            (self.timers, self.destroy_timer), (self.clients, self.destroy_client),
            (self.services, self.destroy_service),
            (self.subscriptions, self.destroy_subscription),
            (self.publishers, self.destroy_publisher)) for entity in entities]

    def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        try:
            self.on_failure()
        except Exception:
            self.get_logger().fatal(f'on_failure: {traceback.format_exc()}')


def run_managed(make: Callable[[], ManagedNode], spin: Callable[[ManagedNode], None]) -> int:
    """Create a managed node, start it, spin it until it is done or asked to stop, destroy it.

    Args:
        make: creates the node.
        spin: serves callbacks; returns when the node is done, finalized, or asked to stop. It is
            stopped by an exception that reaches it in Python, unless it calls
            :func:`async_mbrl.ros.run.note_stops` and looks.

    Returns:
        The exit status of the process: 0 when done, shut down or stopped by a signal, 2 for a
        configuration that does not fit, 1 for any other error.
    """
    signal.signal(signal.SIGINT, raise_stop)
    signal.signal(signal.SIGTERM, raise_stop)
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node: ManagedNode | None = None
    status = 0
    try:
        node = make()
        if node.autostart:
            node.start()
        spin(node)
    except (StopRequested, ExternalShutdownException):
        pass
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        status = 2
    except SystemExit as end:       # said, and known to be the end: no traceback
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr, flush=True)
        status = end.code if isinstance(end.code, int) else 1
    except Exception as error:
        status = 1
        if node is None:
            traceback.print_exc()
        elif node.failure is None:
            node.fail(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if node is not None:
            if node.label in ('active', 'inactive'):
                node.trigger_shutdown()
            if node.failure is not None:
                status = 1
            node.destroy_node()
        rclpy.try_shutdown()
    return status
