"""What an operator asks of robot_interface: start, pause, stop, evaluate, save."""

from __future__ import annotations

import time
from typing import Protocol

from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from async_mbrl.collection.course import Course
from async_mbrl.collection.phases import RunSequence
from async_mbrl.ros.triggers import Request, Triggers

OPERATOR = 'operator'
SAVE_S = 20.0
"""Time that learners get to save."""


class Operated(Protocol):
    """What is operated: the bridge of robot_interface."""

    sequence: Course

    def advance(self) -> None:
        """Do at once what is due."""
        ...

    def save(self) -> None:
        """Bring to the disk what is known.

        Raises:
            OSError: the disk does not take it.
        """
        ...


class Operation:
    """The services of robot_interface; :meth:`poll` serves them."""

    def __init__(self, node: Node, operated: Operated, learners: tuple[str, ...]) -> None:
        """Create services, and clients to the learners.

        Args:
            node: owner.
            operated: what is operated.
            learners: names of those who are asked to save.
        """
        self._operated = operated
        self._triggers = Triggers(node, start=self._start, pause=self._pause, stop=self._stop,
                                  evaluate=self._evaluate, save=self._save)
        self._clients = {name: node.create_client(Trigger, f'{name}/save') for name in learners}
        self._evaluating: tuple[Request, int] | None = None
        self._saving: tuple[Request, dict[str, Future | None], float] | None = None

    def poll(self) -> None:
        """Take what is asked, answer what has been done."""
        self._triggers.poll()
        if self._evaluating is not None:
            self._follow_evaluation(*self._evaluating)
        if self._saving is not None:
            self._follow_saving(*self._saving)

    def close(self) -> None:
        """Answer all who still wait."""
        self._triggers.refuse_open('the run has ended')

    def _start(self, request: Request) -> None:
        sequence = self._operated.sequence
        if sequence.complete:
            request.answer(False, f'the run has ended: {sequence.reason}')
            return
        was = sequence.release(OPERATOR)
        self._operated.advance()
        if sequence.paused:
            request.answer(False, f'still paused: {sequence.reason}')
        else:
            request.answer(True, 'going on' if was else 'was not paused')

    def _pause(self, request: Request) -> None:
        self._operated.sequence.ask_pause(
            OPERATOR, 'paused by an operator; go on with: '
            'ros2 service call robot_interface/start std_srvs/srv/Trigger')
        self._operated.advance()
        request.answer(True, 'paused: the arm is held, learners go on with what they have')

    def _stop(self, request: Request) -> None:
        self._operated.sequence.interrupt()
        request.answer(True, 'the run ends in order; start it again on its folder to go on')

    def _evaluate(self, request: Request) -> None:
        sequence = self._operated.sequence
        refusal = sequence.evaluate()
        if refusal or not isinstance(sequence, RunSequence):
            request.answer(False, refusal)
            return
        self._evaluating = request, len(sequence.checks)

    def _follow_evaluation(self, request: Request, before: int) -> None:
        sequence = self._operated.sequence
        if isinstance(sequence, RunSequence) and len(sequence.checks) > before:
            request.answer(True, str(sequence.checks[before]))
            self._evaluating = None

    def _save(self, request: Request) -> None:
        if self._saving is not None:
            request.answer(False, 'saving already')
            return
        try:
            self._operated.save()
        except OSError as error:
            request.answer(False, f'files of the run cannot be written: {error}')
            return
        asked = {name: client.call_async(Trigger.Request()) if client.service_is_ready() else None
                 for name, client in self._clients.items()}
        self._saving = request, asked, time.monotonic() + SAVE_S

    def _follow_saving(self, request: Request, asked: dict[str, Future | None],
                       end_s: float) -> None:
        waiting = [name for name, future in asked.items()
                   if future is not None and not future.done()]
        if waiting and time.monotonic() < end_s:
            return
        self._saving = None
        said, success = ['journal and summary written'], True
        for name, future in asked.items():
            answer = future.result() if future is not None and future.done() else None
            success &= answer is not None and answer.success
            said.append(f'{name}: {answer.message if answer is not None else "no answer"}')
        request.answer(success, '; '.join(said))
