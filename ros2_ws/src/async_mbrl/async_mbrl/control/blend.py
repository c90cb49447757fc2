"""A new policy takes over from the old one little by little."""

from __future__ import annotations

from typing import Any

import numpy as np

from async_mbrl.control.exploration import CorrelatedNoise, log_slope_of_tanh, noise_process
from async_mbrl.control.parameter_noise import ParameterNoise
from async_mbrl.control.policy import SQUASHES, NumpyPolicy, PolicyParameters
from async_mbrl.core.network import PolicyNetworkConfig, layer_sizes


class BlendedPolicy:
    """The mean (1 - w) old + w new of two policies, w going from 0 to 1 in a set time.

    Where they have standard deviations of their own, these are blended in the same way. In an
    episode of learning both act with the same noise on their weights, each with its own scale of
    it; whether there is any is decided when the steps begin.
    """

    def __init__(self, task: Any, network: PolicyNetworkConfig, blend_s: float) -> None:
        """Prepare for a task and a network.

        Args:
            task: see :mod:`async_mbrl.tasks`.
            network: shape of the policies.
            blend_s: time that a new policy takes to take over, s.
        """
        self._new = NumpyPolicy(task, network)
        self._old = NumpyPolicy(task, network)
        self._network = network
        self._parameter_noise = ParameterNoise(layer_sizes(network, task), task.action_size)
        self._blend_s = blend_s
        self._since_s = 0.0
        self._blending = False

    @property
    def parameters(self) -> PolicyParameters | None:
        """Parameters of the newest policy; None before the first."""
        return self._new.parameters

    def use(self, parameters: PolicyParameters, time_s: float, at_once: bool) -> None:
        """Let these parameters take over from a robot time on, s, or at once."""
        if self._new.parameters is not None and self._blend_s > 0.0 and not at_once:
            self._old, self._new = self._new, self._old
            self._since_s = time_s
            self._blending = True
        self._new.use(parameters)
        if self._parameter_noise.complete:
            self._new.perturb(self._parameter_noise)

    def blending(self, time_s: float) -> bool:
        """Say whether a new policy is still taking over; until then no other one should."""
        return self._blending and time_s - self._since_s < self._blend_s

    def begin(self, seed: int | None) -> None:
        """Begin an episode, still without steps.

        Args:
            seed: determines the noise on the weights; None for an episode without any.
        """
        self._parameter_noise.restart(seed)
        if self._new.parameters is not None:
            self._new.use(self._new.parameters)

    def prepare(self) -> None:
        """Do a part of the work that the first step would take long for; called at each tick."""
        if self._perturbing:
            self._parameter_noise.draw()

    def settle(self) -> None:
        """Let the newest policy act alone from now on, the steps of the episode being due."""
        self._blending = False
        if not self._perturbing:
            self._parameter_noise.restart(None)
        self._parameter_noise.finish()
        if self._parameter_noise.complete:
            self._new.perturb(self._parameter_noise)

    @property
    def _perturbing(self) -> bool:
        parameters = self._new.parameters
        return parameters is not None and parameters.parameter_noise_std > 0.0

    def mean(self, observation: np.ndarray, time_s: float) -> np.ndarray:
        """Give the mean action (n,), in [-1, 1], of an observation at a robot time.

        Raises:
            RuntimeError: no parameters are in use.
        """
        mean = self._new.mean(observation)
        if self.blending(time_s):
            share = (time_s - self._since_s) / self._blend_s
            mean = (1.0 - share) * self._old.mean(observation) + share * mean
        return mean

    def explore(self, observation: np.ndarray, time_s: float,
                noise: CorrelatedNoise) -> tuple[np.ndarray, float, float]:
        """Draw an action for an observation at a robot time.

        Returns:
            The action (n,), in [-1, 1]; the log density, nat, of what was drawn, given the noise
            on the weights and that of the steps before: of the action itself where it is squashed
            by a hyperbolic tangent, else of the sum of mean and noise before it was clipped; and
            the standard deviation, averaged over the components.

        Raises:
            RuntimeError: no parameters are in use.
        """
        parameters = self.parameters
        if parameters is None:
            raise RuntimeError('the policy has no parameters')
        process = noise_process(parameters.exploration_correlation, parameters.exploration_color)
        if not self._network.stochastic:
            std = parameters.exploration_std
            action, log_density = noise.draw(std, process)
            action += self.mean(observation, time_s)
            SQUASHES['clip'](action)
            return action, log_density, std
        mean, stds = self._distribution(observation, time_s)
        action, log_density = noise.draw_each(stds, process)
        action += mean
        if self._network.squash == 'tanh':
            log_density -= log_slope_of_tanh(action)
        SQUASHES[self._network.squash](action)
        return action, log_density, float(stds.mean())

    def _distribution(self, observation: np.ndarray,
                      time_s: float) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self._new.distribution(observation)
        if self.blending(time_s):
            share = (time_s - self._since_s) / self._blend_s
            old_mean, old_std = self._old.distribution(observation)
            mean = (1.0 - share) * old_mean + share * mean
            std = (1.0 - share) * old_std + share * std
        return mean, std
