"""A device to test with where there is no GPU: it computes on the CPU, but does not say so.

Its tensors claim the device ``privateuseone:0``. As on a GPU, they are not mixed with those of the
CPU, but for numbers (0-dimensional tensors) where a kernel takes these; have no memory that numpy
could see; and are drawn only by a generator of the device. It is stricter than a GPU where that
would only wait for a copy: an index has to be there, too.

What it cannot show: how numbers are rounded there, how fast it is, that kernels exist, and whatever
goes wrong because a GPU computes later than it is told to.

Once registered it is there until the process ends, so tests use it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = torch.device('privateuseone:0')
_LISTS = ('aten::_foreach', 'aten::_fused', 'aten::cat', 'aten::stack')
"""Operators that take no number of the CPU among tensors of a GPU."""


class MixedDevices(RuntimeError):
    """Tensors of both devices in one operator."""


class Elsewhere(torch.Tensor):
    """A tensor of the device; what it holds is a tensor of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        # Autograd takes views for those of ordinary tensors, also where it is switched off.
        with torch.inference_mode(False):
            made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=DEVICE)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        return _call(operator, args, kwargs or {})


class Generator(torch.Generator):
    """A generator that says where it was asked for; a backend in Python can have none of its own.

    What it draws is drawn on the CPU; :class:`Draws` sees to it that it is drawn for its device.
    """

    where: torch.device

    def __new__(cls, device: Any = 'cpu') -> Generator:
        made: Generator = super().__new__(cls)
        made.where = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        """The device."""
        return self.where


class Draws(TorchFunctionMode):
    """Refuses to draw for one device by the generator of another, as torch does."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get('generator')
        if generator is not None:
            wanted = torch.device(kwargs.get('device') or 'cpu')
            if wanted.type != generator.device.type:
                raise MixedDevices(f'{function}: a generator of {generator.device} draws on '
                                   f'{wanted}')
        return function(*args, **kwargs)


def register() -> None:
    """Let torch know the device, in this process."""
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend('elsewhere')    # autograd asks for a name
    torch.Generator = Generator  # type: ignore[misc]
    Draws().__enter__()
    for name, kernel in (('empty.memory_format', _empty), ('empty_strided', _empty_strided),
                         ('_copy_from', _copy_from)):
        torch.library.impl(f'aten::{name}', 'PrivateUse1')(kernel)


def _empty(*args: Any, **kwargs: Any) -> Elsewhere:
    return Elsewhere(torch.ops.aten.empty.memory_format(*args, **{**kwargs, 'device': 'cpu'}))


def _empty_strided(*args: Any, **kwargs: Any) -> Elsewhere:
    return Elsewhere(torch.ops.aten.empty_strided.default(*args, **{**kwargs, 'device': 'cpu'}))


def _copy_from(source: torch.Tensor, target: torch.Tensor,
               non_blocking: bool = False) -> torch.Tensor:
    _held(target).copy_(_held(source))
    return target


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (value for value in tree_iter(values) if isinstance(value, torch.Tensor))


def _call(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = operator._schema.name
    target = kwargs.get('device')
    if name == 'aten::_to_copy' and target is not None and torch.device(target).type == 'cpu':
        return operator(args[0].held, *args[1:], **kwargs)
    _check(name, args, kwargs)
    if target is not None:
        kwargs = {**kwargs, 'device': 'cpu'}
    found = operator(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(each.held): each for each in _tensors((args, kwargs))
             if isinstance(each, Elsewhere)}

    def wrapped(value: Any) -> Any:
        # What an operator changes in place it gives back, and so must this.
        if isinstance(value, torch.Tensor):
            return known[id(value)] if id(value) in known else Elsewhere(value)
        return value

    return tree_map(wrapped, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _check(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in ('aten::copy_', 'aten::_to_copy'):
        return
    strict = name.startswith(_LISTS)
    for each in _tensors((args, kwargs)):
        if not isinstance(each, Elsewhere) and (strict or each.dim()):
            raise MixedDevices(f'{name}: tensors of {DEVICE} and of {each.device} '
                               f'{tuple(each.shape)}')
