"""Run a node as a process: errors are said and end it non-zero, signals end it cleanly."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from async_mbrl.core.config import ConfigError


class StopRequested(Exception):
    """SIGINT or SIGTERM arrived."""


def raise_stop(number: int, _frame: object) -> None:
    raise StopRequested(signal.Signals(number).name)


def note_stops() -> list[int]:
    """Have SIGINT and SIGTERM noted in the list given, from now on, instead of raising.

    For what calls into the middleware all the time: an exception that arrives in the middle of such
    a call comes out of it as another one.
    """
    arrived: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: arrived.append(number))
    return arrived


def run_node(make: Callable[[], Node], spin: Callable[[Node], None]) -> int:
    """Create a node, spin it until it is done or asked to stop, and destroy it.

    Args:
        make: creates the node; a :class:`ConfigError` it raises is printed as one line.
        spin: does the node's work; returns when the node is done. It is stopped by an exception
            that reaches it in Python, unless it calls :func:`note_stops` and looks: where nothing
            else wakes it, it must not wait in rclpy without a timeout.

    Returns:
        The exit status of the process: 0 when done or stopped by a signal, 2 for a configuration
        that does not fit, 1 for any other error.
    """
    signal.signal(signal.SIGINT, raise_stop)
    signal.signal(signal.SIGTERM, raise_stop)
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node: Node | None = None
    status = 0
    try:
        node = make()
        spin(node)
    except (StopRequested, ExternalShutdownException):
        pass
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        status = 2
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return status
