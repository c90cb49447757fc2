"""Checkpoints: one safetensors file and a small JSON file that names and proves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from async_mbrl.core.files import write_atomically
from async_mbrl.learning.recorded import INDEX

MAXIMUM_INDEX_BYTES = 1024 * 1024
MAXIMUM_BYTES = 8 * 1024**3
"""Of a checkpoint; its index says how many it has."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


def write(folder: Path, identity: Mapping[str, Any], tensors: Mapping[str, torch.Tensor],
          about: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before stands until this one is complete.

    Args:
        folder: where; made if it does not exist.
        identity: what the checkpoint belongs to; :func:`read` demands the same.
        tensors: by name.
        about: everything else, ready for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # One entry: the order of several is not fixed, and equal states shall give equal files.
    metadata = {'checkpoint': json.dumps({'identity': dict(identity), 'about': dict(about)},
                                         sort_keys=True)}
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous()
                                   for name, tensor in tensors.items()}, metadata=metadata)
    digest = hashlib.sha256(data).hexdigest()
    name = f'checkpoint-{digest[:16]}.safetensors'
    write_atomically(folder / name, data)
    index = {'file': name, 'sha256': digest, 'bytes': len(data), 'identity': dict(identity),
             'about': {key: value for key, value in about.items()
                       if isinstance(value, (int, float, str))}}
    write_atomically(folder / INDEX, json.dumps(index, indent=2, sort_keys=True))
    for path in folder.glob('checkpoint-*.safetensors'):
        if path.name != name:
            path.unlink()


class Checkpoint(NamedTuple):
    """What :func:`write` wrote."""

    identity: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    about: dict[str, Any]


def read(folder: Path, identity: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor],
                                                             dict[str, Any]] | None:
    """Read and verify the checkpoint of a folder; None if there is none.

    Raises:
        CheckpointError: damaged, incomplete, or of another identity.
    """
    if not (folder / INDEX).exists():
        return None
    found = read_any(folder)
    wanted = json.loads(json.dumps(dict(identity)))
    if found.identity != wanted:
        raise CheckpointError(f'{folder} belongs to something else: '
                              f'{differences(found.identity, wanted)}; use another run folder or '
                              'the settings it was made with')
    return found.tensors, found.about


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in what two identities differ."""
    return '; '.join(f'{key} is {found.get(key)!r}, expected {wanted.get(key)!r}'
                     for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key))


def read_any(folder: Path) -> Checkpoint:
    """Read and verify the checkpoint of a folder, whatever it belongs to.

    Raises:
        CheckpointError: there is none, or it is damaged or incomplete.
    """
    index_path = folder / INDEX
    if not index_path.exists():
        raise CheckpointError(f'{folder}: no checkpoint (it has no {INDEX}); name a folder that '
                              'has one')
    remedy = f'move {folder} away to begin anew, or restore it from a backup'
    try:
        if index_path.stat().st_size > MAXIMUM_INDEX_BYTES:
            raise ValueError(f'more than {MAXIMUM_INDEX_BYTES} bytes')
        index = json.loads(index_path.read_text())
        path, digest, size = folder / index['file'], index['sha256'], index['bytes']
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f'{index_path} is damaged ({error!r}); {remedy}') from None
    try:
        found_size = path.stat().st_size
        if found_size != size or found_size > MAXIMUM_BYTES:
            raise CheckpointError(f'{path} is damaged: it has {found_size} bytes, not the {size} '
                                  f'in {INDEX} (at most {MAXIMUM_BYTES}); {remedy}')
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read ({error}); {remedy}') from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f'{path} is damaged: its SHA-256 is not the one in {INDEX}; {remedy}')
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')])['__metadata__']
        content = json.loads(header['checkpoint'])
        found, about = dict(content['identity']), dict(content['about'])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f'{path} is not a checkpoint ({error!r}); {remedy}') from None
    return Checkpoint(found, tensors, about)


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put a prefix and a slash before each name."""
    return {f'{prefix}/{name}': tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the tensors that :func:`prefixed` put under a prefix."""
    start = f'{prefix}/'
    return {name[len(start):]: tensor for name, tensor in tensors.items()
            if name.startswith(start)}
