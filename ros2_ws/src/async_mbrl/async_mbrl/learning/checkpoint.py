"""Checkpoints: one safetensors file and a small JSON file that names and proves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from async_mbrl.core.files import write_atomically

INDEX = 'checkpoint.json'


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
    metadata = {'identity': json.dumps(dict(identity), sort_keys=True), 'about': json.dumps(about)}
    data = safetensors.torch.save({name: tensor.detach().contiguous()
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


def read(folder: Path, identity: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor],
                                                             dict[str, Any]] | None:
    """Read and verify the checkpoint of a folder; None if there is none.

    Raises:
        CheckpointError: damaged, incomplete, or of another identity.
    """
    index_path = folder / INDEX
    if not index_path.exists():
        return None
    remedy = f'move {folder} away to begin anew, or restore it from a backup'
    try:
        index = json.loads(index_path.read_text())
        path, digest = folder / index['file'], index['sha256']
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f'{index_path} is damaged ({error!r}); {remedy}') from None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read ({error}); {remedy}') from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f'{path} is damaged: its SHA-256 is not the one in {INDEX}; {remedy}')
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')])['__metadata__']
        found, about = json.loads(header['identity']), json.loads(header['about'])
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise CheckpointError(f'{path} is not a checkpoint ({error!r}); {remedy}') from None
    wanted = json.loads(json.dumps(dict(identity)))
    if found != wanted:
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        details = '; '.join(f'{key} is {found.get(key)!r}, expected {wanted.get(key)!r}'
                            for key in differing)
        raise CheckpointError(f'{path} belongs to something else: {details}; use another run '
                              'folder or the settings it was made with')
    return tensors, about


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put a prefix and a slash before each name."""
    return {f'{prefix}/{name}': tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the tensors that :func:`prefixed` put under a prefix."""
    start = f'{prefix}/'
    return {name[len(start):]: tensor for name, tensor in tensors.items()
            if name.startswith(start)}
