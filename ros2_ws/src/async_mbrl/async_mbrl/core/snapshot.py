"""Snapshots of learned parameters: safetensors bytes that carry and prove what they are.

The same bytes travel in ``ParameterSnapshot`` messages and lie on disk. Nothing is executed when
they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

MAXIMUM_BYTES = 256 * 1024 * 1024


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
    """Encode a snapshot as safetensors bytes; all but the tensors goes into the metadata."""
    about = {
        'kind': snapshot.kind,
        'version': list(snapshot.version),
        'architecture': dict(snapshot.architecture),
        'trained_on_transitions': snapshot.trained_on_transitions,
        'updates': snapshot.updates,
        'model_version': list(snapshot.model_version),
        'exploration_std': snapshot.exploration_std,
        'exploration_correlation': snapshot.exploration_correlation,
        'extra': dict(snapshot.extra),
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in snapshot.tensors.items()}
    about['tensors_sha256'] = _digest(tensors)
    return safetensors.numpy.save(tensors, metadata={'async_mbrl': json.dumps(about)})


def decode(data: bytes, *, expected_checksum: str | None = None, expected_kind: str | None = None,
           expected_architecture: Mapping[str, Any] | None = None) -> Snapshot:
    """Decode and verify snapshot bytes.

    Args:
        data: what :func:`encode` gave.
        expected_checksum: SHA-256 that the bytes must have, hex; without one, the tensors must
            have the SHA-256 that the snapshot itself records.
        expected_kind: ``model`` or ``policy``.
        expected_architecture: architecture that it must have.

    Raises:
        SnapshotError: too large, damaged, foreign, of another kind or architecture, or with a
            tensor that is not finite.
    """
    if len(data) > MAXIMUM_BYTES:
        raise SnapshotError(f'snapshot has {len(data)} bytes, more than {MAXIMUM_BYTES}')
    if expected_checksum is not None and checksum(data) != expected_checksum:
        raise SnapshotError('snapshot is damaged: its SHA-256 is not the one announced')
    snapshot, digest = _parse(data)
    if expected_checksum is None and _digest(snapshot.tensors) != digest:
        raise SnapshotError('snapshot is damaged: its tensors have not the SHA-256 it records')
    if expected_kind is not None and snapshot.kind != expected_kind:
        raise SnapshotError(f'snapshot is a {snapshot.kind}, expected a {expected_kind}')
    if expected_architecture is not None:
        wanted = architecture_hash(expected_architecture)
        if snapshot.architecture_hash != wanted:
            raise SnapshotError(
                f'snapshot has architecture {snapshot.architecture_hash[:12]} '
                f'({json.dumps(snapshot.architecture)}), expected {wanted[:12]}')
    for name, tensor in snapshot.tensors.items():
        if not np.all(np.isfinite(tensor)):
            raise SnapshotError(f'snapshot {snapshot.version}: tensor {name} is not finite')
    if not (np.isfinite(snapshot.exploration_std) and 0 <= snapshot.exploration_std <= 1
            and 0 <= snapshot.exploration_correlation < 1):
        raise SnapshotError('snapshot has exploration outside [0, 1]')
    return snapshot


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Give the SHA-256 over names, types, shapes and contents of tensors, hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {tensor.dtype.str} {tensor.shape}\n'.encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _parse(data: bytes) -> tuple[Snapshot, str]:
    """Take a snapshot and its recorded digest out of bytes of which nothing is known."""
    header_bytes = int.from_bytes(data[:8], 'little')
    if len(data) < 8 or header_bytes > len(data) - 8:
        raise SnapshotError('snapshot is damaged: its header is longer than the data')
    try:
        header = json.loads(bytes(data[8:8 + header_bytes]))
        about = json.loads(header['__metadata__']['async_mbrl'])
        version, model_version = (
            Version(*(int(part) for part in about[name])) for name in ('version', 'model_version'))
        if min(*version, *model_version) < 0:
            raise ValueError(f'version {version} of model {model_version}')
        return Snapshot(
            kind=str(about['kind']),
            version=version,
            architecture=dict(about['architecture']),
            tensors=safetensors.numpy.load(bytes(data)),
            trained_on_transitions=int(about['trained_on_transitions']),
            updates=int(about['updates']),
            model_version=model_version,
            exploration_std=float(about['exploration_std']),
            exploration_correlation=float(about['exploration_correlation']),
            extra=dict(about['extra']),
        ), str(about['tensors_sha256'])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:
        raise SnapshotError(f'not a snapshot of this project: {error!r}') from None
