"""Where a learner computes: on the CPU, or on a GPU.

Networks, optimisers and all that is imagined are built on the device and stay there. Transitions
stay in host memory; what is drawn of them goes over (:class:`~.buffer.TransitionBuffer`). What is
published or saved comes back: it does not tell where it was learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from async_mbrl.core.config import ConfigError
from async_mbrl.learning.recorded import recorded_count

CPU = torch.device('cpu')


def find_device(name: str) -> torch.device:
    """Give the device of a name.

    Args:
        name: as :class:`~async_mbrl.core.run.RunSettings` has it: ``cpu``, ``cuda``, ``cuda:N``.

    Raises:
        ConfigError: it is not there.
    """
    if name == 'cpu':
        return CPU
    if not torch.cuda.is_available():
        why = ('it finds no GPU that it can use; see nvidia-smi'
               if torch.backends.cuda.is_built() else
               'it is built without CUDA; install one that has it')
        raise ConfigError(f'device: {name!r} is not there for torch {torch.__version__}: {why}, or '
                          "use 'cpu'")
    index, count = torch.device(name).index or 0, torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f'device: {name!r} is not there: torch finds {count}, cuda:0 to '
                          f"cuda:{count - 1}; name one of these, or use 'cpu'")
    return torch.device('cuda', index)


def find_device_again(name: str, folder: Path) -> torch.device:
    """Give the device of a name for a learner that may have learned there before.

    Args:
        name: see :func:`find_device`.
        folder: of its checkpoint.

    Raises:
        ConfigError: it is not there.
        RuntimeError: it is not there any more, but the run has gone online: the arm goes on with
            the policy that it has, and a start that is tried again may succeed.
    """
    try:
        return find_device(name)
    except ConfigError as error:
        if not recorded_count(folder, 'next_transition'):
            raise
        raise RuntimeError(str(error)) from None


def making_on(device: torch.device) -> AbstractContextManager[object]:
    """Let tensors that are made within lie on a device if they do not say where.

    On the CPU they do so by themselves, and what is tried out there is not slowed down.
    """
    return nullcontext() if device == CPU else device


@dataclass(frozen=True)
class Generators:
    """What a learner draws by; on the CPU both are the same one.

    Attributes:
        rows: draws which transitions are learned from; of the host.
        noise: draws all else, where the learner computes.
    """

    rows: torch.Generator
    noise: torch.Generator

    @staticmethod
    def on(device: torch.device, seed: int) -> Generators:
        """Make those of a learner on a device."""
        rows = torch.Generator().manual_seed(seed)
        noise = rows if device == CPU else torch.Generator(device).manual_seed(seed)
        return Generators(rows, noise)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the states for a checkpoint."""
        states = {'generator': self.rows.get_state()}
        if self.noise is not self.rows:
            states[self._name] = self.noise.get_state()
        return states

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave, be it on another kind of device."""
        self.rows.set_state(tensors['generator'])
        if self.noise is self.rows:
            return
        if self._name in tensors:
            self.noise.set_state(tensors[self._name])
        else:   # of another kind of device: one state means nothing to the other
            self.noise.manual_seed(int(torch.randint(2**63 - 1, (), generator=self.rows)))

    @property
    def _name(self) -> str:
        return f'generator.{self.noise.device.type}'
