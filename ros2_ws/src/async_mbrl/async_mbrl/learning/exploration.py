"""How much the robot explores: schedules of the noise, and the scale of that on the weights."""

from __future__ import annotations

import math

import torch

from async_mbrl.core.snapshot import MOST_PARAMETER_NOISE_STD
from async_mbrl.learning.config import ExplorationConfig
from async_mbrl.learning.experience import EVENLY, Experience
from async_mbrl.learning.policy import Policy

_FIRST_STD = 0.05
_DRAWS = 16
_STATES = 64
_TRIES = 6
_NEAR = 1.5
"""Ratio of two distances that chance alone can make of equal ones, the draws being so few."""
_FARTHEST = 4.0
_GAIN = 0.25


def exploration_std(config: ExplorationConfig, transitions: int, policy_rate_hz: float) -> float:
    """Give the standard deviation of the noise on the actions after a number of transitions."""
    if transitions < config.initial_steps:
        return config.initial_std
    return config.end_std + (config.start_std - config.end_std) * _decay(
        config, transitions, policy_rate_hz)


def wanted_distance(config: ExplorationConfig, transitions: int, policy_rate_hz: float) -> float:
    """Give the distance that noise on the weights shall make after a number of transitions.

    It falls by the same shares as the noise on the actions does once a policy acts, whether there
    is such noise or not; a ``start_std`` of 0 leaves it as it is.
    """
    if config.start_std == 0.0:
        return config.parameter_noise
    end = config.end_std / config.start_std
    return config.parameter_noise * (
        end + (1.0 - end) * _decay(config, transitions, policy_rate_hz))


def _decay(config: ExplorationConfig, transitions: int, policy_rate_hz: float) -> float:
    return math.exp(-transitions / policy_rate_hz / config.time_constant_s)


class ParameterNoise:
    """Adapts the scale of the noise on the weights to the distance that it makes.

    The distance is that of Plappert et al. 2018 for continuous actions: the root of the mean
    square, over states of the data, components and draws of the noise, of the difference between
    the actions of the perturbed policy and of the policy. They change the scale by a hundredth at
    a time, which takes hundreds of snapshots; here the distance is measured at each snapshot, and
    far off the scale is divided by the ratio of distances until it fits, to which it is
    proportional as long as it is small. Near the goal that would only follow the chance of the few
    draws, so that it goes a quarter of the way.
    """

    def __init__(self, config: ExplorationConfig, experience: Experience) -> None:
        """Adapt to states of the data, with random numbers of their generators."""
        self._config = config
        self._experience = experience
        self.std = 0.0
        """Standard deviation of what is added to each weight and bias."""
        self.distance = 0.0
        """Distance as it was measured last, normalised action."""

    @torch.no_grad()
    def adapt(self, policy: Policy, transitions: int, policy_rate_hz: float) -> float:
        """Give the scale for a policy after a number of transitions.

        0 before there are data, and without a distance that is wanted.
        """
        wanted = wanted_distance(self._config, transitions, policy_rate_hz)
        if wanted == 0.0 or not len(self._experience):
            return 0.0
        features = policy.features(self._experience.draw(_STATES, EVENLY).observation)
        generator = self._experience.generators.noise
        noise = [torch.randn(_DRAWS, *parameter.shape, generator=generator,
                             device=generator.device)
                 for parameter in policy.network.parameters()]
        mean = policy.mean(features)
        std = self.std or _FIRST_STD
        for _ in range(_TRIES):
            change = policy.perturbed_means(features, noise, std) - mean
            self.distance = float(change.square().mean().sqrt())
            ratio = min(wanted / max(self.distance, 1e-12), _FARTHEST)
            near = 1.0 / _NEAR < ratio < _NEAR
            std = min(std * (ratio ** _GAIN if near else ratio), MOST_PARAMETER_NOISE_STD)
            if near:
                break
        self.std = std
        return std

    def metrics(self) -> dict[str, float]:
        """Give the scale and the distance, if there is one wanted."""
        if self._config.parameter_noise == 0.0:
            return {}
        return {'parameter_noise_std': self.std, 'parameter_noise_distance': self.distance}
