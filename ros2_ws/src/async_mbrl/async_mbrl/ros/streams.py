"""Numbered streams between nodes that lose nothing: gaps are seen and asked for again.

DDS delivers reliably only to those who are there; a late or restarted node, a full queue or a lossy
link still miss messages. Every message of a stream therefore carries a number, its publisher
answers a service with any range of them, and a subscriber delivers in order, each once, asking for
what it missed. Streams that belong to one start of their publisher carry a session and begin again
at 0 in each; transitions belong to the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from async_mbrl_interfaces import msg, srv
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.task import Future

from async_mbrl.core.sequence import History, InOrder
from async_mbrl.ros.bounds import STATUS_BYTES, StreamBounds, subscribe
from async_mbrl.ros.qos import STREAM

CHUNK_MESSAGES = 64
"""Most messages in one answer."""

CHUNK_BYTES = 200_000
"""Most bytes in one answer: below where Fast DDS begins to lose samples on a poor link."""

HISTORY_MESSAGES = 100_000
"""Messages a publisher keeps in memory where it has no journal to read from."""

CHECK_PERIOD_S = 0.1
"""How often a subscriber looks whether something is still missing."""

ANSWER_TIMEOUT_S = 1.0
"""How long a subscriber waits for an answer before it asks again."""


@dataclass(frozen=True)
class Stream:
    """A numbered stream: where its messages are published and asked for again."""

    topic: str
    message: type
    service_name: str
    service: type
    per_session: bool
    read: Callable[[Any], tuple[bool, Sequence[Any]]]
    write: Callable[[Any, bool, list[Any]], None]


def _read_messages(response: Any) -> tuple[bool, Sequence[Any]]:
    return response.known, response.messages


def _write_messages(response: Any, known: bool, messages: list[Any]) -> None:
    response.known, response.messages = known, messages


def _read_batch(response: Any) -> tuple[bool, Sequence[Any]]:
    return True, response.batch.transitions


def _write_batch(response: Any, known: bool, messages: list[Any]) -> None:
    del known
    response.batch.transitions = messages


TRANSITIONS = Stream('transitions', msg.Transition, 'robot_interface/get_transitions',
                     srv.GetTransitions, False, _read_batch, _write_batch)
CONTROL_STEPS = Stream('control_steps', msg.ControlStep, 'controller/get_control_steps',
                       srv.GetControlSteps, True, _read_messages, _write_messages)
EPISODE_COMMANDS = Stream('episode_commands', msg.EpisodeCommand,
                          'robot_interface/get_episode_commands', srv.GetEpisodeCommands, True,
                          _read_messages, _write_messages)


class StreamPublisher:
    """Publish a numbered stream and answer for what was missed."""

    def __init__(self, node: Node, stream: Stream, *, session: int = 0, next_number: int = 0,
                 fetch: Callable[[int, int], list[bytes] | None] | None = None) -> None:
        """Create the publisher and its service.

        Args:
            node: owner.
            stream: which stream.
            session: identifies this start of the publisher, for streams per session.
            next_number: number of the first message to be published.
            fetch: gives up to ``count`` serialised messages from ``first`` on, None if they are no
                longer kept; called in the executor. Without it the last ``HISTORY_MESSAGES`` are
                kept in memory.
        """
        self.session = session
        self.next_number = next_number
        self._stream = stream
        self._history = None if fetch else History(HISTORY_MESSAGES)
        self._fetch = fetch or self._history.fetch  # type: ignore[union-attr]
        self._publisher = node.create_publisher(stream.message, stream.topic, STREAM)
        self._service = node.create_service(stream.service, stream.service_name, self._answer)

    def publish(self, message: Any, serialised: bytes | None = None) -> None:
        """Publish a message numbered ``next_number``; may be called from any one thread.

        Args:
            message: with ``number``, and ``session`` if the stream has sessions, set.
            serialised: the same message serialised, where that has been done already.

        Raises:
            ValueError: the number is not the next one.
        """
        if message.number != self.next_number:
            raise ValueError(f'{self._stream.topic}: message {message.number} published where '
                             f'{self.next_number} is next')
        if serialised is None:
            serialised = serialize_message(message)
        if self._history is not None:
            self._history.append(message.number, serialised)
        self.next_number = message.number + 1
        self._publisher.publish(serialised)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all subscribers have what was published; False if they do not in time."""
        return bool(self._publisher.wait_for_all_acked(Duration(seconds=timeout_s)))

    def _answer(self, request: Any, response: Any) -> Any:
        known = not self._stream.per_session or request.session == self.session
        payloads: list[bytes] | None = []
        if known and request.first < self.next_number:
            payloads = self._fetch(request.first, min(request.count, CHUNK_MESSAGES))
        known = known and payloads is not None
        messages, size = [], 0
        for payload in payloads or ():
            size += len(payload)
            if messages and size > CHUNK_BYTES:
                break
            messages.append(deserialize_message(payload, self._stream.message))
        self._stream.write(response, known, messages)
        response.next_number = self.next_number
        return response


class StreamSubscriber:
    """Deliver a numbered stream in order, each message once, none left out.

    All work is done in callbacks of the node's executor, none of which waits. :meth:`announce` may
    be called from any thread; ``deliver`` is never called by two threads at once.
    """

    def __init__(self, node: Node, stream: Stream, deliver: Callable[[Any, bool], None], *,
                 bounds: StreamBounds | None = None, first: int = 0, session: int | None = None,
                 on_session: Callable[[int], None] | None = None,
                 on_unavailable: Callable[[str], None] | None = None) -> None:
        """Create the subscription, the client and the check for gaps.

        Args:
            node: owner.
            stream: which stream.
            deliver: called as ``deliver(message, recovered)``; ``recovered`` says that the message
                came as an answer and not by the topic.
            bounds: what messages must be like; others are refused, and so still missing. Without
                it only their size is bounded.
            first: number of the first message wanted.
            session: the session that ``first`` belongs to; any other session begins at 0. Without
                it the first session seen begins at ``first``.
            on_session: called with a session before its first message is delivered.
            on_unavailable: called with the reason when the publisher no longer has what is missing;
                it is logged in any case.
        """
        self.session = session
        self.recovering = False
        """Whether what is delivered comes as late as one that was asked for again: itself, or one
        that it had to wait for."""
        self.recovered = 0
        self.refused = 0
        """Messages that were not what the stream carries."""
        self._stream = stream
        self._bounds = bounds
        self._deliver = deliver
        self._first = first
        self._on_session = on_session
        self._on_unavailable = on_unavailable
        self._logger = node.get_logger()
        self._lock = threading.RLock()
        self._order: InOrder[tuple[Any, bool]] = InOrder(first)
        self._past: set[int] = set()
        self._announced = self._due = first
        self._pending: Future | None = None
        self._wanted = (0, 0)
        self._deadline = 0.0
        self._client = node.create_client(stream.service, stream.service_name)
        self._subscription = subscribe(
            node, stream.message, stream.topic, self._on_message, STREAM,
            maximum_bytes=STATUS_BYTES if bounds is None else bounds.most_bytes(stream.message))
        # Retries must go on while simulated time stands still.
        self._timer = node.create_timer(CHECK_PERIOD_S, self._check,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def next_number(self) -> int:
        """All messages with number below this were delivered."""
        return self._order.next_number

    def announce(self, next_number: int, session: int | None = None) -> None:
        """Learn from a status that all messages with number below ``next_number`` exist.

        Without this the loss of the last messages before a silence would go unseen. The request
        follows only if they are still missing a check period later, since a status may overtake
        messages that are on their way.
        """
        with self._lock:
            if self._stream.per_session and not self._enter(session):
                return
            self._announced = max(self._announced, next_number)

    def _on_message(self, message: Any) -> None:
        with self._lock:
            self._take(message, recovered=False)
            self._ask()

    def _take(self, message: Any, recovered: bool) -> None:
        flaw = '' if self._bounds is None else self._bounds.flaw(message)
        if flaw:
            self.refused += 1
            self._logger.error(f'{self._stream.topic}: message {message.number} refused: {flaw}',
                               throttle_duration_sec=1.0)
            return
        if self._stream.per_session and not self._enter(message.session):
            return
        self.recovering = recovered
        for item, was_recovered in self._order.offer(message.number, (message, recovered)):
            self.recovered += was_recovered
            self._deliver(item, was_recovered)

    def _enter(self, session: int | None) -> bool:
        """Begin a session never seen before; False for one that is over."""
        if session is None or session in self._past:
            return False
        if session == self.session:
            return True
        first = self._first if self.session is None else 0
        if self.session is not None:
            self._past.add(self.session)
        self.session = session
        self._order = InOrder(first)
        self._announced = self._due = first
        self._drop_request()
        if self._on_session is not None:
            self._on_session(session)
        return True

    def _check(self) -> None:
        with self._lock:
            self._order.announce(self._due)
            self._due = self._announced
            if self._pending is not None and time.monotonic() >= self._deadline:
                self._drop_request()
            self._ask()

    def _ask(self) -> None:
        gap = self._order.missing()
        if gap is None or self._pending is not None or not self._client.service_is_ready():
            return
        request = self._stream.service.Request()  # type: ignore[attr-defined]
        if self._stream.per_session:
            request.session = self.session
        request.first, request.count = gap[0], min(gap[1], CHUNK_MESSAGES)
        self._wanted = gap[0], request.count
        self._deadline = time.monotonic() + ANSWER_TIMEOUT_S
        self._pending = self._client.call_async(request)
        self._pending.add_done_callback(self._on_answer)

    def _drop_request(self) -> None:
        if self._pending is not None:
            self._client.remove_pending_request(self._pending)
            self._pending = None

    def _on_answer(self, future: Future) -> None:
        with self._lock:
            if future is not self._pending:
                return
            self._pending = None
            before = self.next_number
            known, messages = self._stream.read(future.result())
            if not known:
                reason = (f'{self._stream.topic}: number {before} is missing and its publisher no '
                          f'longer has it')
                self._logger.error(reason, throttle_duration_sec=5.0)
                if self._on_unavailable is not None:
                    self._on_unavailable(reason)
                return
            first, count = self._wanted
            for message in messages[:count]:
                if first <= message.number < first + count:
                    self._take(message, recovered=True)
            # Without progress the next check asks again: an answer that does not help must not
            # make the two nodes busy.
            if self.next_number > before:
                self._ask()
