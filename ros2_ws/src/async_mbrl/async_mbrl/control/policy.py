"""Policy inference in numpy: the same numbers as the network that torch trains."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version

_HEADER = struct.Struct('<IxxxxQddq')


@dataclass(frozen=True)
class PolicyParameters:
    """Verified parameters of a policy, ready for the control loop; all arrays float32."""

    version: Version
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    state_mean: np.ndarray
    state_std: np.ndarray
    exploration_std: float
    exploration_correlation: float
    publish_time_ns: int = 0

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, publish_time_ns: int = 0) -> PolicyParameters:
        """Take the parameters out of a snapshot.

        Args:
            snapshot: a decoded policy snapshot.
            publish_time_ns: system clock when it was published, ns since 1970.

        Raises:
            SnapshotError: a tensor is missing, unknown, of another shape than the architecture
                says, or not float32; or a standard deviation is not positive.
        """
        sizes = snapshot.architecture.get('sizes', [])
        weights, biases = [], []
        for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            weights.append(_tensor(snapshot, f'layer{i}.weight', (outputs, inputs)))
            biases.append(_tensor(snapshot, f'layer{i}.bias', (outputs,)))
        if not weights:
            raise SnapshotError('snapshot is no policy: its architecture has no layers')
        mean = _tensor(snapshot, 'state_mean', None)
        std = _tensor(snapshot, 'state_std', mean.shape)
        if len(snapshot.tensors) != 2 * len(weights) + 2:
            raise SnapshotError(f'snapshot {snapshot.version} has {len(snapshot.tensors)} tensors, '
                                f'expected {2 * len(weights) + 2}')
        if not np.all(std > 0):
            raise SnapshotError(f'snapshot {snapshot.version}: state_std is not positive')
        return cls(snapshot.version, tuple(weights), tuple(biases), mean, std,
                   snapshot.exploration_std, snapshot.exploration_correlation, publish_time_ns)


def _tensor(snapshot: Snapshot, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    if name not in snapshot.tensors:
        raise SnapshotError(f'snapshot {snapshot.version}: tensor {name} is missing')
    tensor = snapshot.tensors[name]
    if tensor.dtype != np.float32 or tensor.ndim not in (1, 2):
        raise SnapshotError(f'snapshot {snapshot.version}: tensor {name} is not float32')
    if shape is not None and tensor.shape != shape:
        raise SnapshotError(f'snapshot {snapshot.version}: tensor {name} has shape '
                            f'{tensor.shape}, expected {shape}')
    return np.ascontiguousarray(tensor)


class PolicyLayout:
    """Fixed place of every tensor of one architecture in a block of bytes."""

    def __init__(self, task: Any, network: PolicyNetworkConfig) -> None:
        """Lay out the parameters of a network for a task."""
        sizes = [task.feature_size, *network.hidden, task.action_size]
        self._shapes: list[tuple[int, ...]] = [
            shape for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
            for shape in ((outputs, inputs), (outputs,))]
        self._shapes += [(task.state_size,), (task.state_size,)]
        self.size = _HEADER.size + 4 * sum(int(np.prod(shape)) for shape in self._shapes)
        """Bytes of a block."""

    def pack(self, parameters: PolicyParameters) -> bytes:
        """Give the bytes of parameters.

        Raises:
            SnapshotError: they have other shapes.
        """
        tensors = [tensor for pair in zip(parameters.weights, parameters.biases, strict=True)
                   for tensor in pair]
        tensors += [parameters.state_mean, parameters.state_std]
        shapes = [tensor.shape for tensor in tensors]
        if shapes != self._shapes:
            raise SnapshotError(f'policy {parameters.version} has tensors of shapes {shapes}, '
                                f'expected {self._shapes}')
        header = _HEADER.pack(parameters.version.incarnation, parameters.version.counter,
                              parameters.exploration_std, parameters.exploration_correlation,
                              parameters.publish_time_ns)
        return header + b''.join(tensor.astype('<f4').tobytes() for tensor in tensors)

    def unpack(self, block: bytes) -> PolicyParameters:
        """Give the parameters of bytes, as views without a copy."""
        incarnation, counter, std, correlation, publish_time_ns = _HEADER.unpack_from(block)
        flat = np.frombuffer(block, '<f4', offset=_HEADER.size)
        tensors, begin = [], 0
        for shape in self._shapes:
            end = begin + int(np.prod(shape))
            tensors.append(flat[begin:end].reshape(shape))
            begin = end
        return PolicyParameters(Version(incarnation, counter), tuple(tensors[:-2:2]),
                                tuple(tensors[1:-2:2]), tensors[-2], tensors[-1], std, correlation,
                                publish_time_ns)


def _silu(x: np.ndarray) -> np.ndarray:
    # x / (1 + exp(-x)), written so that it cannot overflow.
    return 0.5 * x * (1.0 + np.tanh(0.5 * x))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'tanh': np.tanh, 'silu': _silu, 'relu': _relu}


class NumpyPolicy:
    """The mean of the policy, from an observation."""

    def __init__(self, task: Any, network: PolicyNetworkConfig) -> None:
        """Prepare for a task (its features) and a network (its activation and squash)."""
        self._task = task
        self._activation = _ACTIVATIONS[network.activation]
        self._squash = network.squash
        self.parameters: PolicyParameters | None = None
        """Parameters in use; None until :meth:`use`."""

    def use(self, parameters: PolicyParameters) -> None:
        """Use these parameters from now on."""
        self.parameters = parameters

    def mean(self, observation: np.ndarray) -> np.ndarray:
        """Give the mean action (n,), in [-1, 1], float32, of an observation, float32.

        Raises:
            RuntimeError: no parameters are in use.
        """
        parameters = self.parameters
        if parameters is None:
            raise RuntimeError('the policy has no parameters')
        x = self._task.features(np, observation, parameters.state_mean, parameters.state_std)
        *hidden, (weight, bias) = zip(parameters.weights, parameters.biases, strict=True)
        for inner_weight, inner_bias in hidden:
            x = self._activation(inner_weight @ x + inner_bias)
        x = weight @ x + bias
        if self._squash == 'tanh':
            return np.tanh(x)
        return np.minimum(np.maximum(x, -1.0), 1.0)
