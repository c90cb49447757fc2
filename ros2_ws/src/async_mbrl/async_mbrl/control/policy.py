"""Policy inference in numpy: the same numbers as the network that torch trains."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.control.parameter_noise import ParameterNoise
from async_mbrl.core.network import (
    LOG_STD_RANGE,
    PolicyNetworkConfig,
    layer_sizes,
    log_std_between,
)
from async_mbrl.core.snapshot import Snapshot, SnapshotError, Version

_HEADER = struct.Struct('<IxxxxQddddq')


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
    exploration_color: float = 0.0
    parameter_noise_std: float = 0.0
    publish_time_ns: int = 0
    log_std: np.ndarray | None = None
    """(n,), of a policy with a state-independent distribution."""

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
        log_std = None
        if snapshot.architecture.get('distribution') == 'state_independent':
            log_std = _tensor(snapshot, 'log_std', biases[-1].shape)
        expected = 2 * len(weights) + (2 if log_std is None else 3)
        if len(snapshot.tensors) != expected:
            raise SnapshotError(f'snapshot {snapshot.version} has {len(snapshot.tensors)} tensors, '
                                f'expected {expected}')
        if not np.all(std > 0):
            raise SnapshotError(f'snapshot {snapshot.version}: state_std is not positive')
        return cls(snapshot.version, tuple(weights), tuple(biases), mean, std,
                   snapshot.exploration_std, snapshot.exploration_correlation,
                   snapshot.exploration_color, snapshot.parameter_noise_std, publish_time_ns,
                   log_std)


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
        sizes = layer_sizes(network, task)
        self._shapes: list[tuple[int, ...]] = [
            shape for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
            for shape in ((outputs, inputs), (outputs,))]
        self._layer_tensors = len(self._shapes)
        self._shapes += [(task.state_size,), (task.state_size,)]
        if network.distribution == 'state_independent':
            self._shapes.append((task.action_size,))
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
        if parameters.log_std is not None:
            tensors.append(parameters.log_std)
        shapes = [tensor.shape for tensor in tensors]
        if shapes != self._shapes:
            raise SnapshotError(f'policy {parameters.version} has tensors of shapes {shapes}, '
                                f'expected {self._shapes}')
        header = _HEADER.pack(parameters.version.incarnation, parameters.version.counter,
                              parameters.exploration_std, parameters.exploration_correlation,
                              parameters.exploration_color, parameters.parameter_noise_std,
                              parameters.publish_time_ns)
        return header + b''.join(tensor.astype('<f4').tobytes() for tensor in tensors)

    def unpack(self, block: bytes) -> PolicyParameters:
        """Give the parameters of bytes, as views without a copy."""
        (incarnation, counter, std, correlation, color, parameter_noise_std,
         publish_time_ns) = _HEADER.unpack_from(block)
        flat = np.frombuffer(block, '<f4', offset=_HEADER.size)
        tensors, begin = [], 0
        for shape in self._shapes:
            end = begin + int(np.prod(shape))
            tensors.append(flat[begin:end].reshape(shape))
            begin = end
        layers, (mean, scale, *log_std) = (tensors[:self._layer_tensors],
                                           tensors[self._layer_tensors:])
        return PolicyParameters(Version(incarnation, counter), tuple(layers[::2]),
                                tuple(layers[1::2]), mean, scale, std, correlation, color,
                                parameter_noise_std, publish_time_ns, *log_std)


def _silu(x: np.ndarray) -> None:
    # x / (1 + exp(-x)), written so that it cannot overflow.
    np.multiply(x, 0.5, out=x)
    half = np.tanh(x)
    np.multiply(half, x, out=half)
    np.add(x, half, out=x)


def _tanh(x: np.ndarray) -> None:
    np.tanh(x, out=x)


def _clip(x: np.ndarray) -> None:
    np.minimum(x, 1.0, out=x)
    np.maximum(x, -1.0, out=x)


def _relu(x: np.ndarray) -> None:
    np.maximum(x, 0.0, out=x)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], None]] = {
    'tanh': _tanh, 'silu': _silu, 'relu': _relu}
"""They work in place."""

SQUASHES: dict[str, Callable[[np.ndarray], None]] = {
    'tanh': _tanh, 'clip': _clip, 'tanh_mean': _clip}
"""What brings an action into [-1, 1], in place."""


class NumpyPolicy:
    """The mean of the policy, and its distribution if it has one, from an observation."""

    def __init__(self, task: Any, network: PolicyNetworkConfig) -> None:
        """Prepare for a task (its features) and a network (its activation and squash)."""
        self._task = task
        self._activation = _ACTIVATIONS[network.activation]
        self._squash = SQUASHES[network.squash]
        self._bounded_mean = network.squash == 'tanh_mean'
        self._units = [np.zeros(units, np.float32) for units in network.hidden]
        self._mean = (slice(task.action_size) if network.distribution == 'state_dependent'
                      else slice(None))
        self._std = np.zeros(0, np.float32)
        self._weights: tuple[np.ndarray, ...] = ()
        self._biases: tuple[np.ndarray, ...] = ()
        sizes = layer_sizes(network, task)
        self._perturbed_weights = tuple(
            np.zeros((outputs, inputs), np.float32)
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True))
        self._perturbed_biases = tuple(np.zeros(units, np.float32) for units in sizes[1:])
        self.parameters: PolicyParameters | None = None
        """Parameters in use; None until :meth:`use`."""

    def use(self, parameters: PolicyParameters) -> None:
        """Use these parameters, as they are, from now on."""
        self.parameters = parameters
        self._weights, self._biases = parameters.weights, parameters.biases
        if parameters.log_std is not None:
            self._std = np.exp(np.clip(parameters.log_std, *LOG_STD_RANGE))

    def perturb(self, noise: ParameterNoise) -> None:
        """Use the parameters with noise of their scale on weights and biases from now on.

        Raises:
            RuntimeError: no parameters are in use.
        """
        parameters = self.parameters
        if parameters is None:
            raise RuntimeError('the policy has no parameters')
        std = parameters.parameter_noise_std
        if std == 0.0:
            return
        for unit, plain, perturbed in zip(
                noise.weights + noise.biases, parameters.weights + parameters.biases,
                self._perturbed_weights + self._perturbed_biases, strict=True):
            np.multiply(unit, std, out=perturbed)
            np.add(perturbed, plain, out=perturbed)
        self._weights, self._biases = self._perturbed_weights, self._perturbed_biases

    def mean(self, observation: np.ndarray) -> np.ndarray:
        """Give the mean action (n,), in [-1, 1], float32, of an observation, float32.

        Raises:
            RuntimeError: no parameters are in use.
        """
        mean = self._output(observation)[self._mean]
        self._squash(mean)
        return mean

    def distribution(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give mean and standard deviation (n,), float32, of what is drawn for an observation.

        Both are those before it is brought into [-1, 1]. Only for a policy that has a standard
        deviation of its own.

        Raises:
            RuntimeError: no parameters are in use.
        """
        output = self._output(observation)
        mean = output[self._mean]
        if self._std.size:
            return mean, self._std
        return mean, np.exp(log_std_between(np, output[mean.size:]))

    def _output(self, observation: np.ndarray) -> np.ndarray:
        parameters = self.parameters
        if parameters is None:
            raise RuntimeError('the policy has no parameters')
        x = self._task.features(np, observation, parameters.state_mean, parameters.state_std)
        weights, biases = self._weights, self._biases
        for weight, bias, units in zip(weights, biases, self._units, strict=False):
            weight.dot(x, units)
            np.add(units, bias, out=units)
            self._activation(units)
            x = units
        x = weights[-1].dot(x)
        np.add(x, biases[-1], out=x)
        if self._bounded_mean:
            _tanh(x[self._mean])
        return x
