"""Adam without the rest of an optimiser library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam with decoupled weight decay (Kingma and Ba 2015, Loshchilov and Hutter 2019).

    The same update by the same kernel as ``torch.optim.AdamW(fused=True)``, which in torch 2.13
    imports the compiler: a second more until a restarted learner is back.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], learning_rate: float,
                 weight_decay: float = 0.0) -> None:
        """Optimise parameters, all of which must get a gradient in every step."""
        self.parameters = list(parameters)
        self._learning_rate = learning_rate
        self._weight_decay = weight_decay
        self.moments = [[torch.zeros_like(parameter, requires_grad=False)
                         for parameter in self.parameters] for _ in range(2)]
        """First and second moment of the gradient of each parameter."""
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Take one step against the gradients, one for each parameter."""
        torch._foreach_add_(self._steps, 1.0)
        torch._fused_adamw_(
            self.parameters, list(gradients), self.moments[0], self.moments[1], [], self._steps,
            lr=self._learning_rate, beta1=_BETA1, beta2=_BETA2, eps=_EPSILON,
            weight_decay=self._weight_decay, amsgrad=False, maximize=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the state for a checkpoint."""
        named = {f'{order}.{index}': moment for order, moments in enumerate(self.moments)
                 for index, moment in enumerate(moments)}
        return {'steps': torch.stack(self._steps), **named}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`tensors` gave."""
        for order, moments in enumerate(self.moments):
            for index, moment in enumerate(moments):
                moment.copy_(tensors[f'{order}.{index}'])
        for steps, value in zip(self._steps, tensors['steps'], strict=True):
            steps.copy_(value)


@torch.no_grad()
def clip_norm(gradients: Sequence[torch.Tensor], maximum: float) -> torch.Tensor:
    """Scale gradients in place so that their common norm is at most ``maximum``.

    Returns:
        The norm before.
    """
    norm = torch.stack(torch._foreach_norm(list(gradients))).norm()
    torch._foreach_mul_(list(gradients), (maximum / (norm + 1e-6)).clamp(max=1.0))
    return norm
