"""The topic ``emergency_stop``, heard from any publisher, whatever quality of service it offers."""

from __future__ import annotations

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from async_mbrl.ros.bounds import STATUS_BYTES, MessageError, unpack
from async_mbrl.ros.driver import PolledGroup

TOPIC = 'emergency_stop'
_PROFILES = tuple(
    QoSProfile(depth=10, reliability=reliability, durability=durability)
    for reliability, durability in (
        (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL),
        (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
        (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)))


class EmergencyStopTopic:
    """Poll the topic: no executor stands between a button and the arm.

    Several subscriptions, because a publisher that offers less than one asks for would not be
    heard, and one that asks for less would miss what was said before it began.
    """

    def __init__(self, node: Node) -> None:
        """Create the subscriptions; that one or the other of them does not fit is no event."""
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._subscriptions = [
            Node.create_subscription(node, Bool, TOPIC, _polled, profile,
                                     callback_group=PolledGroup(), event_callbacks=silent)
            for profile in _PROFILES]
        self.pressed = False
        """What was said last, by the clock of who said it; one publisher is expected."""
        self._stamp = 0

    def poll(self) -> bool:
        """Listen; say whether a stop was asked for since the last time, taken back or not."""
        asked = False
        for subscription in self._subscriptions:
            while (taken := subscription.handle.take_message(Bool, True)) is not None:
                data, info = taken
                try:
                    pressed = bool(unpack(data, Bool, STATUS_BYTES).data)
                except MessageError:
                    pressed = True      # whatever it was to say, nothing is risked
                asked = asked or pressed
                # The same message comes by several ways, and an older one must not undo it.
                stamp = info['source_timestamp']
                if stamp >= self._stamp:
                    self.pressed, self._stamp = pressed, stamp
        return asked


def _polled(_message: Bool) -> None:
    """Stand where a callback is wanted; these subscriptions are polled."""
