"""Settings of a task."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import ConfigError, param


@dataclass(frozen=True)
class TaskConfig:
    """A goal-reaching task of an arm.

    Reward: -velocity_cost |qd|^2 - effort_cost |a|^2 - (d^2 + ln(d^2 + 1e-5)), with d the distance
    over the coordinates of all tool points (Zhang et al. 2019, the reward of the PR2 tasks), times
    reward_scale.
    """

    name: str = param('identifier, e.g. reach')
    policy_rate_hz: float = param('policy steps a second, Hz', minimum=1.0, maximum=100.0)
    episode_steps: int = param('policy steps of an episode', minimum=2, maximum=10000)
    reset_s: float = param('duration of a reset: move to the start pose and settling, s',
                           minimum=0.5, maximum=60.0)
    start_half_range: tuple[float, ...] = param(
        'start poses are drawn uniformly from home +- this, one number a joint, rad', minimum=0.0)
    goal_half_range: tuple[float, ...] = param(
        'goals are the tool points at home +- this, one number a joint, rad', minimum=0.0)
    success_distance_m: float = param(
        'an episode succeeds if the mean distance of the tool points to the goal ends below, m',
        minimum=0.0)
    success_rate: float = param('share of evaluation episodes that must succeed', minimum=0.0,
                                maximum=1.0)
    velocity_cost: float = param('cost of squared joint speeds, 1/(rad/s)^2', minimum=0.0)
    effort_cost: float = param('cost of the squared normalised action', minimum=0.0)
    reward_scale: float = param('factor on the whole reward', minimum=1e-6)
    coarse_gain: float = param('gain of the tool error among the features, 1/m', minimum=0.0)
    fine_gain: float = param('gain of the saturating tool error among the features, 1/m',
                             minimum=0.0)

    def __post_init__(self) -> None:
        if len(self.start_half_range) != len(self.goal_half_range):
            raise ConfigError(
                f'start_half_range: {len(self.start_half_range)} numbers, but goal_half_range has '
                f'{len(self.goal_half_range)}')
