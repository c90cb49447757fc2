"""Shared memory between the control loop and its parent: bounded, never blocking, torn-read safe.

A :class:`Ring` has one writer and one reader and slots of one size. Each slot carries the number of
its record and a checksum over both, so a reader that meets a slot being written sees that it does,
on any memory model, and takes the record next time. A writer never waits for a reader; a reader
of a stream that was overtaken knows it. :class:`SharedBlock` lays out all of them, and plain
counters, in one memory file that the child process inherits by its descriptor. Nothing here is
pickled.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from async_mbrl.control.plan_record import PlanRecord
from async_mbrl.control.takeover import Takeover, TakeoverRecord
from async_mbrl.core.plan import Plan
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand, Mode, StepKind

_SLOT = struct.Struct('<QII')   # number of the record from 1, bytes of payload, checksum
_HEAD = struct.Struct('<Q')     # number of the newest record
_TEXT_BYTES = 240
_FAULT_BYTES = 8 * _TEXT_BYTES
_REQUEST_BYTES = 16 + 2 * _TEXT_BYTES
_ORDER = b'\0'

STATE_SLOTS = 8
COMMAND_SLOTS = 64
POLICY_SLOTS = 3
PLAN_SLOTS = 4
TAKEOVER_SLOTS = 8
REQUEST_SLOTS = 256
STEP_SLOTS = 4096
ADOPTION_SLOTS = 256


class RingOverrun(RuntimeError):
    """Records were overwritten before they were read."""


class Ring:
    """Fixed number of slots in shared memory, one writer, one reader."""

    def __init__(self, memory: memoryview, slots: int, payload_bytes: int) -> None:
        """Use ``memory``, of :meth:`bytes_needed`, zeroed at first, for ``slots`` records."""
        self._memory = memory
        self._slots = slots
        self._stride = self._slot_bytes(payload_bytes)
        self._payload_bytes = payload_bytes
        self._written: int = _HEAD.unpack_from(memory, 0)[0]
        self._read = 0

    @staticmethod
    def _slot_bytes(payload_bytes: int) -> int:
        return -(-(_SLOT.size + payload_bytes) // 64) * 64

    @classmethod
    def bytes_needed(cls, slots: int, payload_bytes: int) -> int:
        """Size of the memory of a ring, bytes."""
        return 64 + slots * cls._slot_bytes(payload_bytes)

    def write(self, payload: bytes) -> None:
        """Write one record over the oldest slot.

        Raises:
            ValueError: the record is larger than a slot.
        """
        size = len(payload)
        if size > self._payload_bytes:
            raise ValueError(f'a record of {size} bytes for slots of {self._payload_bytes}')
        number = self._written + 1
        begin = 64 + (number % self._slots) * self._stride
        _SLOT.pack_into(self._memory, begin, 0, 0, 0)
        self._memory[begin + _SLOT.size:begin + _SLOT.size + size] = payload
        _SLOT.pack_into(self._memory, begin, number, size, zlib.crc32(payload, number & 0xffffffff))
        _HEAD.pack_into(self._memory, 0, number)
        self._written = number

    def _get(self, number: int) -> bytes | None:
        begin = 64 + (number % self._slots) * self._stride
        found, size, checksum = _SLOT.unpack_from(self._memory, begin)
        if found != number or size > self._payload_bytes:
            return None
        payload = bytes(self._memory[begin + _SLOT.size:begin + _SLOT.size + size])
        return payload if zlib.crc32(payload, number & 0xffffffff) == checksum else None

    def latest(self) -> bytes | None:
        """Give the newest record if it was not read yet; None otherwise."""
        number = _HEAD.unpack_from(self._memory, 0)[0]
        if number <= self._read:     # also 0, which the head may be while it is written
            return None
        payload = self._get(number)
        if payload is None:      # being overwritten by a newer one: that one comes next time
            return None
        self._read = number
        return payload

    def next(self) -> bytes | None:
        """Give the oldest record not read yet; None if there is none.

        Raises:
            RingOverrun: it has been overwritten.
        """
        number = self._read + 1
        if number > _HEAD.unpack_from(self._memory, 0)[0]:
            return None
        payload = self._get(number)
        if payload is None:
            newest = _HEAD.unpack_from(self._memory, 0)[0]
            if newest - number < self._slots - 1:
                return None      # not wholly visible yet: take it next time
            raise RingOverrun(f'record {number} was overwritten; the newest is {newest} and there '
                              f'are {self._slots} slots')
        self._read = number
        return payload


# Counters, each written by one side only. Aligned 8-byte words are written and read at once.
COUNTERS = (
    'stop',              # parent: 1 asks the loop to brake, send the safe command and end
    'ended',             # loop: 1 after its last command
    'ticks',             # loop: ticks since the start
    'late_ticks',        # loop: deadlines passed by more than half a period, left out or not
    'missed',            # loop: ticks left out because their time had passed
    'state',             # loop: index into core.STATES
    'motion',            # loop: index into motion.MOTIONS
    'active',            # loop: 1 while commands are sent
    'interventions',     # loop: ticks at which the filter changed the command, smoothing aside
    'interventions_finite',     # loop: ... of which: it was not finite
    'interventions_magnitude',  # loop: beyond torque, speed or position
    'interventions_braking',    # loop: braking before a joint limit
    'interventions_workspace',  # loop: braking before the limits of the workspace
    'smoothed',          # loop: ticks at which only the rate of change was limited
    'stale_holds',       # loop: times that stale joint states stopped the arm
    'policies_applied',  # loop: policies swapped in
    'planned_steps',     # loop: policy steps that were acted as planned
    'takeover_steps',    # loop: policy steps in which a person acted
    'takeovers_ignored',  # loop: policy steps of evaluations in which a person wanted to act
    'takeover_lost',     # loop: 1 while a takeover is lost
    'realtime',          # loop: priority of SCHED_FIFO, 0 under the plain scheduler
    'memory_locked',     # loop: 1 with locked memory
    'worst_lateness_ns',  # loop: greatest lateness while not idle
)


class RequestKind(enum.IntEnum):
    """What the parent may ask of the loop, besides orders."""

    CAUSE_PRESENT = 1
    CAUSE_GONE = 2
    CLEAR = 3
    ENABLE = 4
    DISABLE = 5
    RELEASE = 6
    HALT = 7
    HOLD_POLICY = 8
    RESTART = 9


@dataclass(frozen=True)
class Request:
    """Something that the parent asks of the loop."""

    kind: RequestKind
    name: str = ''
    reason: str = ''
    number: int = 0

    _head: ClassVar[struct.Struct] = struct.Struct('<BxHxxxxQ')

    def pack(self) -> bytes:
        """Give the bytes of the request; texts are cut to what a text record holds."""
        name = text(self.name)
        return self._head.pack(self.kind, len(name), self.number) + name + text(self.reason)

    @classmethod
    def unpack(cls, record: bytes) -> Request:
        """Give the request of bytes."""
        kind, size, number = cls._head.unpack_from(record)
        begin = cls._head.size
        return cls(RequestKind(kind), from_text(record[begin:begin + size]),
                   from_text(record[begin + size:]), number)


class SharedBlock:
    """All mailboxes between parent and loop, in one memory file.

    Parent writes ``states``, ``requests``, ``policies``, ``plans``, ``takeovers``; the loop writes
    ``commands``, ``steps``, ``adoptions``, ``resets``, ``fault``, ``answers`` and the counters and
    histograms marked so.
    Orders and all other requests share one ring, so that the loop sees them in the order in which
    they were made.
    """

    def __init__(self, descriptor: int, *, joints: int, states: int, start_size: int,
                 observation_size: int, goal_size: int, policy_bytes: int,
                 histogram_bins: int) -> None:
        """Map the memory file ``descriptor``; its size is set if it is still empty."""
        self.joints = joints
        self._step = StepRecord(observation_size, joints)
        self._order = OrderRecord(start_size, goal_size)
        self._plan = PlanRecord(joints)
        self._takeover = TakeoverRecord(joints)
        rings = {
            'states': (STATE_SLOTS, 8 * (1 + 2 * states)),
            'commands': (COMMAND_SLOTS, 8 * (1 + joints)),
            'policies': (POLICY_SLOTS, policy_bytes),
            'plans': (PLAN_SLOTS, self._plan.size),
            'takeovers': (TAKEOVER_SLOTS, self._takeover.size),
            'requests': (REQUEST_SLOTS, 1 + max(self._order.size, _REQUEST_BYTES)),
            'steps': (STEP_SLOTS, self._step.size),
            'adoptions': (ADOPTION_SLOTS, 32),
            'resets': (4, 8 * start_size),  # states that the simulator is to be asked for
            'fault': (4, _FAULT_BYTES),     # lines: reason of the fault, then causes still there
            'answers': (4, 8 + _FAULT_BYTES),   # to a request to clear: its number, why not
        }
        sizes = {name: Ring.bytes_needed(*shape) for name, shape in rings.items()}
        words = {'counters': len(COUNTERS), 'lateness': histogram_bins, 'durations': histogram_bins}
        total = sum(sizes.values()) + sum(-(-8 * count // 64) * 64 for count in words.values())
        if os.fstat(descriptor).st_size < total:
            os.ftruncate(descriptor, total)
        self._map = mmap.mmap(descriptor, total)
        memory = memoryview(self._map)
        begin = 0
        made: dict[str, Any] = {}
        for name, (slots, payload) in rings.items():
            made[name] = Ring(memory[begin:begin + sizes[name]], slots, payload)
            begin += sizes[name]
        for name, count in words.items():
            made[name] = memory[begin:begin + 8 * count].cast('q')
            begin += -(-8 * count // 64) * 64
        self.states: Ring = made['states']
        self.commands: Ring = made['commands']
        self.policies: Ring = made['policies']
        self.plans: Ring = made['plans']
        self.takeovers: Ring = made['takeovers']
        self.requests: Ring = made['requests']
        self.steps: Ring = made['steps']
        self.adoptions: Ring = made['adoptions']
        self.resets: Ring = made['resets']
        self.fault: Ring = made['fault']
        self.answers: Ring = made['answers']
        self.counters: memoryview = made['counters']
        self.lateness: memoryview = made['lateness']
        self.durations: memoryview = made['durations']

    # Records with structure; plain arrays of doubles and text are written by their owners.

    def put_order(self, command: EpisodeCommand) -> None:
        """Hand an episode command to the loop."""
        self.requests.write(_ORDER + self._order.pack(command))

    def put_plan(self, plan: Plan) -> None:
        """Hand a plan to the loop."""
        self.plans.write(self._plan.pack(plan))

    def newest_plan(self) -> Plan | None:
        """Take the newest plan; None if there is none since the last one."""
        record = self.plans.latest()
        return None if record is None else self._plan.unpack(record)

    def put_takeover(self, takeover: Takeover) -> None:
        """Hand what a person asks for to the loop."""
        self.takeovers.write(self._takeover.pack(takeover))

    def newest_takeover(self) -> Takeover | None:
        """Take what a person asked for last; None if there is nothing since then."""
        record = self.takeovers.latest()
        return None if record is None else self._takeover.unpack(record)

    def put_request(self, request: Request) -> None:
        """Hand a request to the loop."""
        self.requests.write(request.pack())

    def get_request(self) -> EpisodeCommand | Request | None:
        """Take the next episode command or request; None if there is none."""
        record = self.requests.next()
        if record is None:
            return None
        if record[:1] == _ORDER:
            return self._order.unpack(record[1:])
        return Request.unpack(record)

    def put_step(self, step: ControlStep) -> None:
        """Hand an event to the parent."""
        self.steps.write(self._step.pack(step))

    def get_step(self) -> ControlStep | None:
        """Take the next event; None if there is none."""
        record = self.steps.next()
        return None if record is None else self._step.unpack(record)


COUNTER = {name: index for index, name in enumerate(COUNTERS)}
"""Place of each counter in :attr:`SharedBlock.counters`."""


def text(value: str, most_bytes: int = _TEXT_BYTES) -> bytes:
    """Give a text cut to what a text record holds."""
    return value.encode('utf-8', 'replace')[:most_bytes]


def fault_record(reason: str, causes: tuple[str, ...]) -> bytes:
    """Give the record of a fault: its reason, then the causes still there."""
    lines = [' '.join(line.splitlines()) for line in (reason, *causes)]
    return text('\n'.join(lines), _FAULT_BYTES)


def from_text(record: bytes) -> str:
    """Give the text of a record."""
    return record.decode('utf-8', 'ignore')


def _words(values: np.ndarray, size: int, what: str) -> bytes:
    if values.size > size:
        raise ValueError(f'{what}: {values.size} numbers where {size} fit')
    return np.ascontiguousarray(values).tobytes()


class OrderRecord:
    """Bytes of an episode command; arrays keep the size they have, up to what fits."""

    _head = struct.Struct('<BBxxIQQIIIIQd')

    def __init__(self, start_size: int, goal_size: int) -> None:
        """Leave room for ``start_size`` and ``goal_size`` numbers."""
        # Arrays of a wrong size must reach the core, which refuses them by name.
        self._pose, self._goal = 4 * start_size, 4 * goal_size
        self.size = self._head.size + 8 * self._pose + 4 * self._goal
        """Most bytes of a record."""

    def pack(self, command: EpisodeCommand) -> bytes:
        """Give the bytes of a command.

        Raises:
            ValueError: an array is much larger than any that could be right.
        """
        pose = np.asarray(command.start_pose, np.float64)
        goal = np.asarray(command.goal, np.float32)
        return self._head.pack(
            command.kind, command.mode, command.policy_version.incarnation,
            command.policy_version.counter, command.number, command.episode, command.steps,
            pose.size, goal.size, command.seed, command.move_duration_s,
        ) + _words(pose, self._pose, 'start_pose') + _words(goal, self._goal, 'goal')

    def unpack(self, record: bytes) -> EpisodeCommand:
        """Give the command of bytes."""
        (kind, mode, incarnation, counter, number, episode, steps, joints, goals, seed,
         duration_s) = self._head.unpack_from(record)
        begin = self._head.size
        return EpisodeCommand(
            kind=CommandKind(kind), number=number, episode=episode, mode=Mode(mode),
            start_pose=np.frombuffer(record, '<f8', joints, begin),
            goal=np.frombuffer(record, '<f4', goals, begin + 8 * joints),
            move_duration_s=duration_s, steps=steps,
            policy_version=Version(incarnation, counter), seed=seed)


class StepRecord:
    """Bytes of an event of the control loop."""

    _head = struct.Struct('<BBBBIQQIIIIIIdff')

    def __init__(self, observation_size: int, action_size: int) -> None:
        """Leave room for an observation and two actions."""
        self._observation, self._action = observation_size, action_size
        self.size = self._head.size + 4 * (observation_size + 2 * action_size) + _TEXT_BYTES
        """Most bytes of a record."""

    def pack(self, step: ControlStep) -> bytes:
        """Give the bytes of an event."""
        reason = text(step.reason)
        arrays = [np.asarray(array, np.float32) for array in (
            step.observation, step.action_requested, step.previous_action_applied)]
        return b''.join([
            self._head.pack(
                step.kind, step.mode, step.previous_intervened, step.takeover,
                step.policy_version.incarnation, step.policy_version.counter,
                step.command_number, step.episode, step.step,
                *(array.size for array in arrays), len(reason), step.time_s, step.log_probability,
                step.exploration_std),
            _words(arrays[0], self._observation, 'observation'),
            _words(arrays[1], self._action, 'action_requested'),
            _words(arrays[2], self._action, 'previous_action_applied'),
            reason])

    def unpack(self, record: bytes) -> ControlStep:
        """Give the event of bytes."""
        (kind, mode, intervened, takeover, incarnation, counter, command_number, episode, step,
         observations, requested, applied, reason, time_s, log_probability,
         std) = self._head.unpack_from(record)
        begin, arrays = self._head.size, []
        for count in (observations, requested, applied):
            arrays.append(np.frombuffer(record, '<f4', count, begin))
            begin += 4 * count
        return ControlStep(
            kind=StepKind(kind), time_s=time_s, command_number=command_number, episode=episode,
            step=step, mode=Mode(mode), observation=arrays[0], action_requested=arrays[1],
            previous_action_applied=arrays[2], previous_intervened=bool(intervened),
            policy_version=Version(incarnation, counter), log_probability=log_probability,
            exploration_std=std, takeover=bool(takeover),
            reason=from_text(record[begin:begin + reason]))
