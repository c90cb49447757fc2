"""Snapshots of learned parameters: safetensors bytes that carry and prove what they are.

The same bytes travel in ``ParameterSnapshot`` messages and lie on disk. Nothing is executed when
they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from async_mbrl.core.files import write_atomically

MAXIMUM_BYTES = 256 * 1024 * 1024
"""Of a snapshot of which nothing is known, such as a file somebody names."""

HEADER_BYTES = 64 * 1024
"""Most bytes of a snapshot besides its tensors: their names, and what it says of itself."""

MOST_COLOR = 2.0
"""Exponent of the spectrum of red noise."""

MOST_PARAMETER_NOISE_STD = 10.0
"""Far beyond what any distance between actions takes; weights stay finite."""

KINDS = ('model', 'policy')

_QUOTED = 200
"""Characters of foreign text that an error message repeats."""


class Version(NamedTuple):
    """Identity of a snapshot, ordered: a restarted learner is newer by its incarnation."""

    incarnation: int
    counter: int

    def __str__(self) -> str:
        return f'{self.incarnation}.{self.counter}'


NO_VERSION = Version(0, 0)


class SnapshotError(ValueError):
    """A snapshot is refused; the message says what was found and what was expected."""


@dataclass(frozen=True)
class Snapshot:
    """Parameters of a model or a policy with what identifies them."""

    kind: str
    version: Version
    architecture: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    trained_on_transitions: int = 0
    updates: int = 0
    model_version: Version = NO_VERSION
    exploration_std: float = 0.0
    exploration_correlation: float = 0.0
    exploration_color: float = 0.0
    parameter_noise_std: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture_hash(self) -> str:
        """SHA-256 of the architecture, hex."""
        return architecture_hash(self.architecture)


def architecture_hash(architecture: Mapping[str, Any]) -> str:
    """Hash an architecture by its canonical JSON: sorted keys, no spaces."""
    canonical = json.dumps(architecture, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()


def checksum(data: bytes | memoryview) -> str:
    """Give the SHA-256 of encoded snapshot bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def encode(snapshot: Snapshot) -> bytes:
    """Encode a snapshot as safetensors bytes; all but the tensors goes into the metadata.

    Raises:
        SnapshotError: its header would be too large for :func:`decode`.
    """
    about = {
        'kind': snapshot.kind,
        'version': list(snapshot.version),
        'architecture': dict(snapshot.architecture),
        'trained_on_transitions': snapshot.trained_on_transitions,
        'updates': snapshot.updates,
        'model_version': list(snapshot.model_version),
        'exploration_std': snapshot.exploration_std,
        'exploration_correlation': snapshot.exploration_correlation,
        'exploration_color': snapshot.exploration_color,
        'parameter_noise_std': snapshot.parameter_noise_std,
        'extra': dict(snapshot.extra),
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in snapshot.tensors.items()}
    about['tensors_sha256'] = _digest(tensors)
    data = safetensors.numpy.save(tensors, metadata={'async_mbrl': json.dumps(about)})
    header_bytes = int.from_bytes(data[:8], 'little')
    if header_bytes > HEADER_BYTES - 8:
        raise SnapshotError(f'snapshot {snapshot.version} has a header of {header_bytes} bytes, '
                            f'more than {HEADER_BYTES - 8}; keep its extra short')
    return data


def decode(data: bytes, *, maximum_bytes: int = MAXIMUM_BYTES,
           expected_checksum: str | None = None, expected_kind: str | None = None,
           expected_architecture: Mapping[str, Any] | None = None) -> Snapshot:
    """Decode and verify snapshot bytes; sizes are checked before anything is made of them.

    Args:
        data: what :func:`encode` gave.
        maximum_bytes: more than that are refused; for a known architecture the bytes of its
            tensors and ``HEADER_BYTES``.
        expected_checksum: SHA-256 that the bytes must have, hex; without one, the tensors must
            have the SHA-256 that the snapshot itself records.
        expected_kind: ``model`` or ``policy``.
        expected_architecture: architecture that it must have.

    Raises:
        SnapshotError: too large, damaged, foreign, of another kind or architecture, or with a
            tensor that is not finite.
    """
    if len(data) > maximum_bytes:
        raise SnapshotError(f'snapshot has {len(data)} bytes, more than {maximum_bytes}')
    if expected_checksum is not None and checksum(data) != expected_checksum:
        raise SnapshotError('snapshot is damaged: its SHA-256 is not the one announced')
    snapshot, found, digest = _parse(data)
    if expected_checksum is None and _digest(snapshot.tensors) != digest:
        raise SnapshotError('snapshot is damaged: its tensors have not the SHA-256 it records')
    if expected_kind is not None and snapshot.kind != expected_kind:
        raise SnapshotError(f'snapshot is a {snapshot.kind}, expected a {expected_kind}')
    if expected_architecture is not None:
        wanted = architecture_hash(expected_architecture)
        if found != wanted:
            raise SnapshotError(
                f'snapshot has architecture {found[:12]} '
                f'({json.dumps(snapshot.architecture)[:_QUOTED]}), expected {wanted[:12]}')
    for name, tensor in snapshot.tensors.items():
        if not np.all(np.isfinite(tensor)):
            raise SnapshotError(
                f'snapshot {snapshot.version}: tensor {name[:_QUOTED]} is not finite')
    # Nothing that is not a number is between two others.
    if not (0 <= snapshot.exploration_std <= 1 and 0 <= snapshot.exploration_correlation < 1):
        raise SnapshotError('snapshot has exploration outside [0, 1]')
    if not (0 <= snapshot.exploration_color <= MOST_COLOR
            and 0 <= snapshot.parameter_noise_std <= MOST_PARAMETER_NOISE_STD):
        raise SnapshotError(
            f'snapshot has an exploration_color outside [0, {MOST_COLOR}] or a '
            f'parameter_noise_std outside [0, {MOST_PARAMETER_NOISE_STD}]')
    if snapshot.exploration_correlation and snapshot.exploration_color:
        raise SnapshotError('snapshot has both a correlation and a color of its exploration')
    return snapshot


def read(path: Path, *, maximum_bytes: int = MAXIMUM_BYTES, expected_kind: str | None = None,
         expected_architecture: Mapping[str, Any] | None = None) -> Snapshot:
    """Read and verify a snapshot from a file; arguments as for :func:`decode`.

    Raises:
        SnapshotError: as for :func:`decode`; a file that is too large is not read.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > maximum_bytes:
        raise SnapshotError(f'{path} has {size} bytes, more than {maximum_bytes}')
    return decode(path.read_bytes(), maximum_bytes=maximum_bytes, expected_kind=expected_kind,
                  expected_architecture=expected_architecture)


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot to a file, which holds the old one or the new one at any time.

    Raises:
        OSError: the disk does not take it; the old one stands.
    """
    write_atomically(path, encode(snapshot))


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Give the SHA-256 over names, types, shapes and contents of tensors, hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {tensor.dtype.str} {tensor.shape}\n'.encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _parse(data: bytes) -> tuple[Snapshot, str, str]:
    """Take a snapshot out of bytes of which nothing is known.

    Gives the snapshot, the hash of its architecture, and the digest it records of its tensors.
    """
    header_bytes = int.from_bytes(data[:8], 'little')
    if len(data) < 8 or header_bytes > len(data) - 8:
        raise SnapshotError('snapshot is damaged: its header is longer than the data')
    if header_bytes > HEADER_BYTES - 8:
        raise SnapshotError(f'not a snapshot of this project: its header has {header_bytes} bytes, '
                            f'more than {HEADER_BYTES - 8}')
    try:
        header = json.loads(bytes(data[8:8 + header_bytes]))
        about = json.loads(header['__metadata__']['async_mbrl'])
        snapshot = Snapshot(
            kind=_kind(about['kind']),
            version=_version(about['version']),
            architecture=dict(about['architecture']),
            tensors=safetensors.numpy.load(bytes(data)),
            trained_on_transitions=_whole(about['trained_on_transitions'], 64),
            updates=_whole(about['updates'], 64),
            model_version=_version(about['model_version']),
            exploration_std=_number(about['exploration_std']),
            exploration_correlation=_number(about['exploration_correlation']),
            exploration_color=_number(about['exploration_color']),
            parameter_noise_std=_number(about['parameter_noise_std']),
            extra=dict(about['extra']),
        )
        # Here, since it too fails on what is nested too deeply.
        return snapshot, snapshot.architecture_hash, _text(about['tensors_sha256'])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:
        raise SnapshotError(
            f'not a snapshot of this project: {repr(error)[:_QUOTED]}') from None


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f'{value!r} is not one of {", ".join(KINDS)}')
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{type(value).__name__} where text is expected')
    return value


def _whole(value: Any, bits: int) -> int:
    """Take a whole number as a message can carry it: nothing that would have to be rounded."""
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise ValueError(f'{value!r} is not a whole number of {bits} bits')
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f'{value!r} is not a number')
    return float(value)


def _version(value: Any) -> Version:
    incarnation, counter = value
    return Version(_whole(incarnation, 32), _whole(counter, 64))
