"""Quality-of-service events of publishers and subscriptions: said once, and counted.

The middleware notices what nobody would otherwise: that two ends of a topic do not fit, that a
promised message did not come, that the other end has gone. :class:`ManagedNode` watches all its
publishers and subscriptions with one :class:`QosEvents`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rclpy.event_handler import (
    PublisherEventCallbacks,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription

from async_mbrl.ros.diagnostics import Growth, Part

DEADLINE, LIVELINESS, GONE, INCOMPATIBLE, TYPE = (
    'deadline missed', 'liveliness lost', 'publisher gone', 'incompatible QoS', 'another type')
ERRORS = (INCOMPATIBLE, TYPE)
SILENT_PUBLISHER = PublisherEventCallbacks(use_default_callbacks=False)
SILENT_SUBSCRIPTION = SubscriptionEventCallbacks(use_default_callbacks=False)


class QosEvents:
    """Events of the publishers and subscriptions of one node."""

    def __init__(self, node: Node) -> None:
        """Watch nothing yet."""
        self._node = node
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often each kind of event has happened on each topic."""
        self._growth = Growth()

    def watch_publisher(self, publisher: Publisher) -> None:
        """Watch a publisher that was made with :data:`SILENT_PUBLISHER`."""
        topic = publisher.topic_name
        self._add(publisher, {
            'deadline': lambda event: self._note(DEADLINE, topic, event.total_count_change,
                                                 'a message that was promised was not sent'),
            'liveliness': lambda event: self._note(LIVELINESS, topic, event.total_count_change,
                                                   'this publisher counts as dead'),
            **self._misfits(topic)}, PublisherEventCallbacks)

    def watch_subscription(self, subscription: Subscription) -> None:
        """Watch a subscription that was made with :data:`SILENT_SUBSCRIPTION`.

        Unlike the callbacks handed to rclpy these do not go with the callback group of the
        subscription, which may be one that is polled.
        """
        topic = subscription.topic_name
        self._add(subscription, {
            'deadline': lambda event: self._note(DEADLINE, topic, event.total_count_change,
                                                 'a message that was promised did not come'),
            'liveliness': lambda event: self._note(LIVELINESS, topic, event.not_alive_count_change,
                                                   'a publisher counts as dead'),
            'matched': lambda event: self._note(GONE, topic, -event.current_count_change,
                                                'a publisher has gone'),
            **self._misfits(topic)}, SubscriptionEventCallbacks)

    def part(self) -> Part:
        """Say what has happened, for ``/diagnostics``; a missed deadline warns while it is new."""
        said = {f'{topic}: {kind}': count for (kind, topic), count in sorted(self.counts.items())}
        wrong = [f'{kind} on {topic}' for kind, topic in self.counts if kind in ERRORS]
        late = [f'{kind} on {topic}' for (kind, topic), count in self.counts.items()
                if kind == DEADLINE and self._growth.of(topic, count)]
        return Part('topics', 'both ends of all topics fit', said, tuple(late), tuple(wrong))

    def _misfits(self, topic: str) -> dict[str, Any]:
        return {
            'incompatible_qos': lambda event: self._note(
                INCOMPATIBLE, topic, event.total_count_change,
                f'the other end differs in {qos_policy_name_from_kind(event.last_policy_kind)}; '
                'no messages pass. Give both ends the same'),
            'incompatible_type': lambda event: self._note(
                TYPE, topic, event.total_count_change,
                'the other end has another message type; no messages pass')}

    def _add(self, entity: Any, callbacks: dict[str, Any], container: Any) -> None:
        group = self._node.default_callback_group
        for name, callback in callbacks.items():
            try:
                handlers = container(**{name: callback}, use_default_callbacks=False
                                     ).create_event_handlers(group, entity.handle,
                                                             entity.topic_name)
            except UnsupportedEventTypeError:      # by this middleware
                continue
            for handler in handlers:
                entity.event_handlers.append(handler)
                self._node.add_waitable(handler)

    def _note(self, kind: str, topic: str, count: int, meaning: str) -> None:
        if count <= 0:
            return
        if not self.counts[kind, topic]:
            log = self._node.get_logger()
            text = f'{topic}: {kind}: {meaning}'
            if kind in ERRORS:
                log.error(text)
            elif kind == GONE:
                log.info(text)
            else:
                log.warning(text)
        self.counts[kind, topic] += count
