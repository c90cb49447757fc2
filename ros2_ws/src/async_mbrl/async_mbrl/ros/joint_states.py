"""Joint states by name, in whatever order a driver sends them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import JointState

from async_mbrl.ros.bounds import MessageError, unpack

_CDR_LITTLE_ENDIAN = b'\x00\x01'
_MOST_BYTES = 64 * 1024
_STAMP = struct.Struct('<iI')
_FRAME_ID = 12      # encapsulation (4 bytes) and stamp (8) come before


class JointStateError(ValueError):
    """A joint state does not describe the robot; the message says what it names instead."""


class JointStateReader:
    """Take the robot's joints out of serialised joint states; other joints may be there too.

    Making a message object of each of 500 a second costs most of the time of a controller's
    process. Between two joint states of one driver only the stamp and the numbers differ, so the
    first is decoded in full, and later ones whose other bytes are the same are read in place.
    """

    def __init__(self, joint_names: Sequence[str]) -> None:
        """Read these joints, in this order."""
        self._wanted = list(joint_names)
        self._names: list[str] = []
        self._order: np.ndarray | None = None
        self._constant = self._between = self._after = b''
        self._position_at = self._velocity_at = self._size = 0
        self.stamp_ns = 0
        """Stamp of the joint state taken last, ns; 0 if its driver gave none."""

    def take(self, data: bytes) -> tuple[np.ndarray, np.ndarray] | None:
        """Give positions (n,), rad, and velocities (n,), rad/s; None if one is not finite.

        Args:
            data: serialised ``sensor_msgs/JointState``.

        Raises:
            JointStateError: a joint of the robot is missing, or has no position or velocity; or
                the bytes are no joint state.
        """
        count = len(self._names)
        end = self._velocity_at + 8 * count
        # The counts of all three arrays are among the bytes compared.
        if (len(data) == self._size and data[:2] == _CDR_LITTLE_ENDIAN
                and data[_FRAME_ID:self._position_at] == self._constant
                and data[self._position_at + 8 * count:self._velocity_at] == self._between
                and data[end:end + 4] == self._after):
            seconds, nanoseconds = _STAMP.unpack_from(data, 4)
            self.stamp_ns = seconds * 1_000_000_000 + nanoseconds
            position = np.frombuffer(data, '<f8', count, self._position_at)
            velocity = np.frombuffer(data, '<f8', count, self._velocity_at)
        else:
            position, velocity = self._decode(data)
        if self._order is not None:
            position, velocity = position[self._order], velocity[self._order]
        if not (all(map(math.isfinite, position.tolist()))
                and all(map(math.isfinite, velocity.tolist()))):
            return None
        return position, velocity

    def _decode(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        try:
            message = unpack(data, JointState, _MOST_BYTES)
        except MessageError as error:
            raise JointStateError(f'joint states are refused: {error}') from None
        names = list(message.name)
        missing = [name for name in self._wanted if name not in names]
        if missing:
            raise JointStateError(
                f'joint names do not match: the robot has {self._wanted}, the joint states have '
                f'{names}; missing: {missing}')
        if len(set(names)) != len(names):
            raise JointStateError(f'joint states name a joint twice: {names}')
        if not len(message.position) == len(message.velocity) == len(names):
            raise JointStateError(
                f'joint states name {len(names)} joints but carry {len(message.position)} '
                f'positions and {len(message.velocity)} velocities; one of each is needed')
        self._names = names
        stamp = message.header.stamp
        self.stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        self._order = None if names == self._wanted else np.array(
            [names.index(name) for name in self._wanted], np.intp)
        position, velocity = np.array(message.position), np.array(message.velocity)
        self._learn_layout(data, message, position, velocity)
        return position, velocity

    def _learn_layout(self, data: bytes, message: JointState, position: np.ndarray,
                      velocity: np.ndarray) -> None:
        """Find the numbers in the bytes; where they are not as expected, decode every message."""
        self._size = 0
        if data[:2] != _CDR_LITTLE_ENDIAN:
            return
        at = _FRAME_ID + 4 + len(message.header.frame_id.encode()) + 1
        at = _aligned(at, 4) + 4
        for name in message.name:
            at = _aligned(at, 4) + 4 + len(name.encode()) + 1
        position_at = _aligned(_aligned(at, 4) + 4, 8)
        velocity_at = _aligned(position_at + position.nbytes + 4, 8)
        if (data[position_at:position_at + position.nbytes] == position.tobytes()
                and data[velocity_at:velocity_at + velocity.nbytes] == velocity.tobytes()):
            self._constant = data[_FRAME_ID:position_at]
            self._between = data[position_at + position.nbytes:velocity_at]
            self._after = data[velocity_at + velocity.nbytes:velocity_at + velocity.nbytes + 4]
            self._position_at, self._velocity_at, self._size = position_at, velocity_at, len(data)


def _aligned(at: int, size: int) -> int:
    """Give the next place that is a multiple of ``size`` after the encapsulation."""
    return -(-(at - 4) // size) * size + 4
