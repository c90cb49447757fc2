"""The matrix products of an ensemble: torch's batched one, or oneDNN's, member by member.

torch gives products of 32-bit floats to MKL, which on AMD processors stays with 256-bit
instructions. oneDNN, in the same wheel, uses all that the processor has; but torch offers it for
such products only under a private name, without a derivative. Here are both, guarded. What goes
member by member is for the caches of a CPU; on another device all members are in one product.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.learning.device import CPU

_CLEARLY_FASTER = 0.9
_ROUNDS = 5
_BUDGET_S = 0.3
_MOST_MEMBERS, _MOST_ROWS = 5, 256
_CACHED = 2**18
"""Numbers of a layer, all members, up to which they stay in a core's cache: 1 MiB."""


class _Activation(NamedTuple):
    """What the other side of an activation needs; it has one name in torch, another in oneDNN."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    in_place: Callable[[torch.Tensor], torch.Tensor]
    onednn: str
    backward: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    """From the gradient of the output, the input and the output to the gradient of the input."""
    needs_input: bool = False
    """Whether for that the output alone is not enough."""


_ACTIVATIONS = {
    'tanh': _Activation(torch.tanh, torch.tanh_, 'tanh',
                        lambda d, before, after: torch.ops.aten.tanh_backward(d, after)),
    'silu': _Activation(torch.nn.functional.silu,
                        functools.partial(torch.nn.functional.silu, inplace=True), 'swish',
                        lambda d, before, after: torch.ops.aten.silu_backward(d, before), True),
    'relu': _Activation(torch.relu, torch.relu_, 'relu',
                        lambda d, before, after: torch.ops.aten.threshold_backward(d, after, 0))}


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
            activation: str = 'none') -> torch.Tensor:
    """Give activation(x weight + bias) by oneDNN: (rows, inputs) and (inputs, outputs)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, activation, [], '')


@functools.cache
def onednn_works() -> bool:
    """Whether this torch has oneDNN's product under the name known here, and it is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((5, 7), (7, 3), (3,)))
    expected = torch.addmm(bias, x, weight)
    try:
        found = [(_linear(x, weight, bias), expected),
                 (_linear(x.t(), expected), x.t() @ expected),
                 *((_linear(x, weight, bias, each.onednn), each.forward(expected))
                   for each in _ACTIVATIONS.values())]
    except (AttributeError, RuntimeError, TypeError):   # no such operator, or another signature
        return False
    return all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in found)


def _multiply(x: torch.Tensor, weight: torch.Tensor,
              bias: torch.Tensor | None = None) -> torch.Tensor:
    """Give x weight + bias by torch's own product: (rows, inputs) and (inputs, outputs)."""
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


class _MemberPerceptrons(torch.autograd.Function):
    """The perceptrons of all members, each by itself, with their first derivative."""

    @staticmethod
    def forward(ctx: Any, multiply: Callable[..., torch.Tensor], activation: str,
                hidden: torch.dtype, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        """Map (members, rows, inputs); parameters are the weights, then the biases."""
        act = _ACTIVATIONS[activation]
        layers = len(parameters) // 2
        weights, biases = (
            [*(each.to(hidden) for each in part[:-1]), part[-1]]
            for part in (parameters[:layers], parameters[layers:]))
        ctx.kept, outputs = [], []
        for member, rows in enumerate(x):
            after = rows.to(hidden)
            kept = [(after, after)]
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                before = multiply(after, weight[member], bias[member, 0])
                after = act.forward(before) if act.needs_input else act.in_place(before)
                kept.append((before, after))
            outputs.append(multiply(after.to(x.dtype), weights[-1][member], biases[-1][member, 0]))
            ctx.kept.append(kept)
        ctx.multiply, ctx.activation = multiply, act
        ctx.save_for_backward(*weights)
        return torch.stack(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the gradients of what :meth:`forward` took."""
        weights, multiply = ctx.saved_tensors, ctx.multiply
        layers = len(weights)
        of_input, of_weights, of_biases = (
            ctx.needs_input_grad[3], ctx.needs_input_grad[4:4 + layers],
            ctx.needs_input_grad[4 + layers:])
        # Each member's part is put in its place while it is still in the cache.
        found = [*(torch.empty_like(weight, dtype=gradient.dtype) if needed else None
                   for weight, needed in zip(weights, of_weights, strict=True)),
                 *(gradient.new_empty(len(weight), 1, weight.shape[2]) if needed else None
                   for weight, needed in zip(weights, of_biases, strict=True))]
        inputs: list[torch.Tensor] = []
        for member, (kept, d) in enumerate(zip(ctx.kept, gradient.contiguous(), strict=True)):
            for layer in reversed(range(layers)):
                before, after = kept[layer]
                of_weight, of_bias = found[layer], found[layers + layer]
                if of_weight is not None:
                    of_weight[member] = multiply(after.to(d.dtype).t(), d)
                if of_bias is not None:
                    torch.sum(d, 0, keepdim=True, dtype=gradient.dtype, out=of_bias[member])
                if layer == 0 and not of_input:
                    break
                d = multiply(d, weights[layer][member].t()).to(after.dtype)
                if layer > 0:
                    d = ctx.activation.backward(d, before, after)
            inputs.append(d.to(gradient.dtype))
        return None, None, None, torch.stack(inputs) if of_input else None, *found


def member_perceptrons(activation: str, x: torch.Tensor, weights: Sequence[torch.Tensor],
                       biases: Sequence[torch.Tensor],
                       numbers: torch.dtype = torch.float32) -> torch.Tensor:
    """Give what :func:`batched_perceptrons` gives, member by member; differentiable once.

    A member at a time is best where large batches are learned from: what has been written is read
    again, forward and backward, while it is still in the cache.
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in (x, *weights, *biases)):
        hidden = x.dtype if numbers == torch.float32 else numbers
        return _MemberPerceptrons.apply(_multiply, activation, hidden, x, *weights, *biases)
    return batched_perceptrons(activation, x, weights, biases, numbers)


def onednn_perceptrons(activation: str, x: torch.Tensor, weights: Sequence[torch.Tensor],
                       biases: Sequence[torch.Tensor]) -> torch.Tensor:
    """Map (members, rows, inputs) to (members, rows, outputs) by oneDNN.

    Args:
        activation: between layers, a key of :data:`async_mbrl.learning.network.ACTIVATIONS`.
        x: inputs, 32-bit, on the CPU.
        weights: (members, inputs, outputs) of each layer.
        biases: (members, 1, outputs) of each layer.

    Returns:
        What ``baddbmm`` of each layer gives, up to rounding. It can be differentiated once.
    """
    x = x.contiguous()
    if torch.is_grad_enabled() and any(each.requires_grad for each in (x, *weights, *biases)):
        return _MemberPerceptrons.apply(_linear, activation, x.dtype, x, *weights, *biases)
    name = _ACTIVATIONS[activation].onednn
    outputs = []
    for member, h in enumerate(x):
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = _linear(h, weight[member], bias[member, 0], name)
        outputs.append(_linear(h, weights[-1][member], biases[-1][member, 0]))
    return torch.stack(outputs)


def batched_perceptrons(activation: str, x: torch.Tensor, weights: Sequence[torch.Tensor],
                        biases: Sequence[torch.Tensor],
                        numbers: torch.dtype = torch.float32) -> torch.Tensor:
    """Map (members, rows, inputs) to (members, rows, outputs), all members in one product.

    Large layers of which no gradient is wanted are computed member by member on the CPU, in place:
    what is written is read again while it is still in the cache.

    Args:
        activation: between layers, a key of :data:`async_mbrl.learning.network.ACTIVATIONS`.
        x: inputs.
        weights: (members, inputs, outputs) of each layer.
        biases: (members, 1, outputs) of each layer.
        numbers: that hidden layers are multiplied in, if other ones than those of the inputs. The
            last layer and the result have those of the inputs: what is learned from a network is
            as fine as before, only its hidden units are rounded.
    """
    hidden = x.dtype if numbers == torch.float32 else numbers
    weights = [weight.to(hidden) for weight in weights[:-1]] + [weights[-1].to(x.dtype)]
    biases = [bias.to(hidden) for bias in biases[:-1]] + [biases[-1].to(x.dtype)]
    widest = max(weight.shape[2] for weight in weights)
    large = x.device.type == 'cpu' and x.shape[0] * x.shape[1] * widest > _CACHED
    if large and not torch.is_grad_enabled():
        return _member_by_member(activation, x, weights, biases)
    function, h = _ACTIVATIONS[activation].forward, x.to(hidden)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = function(torch.baddbmm(bias, h, weight))
    return torch.baddbmm(biases[-1], h.to(x.dtype), weights[-1])


def _member_by_member(activation: str, x: torch.Tensor, weights: Sequence[torch.Tensor],
                      biases: Sequence[torch.Tensor]) -> torch.Tensor:
    in_place = _ACTIVATIONS[activation].in_place
    outputs = []
    for member, rows in enumerate(x):
        h = rows.to(weights[0].dtype)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = in_place(torch.addmm(bias[member], h, weight[member]))
        outputs.append(torch.addmm(biases[-1][member], h.to(x.dtype), weights[-1][member]))
    return torch.stack(outputs)


def check_product(product: str, device: torch.device) -> None:
    """Refuse a product that a device has not.

    Raises:
        ConfigError: ``onednn`` on another device than the CPU.
    """
    if product == 'onednn' and device.type != 'cpu':
        raise ConfigError(f"model.product: 'onednn' is a product of the CPU, but the device is "
                          f"{device}; use 'batched' or 'auto', or the device cpu")


def choose_product(product: str, members: int, sizes: Sequence[int], activation: str,
                   rows: int, device: torch.device = CPU) -> str:
    """Give the product to compute with: ``batched`` or ``onednn``.

    Args:
        product: one of these, which is what is taken, or ``auto``: the faster one here, by a
            trial of a fraction of a second. Which one that is decides how results are rounded.
        members: networks in the ensemble.
        sizes: inputs, units of each hidden layer, outputs.
        activation: between layers.
        rows: of a member in one update.
        device: where; oneDNN is for the CPU alone.

    Raises:
        ConfigError: ``onednn`` where this torch has no such product, or on another device.
    """
    check_product(product, device)
    if product == 'auto':
        if device.type != 'cpu' or not onednn_works():
            return 'batched'
        return _faster(min(members, _MOST_MEMBERS), tuple(sizes), activation,
                       min(rows, _MOST_ROWS))
    if product == 'onednn' and not onednn_works():
        raise ConfigError(f"model.product: 'onednn' is not possible with torch "
                          f"{torch.__version__} on this machine; use 'batched' or 'auto'")
    return product


def choose_numbers(numbers: str, members: int, sizes: Sequence[int], activation: str,
                   rows: int, device: torch.device = CPU) -> torch.dtype:
    """Give the numbers that hidden layers are multiplied in.

    Args:
        numbers: ``float32`` or ``bfloat16``, which is what is taken, or ``auto``: bfloat16 where a
            trial of a fraction of a second says that this device multiplies them clearly faster.
        members: networks in the ensemble.
        sizes: inputs, units of each hidden layer, outputs.
        activation: between layers.
        rows: of a member in one update.
        device: where.
    """
    if numbers == 'auto':
        numbers = _faster_numbers(min(members, _MOST_MEMBERS), tuple(sizes), activation,
                                  min(rows, _MOST_ROWS), device)
    return {'float32': torch.float32, 'bfloat16': torch.bfloat16}[numbers]


@functools.cache
def _faster(members: int, sizes: tuple[int, ...], activation: str, rows: int) -> str:
    """Try both on an update's forward and backward pass; oneDNN must win clearly."""
    x, parameters = _trial(members, sizes, rows, CPU)
    layers = len(sizes) - 1

    def update(function: Callable[..., torch.Tensor]) -> None:
        result = function(activation, x, parameters[:layers], parameters[layers:])
        torch.autograd.grad(result.sum(), parameters)

    return _clear_winner({'batched': functools.partial(update, batched_perceptrons),
                          'onednn': functools.partial(update, onednn_perceptrons)}, CPU)


@functools.cache
@torch.no_grad()
def _faster_numbers(members: int, sizes: tuple[int, ...], activation: str, rows: int,
                    device: torch.device) -> str:
    """Try both on a forward pass; bfloat16, rounding included, must win clearly."""
    x, parameters = _trial(members, sizes, rows, device)
    layers = len(sizes) - 1

    def forward(numbers: torch.dtype) -> torch.Tensor:
        return batched_perceptrons(activation, x, parameters[:layers], parameters[layers:],
                                   numbers)

    return _clear_winner({'float32': functools.partial(forward, torch.float32),
                          'bfloat16': functools.partial(forward, torch.bfloat16)}, device)


def _trial(members: int, sizes: tuple[int, ...], rows: int,
           device: torch.device) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Give inputs and parameters for a trial: the weights, then the biases."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(members, rows, sizes[0], generator=generator, device=device)
    shapes = [*zip(sizes[:-1], sizes[1:], strict=True), *((1, size) for size in sizes[1:])]
    return x, [torch.full((members, *shape), 0.01, requires_grad=True, device=device)
               for shape in shapes]


def _clear_winner(contenders: dict[str, Callable[[], object]], device: torch.device) -> str:
    """Let two take turns; give the second one if it is clearly faster, else the first."""
    least = dict.fromkeys(contenders, float('inf'))
    begun = _now_s(device)
    for attempt in range(1 + _ROUNDS):
        for name, action in contenders.items():
            before = _now_s(device)
            action()
            if attempt > 0:   # the first one prepares
                least[name] = min(least[name], _now_s(device) - before)
        if attempt > 0 and _now_s(device) - begun > _BUDGET_S:
            break
    first, second = contenders
    return second if least[second] < _CLEARLY_FASTER * least[first] else first


def _now_s(device: torch.device) -> float:
    """Give the time of this thread or, where another device computes, of the clock after it."""
    if device.type == 'cpu':
        return time.thread_time()
    torch.zeros((), device=device).item()   # is there once all is done that was asked for before
    return time.perf_counter()
