"""What the tests of foreign bags share: an arm that moves, and what its driver would record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arm7
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
STATE, ARRAY, TRAJECTORY = (
    'sensor_msgs/msg/JointState', 'std_msgs/msg/Float64MultiArray',
    'trajectory_msgs/msg/JointTrajectory')
NAMES = list(arm7.robot().joint_names)
HOME = np.array(arm7.robot().home)
SCALE = np.array(arm7.robot().action_scale)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000


def header() -> Any:
    return STORE.types['std_msgs/msg/Header'](
        stamp=STORE.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0), frame_id='base')


def state(position: np.ndarray, velocity: np.ndarray, names: Sequence[str]) -> Any:
    return STORE.types[STATE](header=header(), name=list(names), position=position,
                              velocity=velocity, effort=np.zeros(0))


def array(values: np.ndarray) -> Any:
    layout = STORE.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    return STORE.types[ARRAY](layout=layout, data=np.asarray(values, np.float64))


def trajectory(values: np.ndarray, names: Sequence[str], points: int = 1) -> Any:
    point = STORE.types['trajectory_msgs/msg/JointTrajectoryPoint'](
        positions=np.asarray(values, np.float64), velocities=np.zeros(0),
        accelerations=np.zeros(0), effort=np.zeros(0),
        time_from_start=STORE.types['builtin_interfaces/msg/Duration'](sec=0, nanosec=0))
    return STORE.types[TRAJECTORY](header=header(), joint_names=list(names),
                                   points=[point] * points)


Item = tuple[int, str, Any]


def write(folder: Path, items: Sequence[Item],
          plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag of (stamp, topic, message), in the order of time."""
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        topics: dict[str, Any] = {}
        for stamp, topic, message in sorted(items, key=lambda item: item[0]):
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(topics[topic], stamp, STORE.serialize_cdr(message, kind))
    return folder


def motion(time_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Where the arm is and how fast, at times (...)."""
    phase = 2.0 * np.asarray(time_s)[..., None] + np.arange(7)
    return HOME + 0.2 * np.sin(phase), 0.4 * np.cos(phase)


def states(times_ns: np.ndarray, order: Sequence[int] = range(7)) -> list[Item]:
    """Joint states of the motion, the joints in some order, with a gripper behind them."""
    found: list[Item] = []
    for stamp in times_ns.tolist():
        position, velocity = motion(1e-9 * (stamp - START_NS))
        found.append((stamp, '/joint_states', state(
            np.append(position[list(order)], 0.04), np.append(velocity[list(order)], 0.0),
            [*(NAMES[place] for place in order), 'gripper'])))
    return found


def clock(seconds: float, period_s: float, first_s: float = 0.0) -> np.ndarray:
    return START_NS + np.arange(round(first_s * 1e9), round(seconds * 1e9),
                                round(period_s * 1e9))


def efforts(times_ns: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (len(times_ns), 7)) * SCALE


def commands(times_ns: np.ndarray, values: np.ndarray, topic: str = '/commands') -> list[Item]:
    return [(stamp, topic, array(value))
            for stamp, value in zip(times_ns.tolist(), values, strict=True)]


def behind(folder: Path, first: Sequence[Item], second: Sequence[Item]) -> Path:
    """A bag of two files, whatever their times."""
    write(folder, first)
    other = write(folder.with_name('second'), second)
    (other / 'second.mcap').rename(folder / f'{folder.name}_1.mcap')
    (folder / 'metadata.yaml').unlink()
    return folder
