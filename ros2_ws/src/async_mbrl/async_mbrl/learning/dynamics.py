"""Dynamics ensembles: what the state is one policy step later."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.ensemble import Ensemble
from async_mbrl.learning.normalisation import Statistics
from async_mbrl.learning.product import choose_numbers, choose_product
from async_mbrl.learning.tool_points import ToolPoints

ACTION_SPREAD = 0.6
"""Spread that actions are divided by: about that of the noise before anything is learned. It is
not estimated, since the actions of a policy that improves become small while their effect stays."""


class Dynamics(nn.Module, abc.ABC):
    """A dynamics ensemble over states (members, rows, state_size) of a task.

    The statistics of the data lie in buffers, so that ``state_dict`` is all a reader needs.
    """

    network: Ensemble
    state_lower: torch.Tensor
    state_upper: torch.Tensor

    def __init__(self, config: ModelConfig, task: Any) -> None:
        """Keep what both kinds share."""
        super().__init__()
        self.config = config
        self.members = config.members
        self.task = task
        size = task.state_size
        self.register_buffer('state_lower', torch.full((size,), -1e6))
        self.register_buffer('state_upper', torch.full((size,), 1e6))

    @abc.abstractmethod
    def normalise(self, statistics: Statistics) -> None:
        """Take over the statistics of the data."""
        self.state_lower.copy_(statistics.lower)
        self.state_upper.copy_(statistics.upper)

    def widen(self, statistics: Statistics) -> None:
        """Let imagined states range over the data as well; all else stays as it is."""
        lower, upper = self.state_lower, self.state_upper
        torch.minimum(lower, statistics.lower.to(lower.device), out=lower)
        torch.maximum(upper, statistics.upper.to(upper.device), out=upper)

    @abc.abstractmethod
    def errors(self, state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor,
               members: torch.Tensor | None = None) -> torch.Tensor:
        """Normalised squared one-step errors (members, rows): what is minimised.

        Args:
            state: (members, rows, state_size).
            action: (members, rows, action_size).
            next_state: (members, rows, state_size).
            members: indices of the members that these are for; None for all.
        """

    @abc.abstractmethod
    def predict(self, state: torch.Tensor, action: torch.Tensor, *,
                clamp: bool = True) -> torch.Tensor:
        """Next state (members, rows, state_size), kept within the data seen if ``clamp``."""

    @abc.abstractmethod
    def normalised_change(self, state: torch.Tensor, action: torch.Tensor,
                          members: torch.Tensor | None = None) -> torch.Tensor:
        """Give what the networks say (members, rows, outputs), in units of how the data change."""

    def disagreement(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Say (...) how far the members are apart on states (..., size) and actions (..., size).

        It is the standard deviation of what they predict, in units of how the data change in a
        step, as a root mean square over the components: near 0 where there were data enough, and
        the greater the less is known (Pathak et al. 2019, who take the variance). Members must be
        told apart by it, so that it takes as many predictions as there are members.
        """
        rows = [part.reshape(1, -1, part.shape[-1]).expand(self.members, -1, -1)
                for part in (state, action)]
        spread = self.normalised_change(*rows).var(0, correction=0).mean(-1)
        # The root has no slope at 0, where there is nothing to gain.
        return (spread + 1e-12).sqrt().view(state.shape[:-1])

    def architecture(self) -> dict[str, Any]:
        """Describe the ensemble so exactly that equal descriptions have exchangeable tensors."""
        return {'type': f'{self.config.kind}_dynamics', 'task': self.task.name,
                'state': self.task.state_size, 'action': self.task.action_size,
                'members': self.members, 'hidden': list(self.config.hidden),
                'activation': self.config.activation}

    @property
    def learned_bytes(self) -> int:
        """Size of parameters and statistics as they are learned, in 32-bit floats."""
        return sum(4 * value.numel() for value in self.state_dict().values())

    def tensors(self) -> dict[str, np.ndarray]:
        """Give parameters and statistics by name, as copies."""
        return {name: value.detach().cpu().numpy().copy()
                for name, value in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over parameters and statistics, in the numbers that these have here.

        Raises:
            RuntimeError: a name or a shape does not fit.
        """
        self.load_state_dict({name: torch.from_numpy(np.array(value))
                              for name, value in tensors.items()})


class StructuredDynamics(Dynamics):
    """An arm whose joints report (q, qd): only the change of velocity is learned.

    qd' = qd + f(q, qd, previous action, action) and q' = q + dt (qd + alpha (qd' - qd)), with f a
    network and alpha one learned number a joint, each member its own; the tool points follow from
    q' by the known kinematics. So an arm at rest stays at rest in imagination, where an ensemble
    that learns the change of every component drifts by centimetres.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor
    velocity_scale: torch.Tensor
    position_scale: torch.Tensor

    def __init__(self, config: ModelConfig, task: Any, generator: torch.Generator) -> None:
        """Build the ensemble for a task with joints (see :class:`ReachTask`)."""
        super().__init__(config, task)
        joints = task.joints
        inputs = 3 * joints + task.action_size
        self._period_s = 1.0 / task.config.policy_rate_hz
        self._tool_points = ToolPoints(task.robot.kinematics)
        self.network = _ensemble(config, inputs, joints, generator)
        self.alpha = nn.Parameter(torch.full((config.members, 1, joints), 0.5))
        for name, size, value in (('input_mean', inputs, 0.0), ('input_std', inputs, 1.0),
                                  ('velocity_scale', joints, 1.0),
                                  ('position_scale', joints, 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    def normalise(self, statistics: Statistics) -> None:
        """Take over the statistics of the data."""
        super().normalise(statistics)
        task, actions = self.task, self.task.action_size
        for target, source, action in (
                (self.input_mean, statistics.state_mean, 0.0),
                (self.input_std, statistics.state_std, ACTION_SPREAD)):
            target.copy_(torch.cat([source[task.position], source[task.velocity],
                                    source[task.previous_action],
                                    torch.full((actions,), action)]))
        self.velocity_scale.copy_(statistics.delta_std[task.velocity])
        self.position_scale.copy_(statistics.delta_std[task.position])

    def errors(self, state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor,
               members: torch.Tensor | None = None) -> torch.Tensor:
        """Squared errors of the change of velocity and, weighted, of position, normalised."""
        task = self.task
        position, velocity = state[..., task.position], state[..., task.velocity]
        change = self.velocity_change(state, action, members)
        alpha = self.alpha if members is None else self.alpha[members]
        moved = self._period_s * (velocity + alpha * change)
        velocity_error = (change - next_state[..., task.velocity] + velocity) / self.velocity_scale
        position_error = (moved - next_state[..., task.position] + position) / self.position_scale
        return (velocity_error.square().mean(-1)
                + self.config.position_weight * position_error.square().mean(-1))

    def predict(self, state: torch.Tensor, action: torch.Tensor, *,
                clamp: bool = True) -> torch.Tensor:
        """Next state; the tool points are those of the next joint positions, exactly."""
        task = self.task
        velocity = state[..., task.velocity]
        change = self.velocity_change(state, action)
        position = state[..., task.position] + self._period_s * (velocity + self.alpha * change)
        velocity = velocity + change
        if clamp:
            position = position.clamp(self.state_lower[task.position],
                                      self.state_upper[task.position])
            velocity = velocity.clamp(self.state_lower[task.velocity],
                                      self.state_upper[task.velocity])
        return torch.cat([position, velocity, self._tool_points(position), action], -1)

    def velocity_change(self, state: torch.Tensor, action: torch.Tensor,
                        members: torch.Tensor | None = None) -> torch.Tensor:
        """Change of joint velocities (members, rows, joints) over one policy step, rad/s."""
        return self.normalised_change(state, action, members) * self.velocity_scale

    def normalised_change(self, state: torch.Tensor, action: torch.Tensor,
                          members: torch.Tensor | None = None) -> torch.Tensor:
        """Change of joint velocities (members, rows, joints) in units of that of the data."""
        task = self.task
        inputs = torch.cat([state[..., :task.velocity.stop], state[..., task.previous_action],
                            action], -1)
        normalised = (inputs - self.input_mean) / self.input_std
        return self.network(normalised, members)


class PlainDynamics(Dynamics):
    """No structure: the change of the whole state is learned.

    If the state holds the previous action, its next value is the action, exactly.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor
    delta_mean: torch.Tensor
    delta_std: torch.Tensor

    def __init__(self, config: ModelConfig, task: Any, generator: torch.Generator) -> None:
        """Build the ensemble for any task with a state and an action."""
        super().__init__(config, task)
        inputs = task.state_size + task.action_size
        known = getattr(task, 'previous_action', slice(task.state_size, task.state_size))
        if known.stop != task.state_size:
            raise ValueError('the previous action must be the last part of the state')
        self._learned = known.start
        self.network = _ensemble(config, inputs, self._learned, generator)
        for name, size, value in (('input_mean', inputs, 0.0), ('input_std', inputs, 1.0),
                                  ('delta_mean', self._learned, 0.0),
                                  ('delta_std', self._learned, 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    def normalise(self, statistics: Statistics) -> None:
        """Take over the statistics of the data."""
        super().normalise(statistics)
        actions = self.task.action_size
        self.input_mean.copy_(torch.cat([statistics.state_mean, torch.zeros(actions)]))
        self.input_std.copy_(torch.cat([statistics.state_std,
                                        torch.full((actions,), ACTION_SPREAD)]))
        self.delta_mean.copy_(statistics.delta_mean[:self._learned])
        self.delta_std.copy_(statistics.delta_std[:self._learned])

    def errors(self, state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor,
               members: torch.Tensor | None = None) -> torch.Tensor:
        """Squared errors of the change of state, normalised."""
        delta = (next_state - state)[..., :self._learned]
        wanted = (delta - self.delta_mean) / self.delta_std
        return (self.normalised_change(state, action, members) - wanted).square().mean(-1)

    def predict(self, state: torch.Tensor, action: torch.Tensor, *,
                clamp: bool = True) -> torch.Tensor:
        """Next state."""
        change = self.normalised_change(state, action) * self.delta_std + self.delta_mean
        learned = state[..., :self._learned] + change
        if clamp:
            learned = learned.clamp(self.state_lower[:self._learned],
                                    self.state_upper[:self._learned])
        if self._learned == state.shape[-1]:
            return learned
        return torch.cat([learned, action], -1)

    def normalised_change(self, state: torch.Tensor, action: torch.Tensor,
                          members: torch.Tensor | None = None) -> torch.Tensor:
        """Change of the learned part of the state (members, rows, size), normalised."""
        inputs = torch.cat([state, action], -1)
        return self.network((inputs - self.input_mean) / self.input_std, members)


def _ensemble(config: ModelConfig, inputs: int, outputs: int,
              generator: torch.Generator) -> Ensemble:
    sizes = (inputs, *config.hidden, outputs)
    numbers = choose_numbers(config.numbers, config.members, sizes, config.activation,
                             config.batch, generator.device)
    product = 'batched' if numbers != torch.float32 else choose_product(
        config.product, config.members, sizes, config.activation, config.batch,
        generator.device)
    return Ensemble(config.members, sizes, config.activation, generator, product=product,
                    numbers=numbers)


def make_dynamics(config: ModelConfig, task: Any, generator: torch.Generator) -> Dynamics:
    """Build the ensemble that the configuration names."""
    kinds = {'structured': StructuredDynamics, 'plain': PlainDynamics}
    return kinds[config.kind](config, task, generator)


def make_imagined(config: ModelConfig, task: Any, generator: torch.Generator) -> Dynamics:
    """Build an ensemble to imagine in, for what another one has learned."""
    dynamics = make_dynamics(config, task, generator).requires_grad_(False)
    dynamics.network.keep_rounded()
    return dynamics
