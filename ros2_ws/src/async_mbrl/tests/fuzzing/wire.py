"""Fuzzed messages: those of the streams, joint states, takeovers, joysticks."""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import collection_rig
import numpy as np
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState, Joy

from async_mbrl.control import orders
from async_mbrl.control.mailbox import OrderRecord
from async_mbrl.control.settings import TakeoverSettings
from async_mbrl.control.teleop import deflections
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode, Transition
from async_mbrl.ros import convert
from async_mbrl.ros.bounds import STATUS_BYTES, MessageError, StreamBounds, unpack
from async_mbrl.ros.joint_states import JointStateError, JointStateReader
from async_mbrl.ros.streams import CONTROL_STEPS, EPISODE_COMMANDS, TRANSITIONS
from async_mbrl.ros.takeover_intake import action_from_message, takeover_to_message
from fuzzing import Target, damage
from fuzzing.cdr import (
    CONTROL_STEP,
    EPISODE_COMMAND,
    JOINT_STATE,
    JOY,
    TAKEOVER,
    TRANSITION,
    NotCdr,
    read,
)


class Refused(Exception):
    """The way in of a stream has refused a message."""


def targets() -> list[Target]:
    """Give the targets of this module."""
    task = collection_rig.task()
    bounds = StreamBounds.of(task)

    def taker(stream: Any, convert_one: Callable[[Any], Any]) -> Callable[[bytes], Any]:
        def take(data: bytes) -> Any:
            message = unpack(data, stream.message, bounds.most_bytes(stream.message))
            flaw = bounds.flaw(message)
            if flaw:
                raise Refused(flaw)
            return convert_one(message)
        return take

    def obey(message: Any) -> EpisodeCommand:
        record = OrderRecord(task.joints, task.goal_size)
        command = record.unpack(record.pack(convert.command_from_message(message)))
        if command.kind == CommandKind.RUN_EPISODE:
            flaw = orders.flaw(command, task.robot, task)
            if flaw:
                raise Refused(flaw)
        return command

    return [
        Target('transitions', _maker(_transitions(task)),
               taker(TRANSITIONS, convert.transition_from_message),
               functools.partial(_judge_transition, task), (MessageError, Refused),
               lambda data: _fits(data, TRANSITION, functools.partial(_transition_flaw, task))),
        Target('control_steps', _maker(_steps(task)),
               taker(CONTROL_STEPS, convert.step_from_message),
               functools.partial(_judge_step, task), (MessageError, Refused),
               lambda data: _fits(data, CONTROL_STEP, functools.partial(_step_flaw, task))),
        Target('episode_commands', _maker(_commands(task)), taker(EPISODE_COMMANDS, obey),
               functools.partial(_judge_command, task), (MessageError, Refused, ValueError),
               lambda data: _fits(data, EPISODE_COMMAND, functools.partial(_command_flaw, task))),
        Target('joint_states', _maker(_joint_states(task)), _reader(task),
               functools.partial(_judge_joints, task), (JointStateError, Refused),
               lambda data: _fits(data, JOINT_STATE, functools.partial(_joints_flaw, task))),
        Target('takeovers', _maker(_takeovers(task)), lambda data: action_from_message(
                   unpack(data, msg.Takeover, 2048), task.action_size),
               functools.partial(_judge_takeover, task), (MessageError,),
               lambda data: _fits(data, TAKEOVER, functools.partial(_takeover_flaw, task))),
        Target('joysticks', _maker(_joysticks()), _deflected, _judge_deflections,
               (MessageError, ValueError), lambda data: _fits(data, JOY, _joystick_flaw)),
    ]


def _maker(originals: list[bytes]) -> Callable[[random.Random], tuple[bytes, str]]:
    def make(rng: random.Random) -> tuple[bytes, str]:
        data = rng.choice(originals)
        if rng.random() < 0.25:     # a number that is no number, where numbers stand
            at = 4 * rng.randrange(1, len(data) // 4)
            value = rng.choice((math.nan, math.inf, -math.inf, 1e30, -0.0, 1e-40))
            size, form = rng.choice(((4, '<f'), (8, '<d')))
            return data[:at] + struct.pack(form, value) + data[at + size:], 'number'
        return damage(rng, data, rng.choice(originals))
    return make


def _fits(data: bytes, fields: list[tuple[str, str]],
          flaw: Callable[[dict[str, Any]], str]) -> bool | None:
    """Whether bytes must be taken by the rules of this module."""
    try:
        return not flaw(read(data, fields)) and len(data) < 1000
    except NotCdr:
        return False


def _finite(*arrays: Any) -> bool:
    return all(math.isfinite(value) for values in arrays for value in values)


# ---- transitions ----

def _transitions(task: Any) -> list[bytes]:
    rng = np.random.default_rng(1)
    made = []
    for number in range(8):
        transition = Transition(
            number, number // 3, number % 3, rng.normal(size=task.observation_size),
            rng.normal(size=task.action_size), rng.normal(size=task.action_size),
            rng.normal(size=task.observation_size), float(rng.normal()), False, number % 3 == 2)
        made.append(serialize_message(convert.transition_to_message(transition, Time(sec=5))))
    return made


def _transition_flaw(task: Any, found: dict[str, Any]) -> str:
    arrays = [found[name] for name in ('observation', 'action_requested', 'action_applied',
                                       'next_observation')]
    if [len(values) for values in arrays] != [task.observation_size, task.action_size,
                                              task.action_size, task.observation_size]:
        return 'of a wrong size'
    return '' if _finite(*arrays, [found['reward']]) else 'not finite'


def _judge_transition(task: Any, data: bytes, taken: Transition) -> str:
    found = {name: np.asarray(getattr(taken, name)).tolist() for name in (
        'observation', 'action_requested', 'action_applied', 'next_observation')}
    found.update(number=taken.number, reward=taken.reward, step=taken.step)
    return _transition_flaw(task, found) or _differs(data, TRANSITION, found)


# ---- control steps ----

def _steps(task: Any) -> list[bytes]:
    command = EpisodeCommand(CommandKind.RUN_EPISODE, 3, 5, Mode.LEARNING,
                             goal=np.zeros(task.goal_size, np.float32), steps=3)
    events = [*collection_rig.episode(task, command),
              *collection_rig.episode(task, command, abort_at=2)[-1:]]
    return [serialize_message(convert.step_to_message(event, number, 77))
            for number, event in enumerate(events)]


def _step_flaw(task: Any, found: dict[str, Any]) -> str:
    if found['kind'] > 3 or found['mode'] > 1:
        return 'of an unknown kind or mode'
    sizes = [len(found[name]) for name in ('observation', 'action_requested',
                                           'previous_action_applied')]
    wanted = [task.observation_size, task.action_size, task.action_size]
    if any(size not in (0, right) for size, right in zip(sizes, wanted, strict=True)):
        return 'of a wrong size'
    if found['kind'] == 0 and (not sizes[0] or not sizes[1] or (found['step'] and not sizes[2])):
        return 'a step without its numbers'
    if found['kind'] == 1 and not (sizes[0] and sizes[2]):
        return 'an end without its numbers'
    return '' if _finite(found['observation'], found['action_requested'],
                         found['previous_action_applied']) else 'not finite'


def _judge_step(task: Any, data: bytes, taken: Any) -> str:
    found = {name: np.asarray(getattr(taken, name)).tolist() for name in (
        'observation', 'action_requested', 'previous_action_applied')}
    found.update(kind=int(taken.kind), mode=int(taken.mode), step=taken.step,
                 episode=taken.episode)
    return _step_flaw(task, found) or _differs(data, CONTROL_STEP, found)


# ---- episode commands ----

def _commands(task: Any) -> list[bytes]:
    home = np.asarray(task.robot.home)
    goal = np.asarray(task.tool_points(home), np.float32)
    return [serialize_message(convert.command_to_message(EpisodeCommand(
        kind, number, number, Mode(number % 2), home + 0.05 * number, 2.0, goal, 60, seed=number),
        99, Time(sec=5))) for number, kind in enumerate([CommandKind.RUN_EPISODE] * 4
                                                        + [CommandKind.HOLD, CommandKind.FINISH])]


def _command_flaw(task: Any, found: dict[str, Any]) -> str:
    if found['kind'] > 2 or found['mode'] > 1:
        return 'of an unknown kind or mode'
    pose, goal, robot = found['start_pose'], found['goal'], task.robot
    if found['kind'] != 0:      # to stop is obeyed whatever else it says, within reason
        return 'far too large' if len(pose) > 4 * task.joints or len(goal) > 4 * task.goal_size \
            else ''
    if pose and (len(pose) != task.joints or not _finite(pose) or any(
            not low <= value <= high for value, low, high in zip(
                pose, robot.limits.position_lower, robot.limits.position_upper, strict=True))):
        return 'a start pose that the robot has not'
    if len(goal) != task.goal_size or not _finite(goal):
        return 'a goal that the task has not'
    if found['steps'] < 1:
        return 'no steps'
    if pose and not 0.0 < found['move_duration_s'] <= 600.0:
        return 'a move of no duration'
    return ''


def _judge_command(task: Any, data: bytes, taken: EpisodeCommand) -> str:
    found = {'kind': int(taken.kind), 'mode': int(taken.mode), 'steps': taken.steps,
             'start_pose': taken.start_pose.tolist(), 'goal': taken.goal.tolist(),
             'move_duration_s': taken.move_duration_s}
    return _command_flaw(task, found) or _differs(data, EPISODE_COMMAND, found)


# ---- joint states ----

def _joint_states(task: Any) -> list[bytes]:
    names, rng = list(task.robot.joint_names), np.random.default_rng(2)

    def made(order: list[str], effort: bool) -> bytes:
        state = JointState(name=order, position=rng.normal(size=len(order)).tolist(),
                           velocity=rng.normal(size=len(order)).tolist(),
                           effort=rng.normal(size=len(order)).tolist() if effort else [])
        state.header.frame_id = 'base'
        return serialize_message(state)

    return [made(order, effort) for order in (names, names[::-1], ['gripper', *names])
            for effort in (False, True)]


def _reader(task: Any) -> Callable[[bytes], Any]:
    """Read with one reader all the time, as a driver's states are."""
    reader = JointStateReader(task.robot.joint_names)

    def take(data: bytes) -> Any:
        taken = reader.take(data)
        if taken is None:
            raise Refused('not finite')
        return [values.copy() for values in taken]
    return take


def _joints_flaw(task: Any, found: dict[str, Any]) -> str:
    names = found['name']
    if len(set(names)) != len(names) or not set(task.robot.joint_names) <= set(names):
        return 'not the joints of the robot'
    if not len(names) == len(found['position']) == len(found['velocity']):
        return 'of a wrong size'
    chosen = [names.index(name) for name in task.robot.joint_names]
    return '' if _finite([found['position'][at] for at in chosen],
                         [found['velocity'][at] for at in chosen]) else 'not finite'


def _judge_joints(task: Any, data: bytes, taken: Any) -> str:
    try:
        found = read(data, JOINT_STATE)
    except NotCdr as error:
        return f'bytes that are no joint state were taken: {error}'
    flaw = _joints_flaw(task, found)
    if flaw:
        return flaw
    chosen = [found['name'].index(name) for name in task.robot.joint_names]
    wanted = [[found[which][at] for at in chosen] for which in ('position', 'velocity')]
    return '' if [values.tolist() for values in taken] == wanted else 'other numbers were read'


# ---- takeovers and joysticks ----

def _takeovers(task: Any) -> list[bytes]:
    rng = np.random.default_rng(3)
    actions = [*rng.uniform(-1.0, 1.0, (4, task.action_size)), None]
    return [serialize_message(takeover_to_message(action)) for action in actions]


def _takeover_flaw(task: Any, found: dict[str, Any]) -> str:
    if not found['active']:
        return ''
    if len(found['action']) != task.action_size or not _finite(found['action']):
        return 'not an action'
    return 'beyond its limits' if max(map(abs, found['action'])) > 1.0 else ''


def _judge_takeover(task: Any, data: bytes, taken: np.ndarray | None) -> str:
    found = {'active': taken is not None}
    if taken is None:
        return _differs(data, TAKEOVER, found)
    found['action'] = taken.tolist()
    return _takeover_flaw(task, found) or _differs(data, TAKEOVER, found)


JOYSTICK = TakeoverSettings(axes=(1, 0, 4), scale=(0.5,))


def _joysticks() -> list[bytes]:
    rng = np.random.default_rng(4)
    return [serialize_message(Joy(axes=rng.uniform(-1.0, 1.0, 6).tolist(),
                                  buttons=rng.integers(0, 2, 11).tolist())) for _ in range(4)]


def _deflected(data: bytes) -> np.ndarray:
    return deflections(JOYSTICK, unpack(data, Joy, STATUS_BYTES).axes)


def _joystick_flaw(found: dict[str, Any]) -> str:
    axes = found['axes']
    return '' if len(axes) > 4 and _finite([axes[1], axes[0], axes[4]]) else 'not its axes'


def _judge_deflections(data: bytes, taken: np.ndarray) -> str:
    try:
        found = read(data, JOY)
    except NotCdr as error:
        return f'bytes that are no joystick were taken: {error}'
    if np.isfinite(taken).all() and np.abs(taken).max() <= 0.5:
        return _joystick_flaw(found)
    return f'{taken} is more than what it asks for at most'


def _differs(data: bytes, fields: list[tuple[str, str]], taken: dict[str, Any]) -> str:
    """Say where what was taken is not what the bytes hold."""
    try:
        found = read(data, fields)
    except NotCdr as error:
        return f'bytes that are no message were taken: {error}'
    for name, value in taken.items():
        if not np.array_equal(found[name], value, equal_nan=True):
            return f'{name} was taken as {value}, but is {found[name]}'
    return ''


