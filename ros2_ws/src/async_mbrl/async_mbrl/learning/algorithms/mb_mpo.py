"""MB-MPO: a policy that adapts to each model of an ensemble by one policy gradient step.

Clavera et al. 2018. Each task is a member of the ensemble. One update: imagine rollouts with the
meta-policy theta in each task k; adapt to each, theta_k = theta + alpha grad J_k(theta); imagine
rollouts with the adapted policies; take one step of theta within a trust region that improves the
return after adaptation, with the gradient through the adaptation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning import trust_region
from async_mbrl.learning.adam import Adam
from async_mbrl.learning.baseline import linear_baseline
from async_mbrl.learning.gaussian import GaussianPolicy, divergence, log_density
from async_mbrl.learning.imagination import Imagination
from async_mbrl.learning.rollouts import Rollouts, imagine
from async_mbrl.learning.settings import MbMpoConfig
from async_mbrl.learning.value import lambda_returns
from async_mbrl.learning.workload import FORWARD_AND_BACKWARD, Workload, multiplications


@dataclass(frozen=True)
class TaskSteps:
    """Imagined steps, those of each task together.

    Attributes:
        features: (tasks, steps, feature_size).
        actions: (tasks, steps, action_size), before they were clipped.
        log_density: (tasks, steps), of the policy that drew them.
        advantages: (tasks, steps), normalised within each task.
    """

    features: torch.Tensor
    actions: torch.Tensor
    log_density: torch.Tensor
    advantages: torch.Tensor

    def every(self, stride: int, rollouts: int) -> TaskSteps:
        """Give every so many steps of the rollouts of each task."""
        return TaskSteps(*(value.unflatten(1, (-1, rollouts))[:, ::stride].flatten(1, 2)
                           for value in (self.features, self.actions, self.log_density,
                                         self.advantages)))


class MbMpo(nn.Module):
    """Meta-policy, adapted policies and how one update changes them."""

    episode: torch.Tensor

    def __init__(self, config: MbMpoConfig, network: PolicyNetworkConfig, task: Any,
                 generator: torch.Generator) -> None:
        """Build the meta-policy; before the first update the adapted policies are the same."""
        super().__init__()
        self.config = config
        self._task = task
        self.policy = GaussianPolicy(network, task, generator, config)
        self.acting = GaussianPolicy(network, task, torch.Generator(generator.device), config)
        self.acting.requires_grad_(False).load_state_dict(self.policy.state_dict())
        self.register_buffer('episode', torch.zeros((), dtype=torch.long, device='cpu'))
        for index, parameter in enumerate(self.policy.learned()):
            self.register_buffer(f'adapted{index}', _copies(parameter, config.tasks).clone())
        self._return_before = 0.0
        self._return = self._bonus = self._adaptation = 0.0
        self._step = trust_region.REJECTED

    @property
    def acting_policy(self) -> GaussianPolicy:
        """The policy that is published: the meta-policy, or the one adapted to a task."""
        return self.policy if self.config.act_with == 'meta' else self.acting

    @property
    def acting_task(self) -> int:
        """Task that the acting policy is adapted to."""
        return int(self.episode) % self.config.tasks

    @property
    def about(self) -> dict[str, Any]:
        """What published snapshots say of the policy."""
        if self.config.act_with == 'meta':
            return {'act_with': 'meta'}
        return {'act_with': 'adapted', 'adapted_to_task': self.acting_task}

    def expect_episode(self, number: int) -> None:
        """Take that the next transition will be of this episode; each has the task after."""
        if number != int(self.episode):
            self.episode.fill_(number)
            self._change_acting()

    @property
    def samples_of_update(self) -> int:
        """Start states of the imagined rollouts."""
        return 2 * self.config.tasks * self.config.rollouts

    def identity(self) -> dict[str, Any]:
        """Give the settings that must be equal for a checkpoint to fit."""
        return {'tasks': self.config.tasks}

    def optimizers(self) -> dict[str, Adam]:
        """Optimisers by name, for a checkpoint: there are none."""
        return {}

    def update(self, imagination: Imagination) -> Iterator[None]:
        """Improve the meta-policy once, yielding now and then."""
        work = Workload()
        rollouts = yield from self._imagine(imagination, None, work)
        before = self.steps_of(rollouts)
        self._return_before = rollouts.imagined_return

        with torch.no_grad():
            adapted = self.adapt(before)
        rollouts = yield from self._imagine(imagination, adapted, work)
        after = self.steps_of(rollouts)
        self._return, self._bonus = rollouts.imagined_return, rollouts.mean_bonus

        stride = self.config.trust_region.curvature_stride
        some_before, some_after = (steps.every(stride, self.config.rollouts)
                                   for steps in (before, after))
        with torch.no_grad():       # so that the divergence of what they adapt to begins at 0, too
            adapted_to_some = self.adapt(some_before)
            self._adaptation = float(self.adaptation_divergence(adapted, some_after))

        def curvature_of() -> torch.Tensor:
            return self.evaluate(some_before, some_after, adapted_to_some)[1]

        # Adaptation and objective, both differentiated twice.
        cost = (2 * FORWARD_AND_BACKWARD ** 2 * after.log_density.numel()
                * multiplications(self.policy))
        self._step = yield from trust_region.improve(
            self.policy.learned(), partial(self.evaluate, before, after, adapted),
            self.config.trust_region, self.policy.bound, partial(work.add, cost),
            curvature_of if stride > 1 else None)
        with torch.no_grad():
            for index, parameter in enumerate(self.adapt(before)):
                self.get_buffer(f'adapted{index}').copy_(parameter)
        self._change_acting()

    def metrics(self) -> dict[str, float]:
        """Scalars of the newest update."""
        return {'imagined_return': self._return, 'imagined_return_before': self._return_before,
                'exploration_bonus': self._bonus,
                'action_std': float(self.policy.log_std.detach().exp().mean()),
                'adaptation_divergence': self._adaptation,
                'step_share': self._step.share, 'step_divergence': self._step.divergence,
                'acting_task': float(self.acting_task)}

    def adapt(self, before: TaskSteps) -> list[torch.Tensor]:
        """Take one policy gradient step from the meta-policy in each task.

        The surrogate is the mean of log pi(a | s) A, whose gradient is the policy gradient and
        whose Hessian is its derivative for given rollouts.

        Args:
            before: steps of the meta-policy.

        Returns:
            Parameters of the adapted policies, as ``policy.learned()``, each with a leading axis
            (tasks, ...); a differentiable function of those if gradients are on.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            copies = [_copies(parameter, len(before.actions))
                      for parameter in self.policy.learned()]
            density = self._log_density(copies, before)
            surrogate = (density * before.advantages).mean(1).sum()
            gradients = torch.autograd.grad(surrogate, copies, create_graph=differentiable)
        return [parameter + self.config.inner_learning_rate * gradient
                for parameter, gradient in zip(copies, gradients, strict=True)]

    def evaluate(self, before: TaskSteps, after: TaskSteps,
                 reference: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what the meta-policy is improved by.

        Args:
            before: steps of the meta-policy, for the adaptation.
            after: steps of the adapted policies.
            reference: parameters of the policies that took them.

        Returns:
            Minus the mean of ratio times advantage after adaptation, and the mean divergence of the
            adapted policies from those that took the steps, both averaged over the tasks.
        """
        adapted = self.adapt(before)
        ratio = (self._log_density(adapted, after) - after.log_density).exp()
        with torch.no_grad():
            mean, log_std = self._distribution(reference, after.features)
        return (-(ratio * after.advantages).mean(),
                divergence(mean, log_std, *self._distribution(adapted, after.features)).mean())

    def adaptation_divergence(self, adapted: Sequence[torch.Tensor],
                              steps: TaskSteps) -> torch.Tensor:
        """Give how far adapted policies are from the meta-policy: the mean divergence, nat.

        Far below that of a step of the meta-policy, adaptation changes next to nothing; see
        ``inner_learning_rate``.
        """
        return divergence(self.policy.unsquashed(steps.features), self.policy.log_std,
                          *self._distribution(adapted, steps.features)).mean()

    @torch.no_grad()
    def steps_of(self, rollouts: Rollouts) -> TaskSteps:
        """Put the steps of each task together, with advantages over a baseline of its own."""
        config, tasks = self.config, self.config.tasks
        horizon = config.horizon
        features = rollouts.features.view(horizon + 1, tasks, config.rollouts, -1)
        rewards = rollouts.incentives.view(horizon, tasks, config.rollouts)
        values = linear_baseline(features, rewards, config.discount)
        advantages = _by_task(
            lambda_returns(rewards, values, config.discount, config.trace) - values[:-1])
        mean, std = advantages.mean(1, keepdim=True), advantages.std(1, keepdim=True)
        return TaskSteps(
            _by_task(features[:-1]),
            _by_task(rollouts.actions.view(horizon, tasks, config.rollouts, -1)),
            _by_task(rollouts.log_density.view(horizon, tasks, config.rollouts)),
            (advantages - mean) / (std + 1e-6))

    def _imagine(self, imagination: Imagination, adapted: list[torch.Tensor] | None,
                 work: Workload) -> Generator[None, None, Rollouts]:
        """Roll out with the meta-policy, or with the adapted ones, each in the member of its task.

        The rollouts of a member are those of its tasks, one task after the other.
        """
        config = self.config
        mean, log_std = self.policy.unsquashed, self.policy.log_std.detach()
        if adapted is not None:
            mean = partial(self._mean_of_rollouts, adapted)
            log_std = adapted[-1].repeat_interleave(config.rollouts, 0).view(
                imagination.members, -1, self._task.action_size)
        return (yield from imagine(imagination, self._task, config,
                                   config.tasks * config.rollouts, self.policy, mean, log_std,
                                   work))

    def _mean_of_rollouts(self, adapted: Sequence[torch.Tensor],
                          features: torch.Tensor) -> torch.Tensor:
        """Mean actions for features (members, rollouts of a member, feature_size)."""
        mean, _ = self._distribution(
            adapted, features.view(self.config.tasks, self.config.rollouts, -1))
        return mean.view(*features.shape[:-1], -1)

    def _distribution(self, parameters: Sequence[torch.Tensor],
                      features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (tasks, steps, action_size) and log-std (tasks, 1, action_size)."""
        *network, log_std = parameters
        return self.policy.network.side_by_side(network, features), log_std[:, None]

    def _log_density(self, parameters: Sequence[torch.Tensor], steps: TaskSteps) -> torch.Tensor:
        return log_density(steps.actions, *self._distribution(parameters, steps.features))

    @torch.no_grad()
    def _change_acting(self) -> None:
        for index, parameter in enumerate(self.acting.learned()):
            parameter.copy_(self.get_buffer(f'adapted{index}')[self.acting_task])
        self.acting.bound()


def _copies(parameter: torch.Tensor, tasks: int) -> torch.Tensor:
    """Give (tasks, ...): the same for each task, but differentiated separately."""
    return parameter.expand(tasks, *parameter.shape)


def _by_task(values: torch.Tensor) -> torch.Tensor:
    """Turn (horizon, tasks, rollouts, ...) into (tasks, steps, ...)."""
    return values.transpose(0, 1).flatten(1, 2)
