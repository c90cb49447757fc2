"""Settings of tasks; which class they are, is said by the name of the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from async_mbrl.core.config import ConfigError, param


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What all tasks have in common.

    A mapping is loaded as the class that :data:`CONFIGS` names for the task.
    """

    name: str = param('identifier, e.g. reach')
    policy_rate_hz: float = param('policy steps a second, Hz', minimum=1.0, maximum=1000.0)
    episode_steps: int = param('policy steps of an episode', minimum=2, maximum=10000)
    reset_s: float = param('duration of a reset: move to the start pose and settling, s',
                           minimum=0.1, maximum=60.0)

    @classmethod
    def variant(cls, mapping: Mapping[str, Any]) -> type[TaskConfig]:
        """Choose the class by the name of the task.

        Raises:
            ConfigError: none is named, or there is no such task.
        """
        if 'name' not in mapping:
            raise ConfigError('name: missing; it has no default (identifier of a task, e.g. '
                              'reach); give it a value')
        name = mapping['name']
        if not isinstance(name, str) or name not in CONFIGS:
            raise ConfigError(f'name: no task {str(name)[:40]!r}; there are: {", ".join(CONFIGS)}')
        return CONFIGS[name]

    @property
    def wanted_success_rate(self) -> float | None:
        """Share of evaluation episodes that must succeed; None where success is not defined."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReachConfig(TaskConfig):
    """A goal-reaching task of an arm.

    Reward: -velocity_cost |qd|^2 - effort_cost |a|^2 - (d^2 + ln(d^2 + 1e-5)), with d the distance
    over the coordinates of all tool points (Zhang et al. 2019, the reward of the PR2 tasks), times
    reward_scale. Where it is sparse, 1 at the goal and 0 elsewhere takes the place of what depends
    on d.
    """

    start_half_range: tuple[float, ...] = param(
        'start poses are drawn uniformly from home +- this, one number a joint, rad', minimum=0.0)
    goal_half_range: tuple[float, ...] = param(
        'goals are the tool points at goal_center +- this, one number a joint, rad', minimum=0.0)
    success_distance_m: float = param(
        'an episode succeeds if the mean distance of the tool points to the goal ends below, m',
        minimum=0.0)
    success_rate: float = param('share of evaluation episodes that must succeed', minimum=0.0,
                                maximum=1.0)
    velocity_cost: float = param('cost of squared joint speeds, 1/(rad/s)^2', minimum=0.0)
    effort_cost: float = param('cost of the squared normalised action', minimum=0.0)
    reward_scale: float = param('factor on the whole reward', minimum=1e-6)
    goal_center: tuple[float, ...] = param('pose that goals are drawn around, rad; empty: home',
                                           ())
    sparse: bool = param('whether only being at the goal, by success_distance_m, is rewarded, and '
                         'not how near it is', False)
    coarse_gain: float = param('gain of the tool error among the features, 1/m', minimum=0.0)
    fine_gain: float = param('gain of the saturating tool error among the features, 1/m',
                             minimum=0.0)

    def __post_init__(self) -> None:
        if len(self.start_half_range) != len(self.goal_half_range):
            raise ConfigError(
                f'start_half_range: {len(self.start_half_range)} numbers, but goal_half_range has '
                f'{len(self.goal_half_range)}')

    @property
    def wanted_success_rate(self) -> float | None:
        """Share of evaluation episodes that must end at the goal."""
        return self.success_rate


@dataclass(frozen=True, kw_only=True)
class BenchmarkTaskConfig(TaskConfig):
    """What the tasks of benchmark bodies have in common."""

    action_cost: float = param('cost of the squared normalised action', minimum=0.0)
    start_position_noise: float = param(
        'start positions are home +- this, uniformly, rad or m', minimum=0.0)
    start_velocity_noise: float = param(
        'start velocities: standard deviation, or half range, by start_velocity_law', minimum=0.0)
    start_velocity_law: str = param('how start velocities are distributed', 'uniform',
                                    choices=('uniform', 'normal'))
    terminate: bool = param('end the episode where Gymnasium ends it; false, as in the paper, lets '
                            'it go on', False)
    criterion: str = param('when an episode is a success: none, where that is not defined; return, '
                           'where its return is at least success_return', 'none',
                           choices=('none', 'return'))
    success_return: float = param('return of a successful episode, for criterion return', 0.0)
    success_rate: float = param('share of evaluation episodes that must succeed, for criterion '
                                'return', 0.9, minimum=0.0, maximum=1.0)

    @property
    def wanted_success_rate(self) -> float | None:
        """Share of evaluation episodes that must be successes; None without a criterion."""
        return self.success_rate if self.criterion == 'return' else None


@dataclass(frozen=True, kw_only=True)
class LocomotionConfig(BenchmarkTaskConfig):
    """Running forwards (Zhang et al. 2019, after the benchmark of Wang et al. 2019).

    Reward: v_x - action_cost |a|^2 - height_cost (z - target_height_m)^2 + alive_reward, with the
    velocity v_x and the height z of the root that the step has led to.
    """

    height_cost: float = param('cost of the squared error of height, 1/m^2', 0.0, minimum=0.0)
    target_height_m: float = param('height of the root that costs nothing, m', 0.0)
    alive_reward: float = param('reward of every step', 0.0)


@dataclass(frozen=True, kw_only=True)
class PusherConfig(BenchmarkTaskConfig):
    """Pushing an object to a place.

    Reward: -distance of object and goal - near_weight * distance of object and tip - action_cost
    |a|^2, after the step (Gymnasium, Pusher-v5).
    """

    near_weight: float = param('of the distance of the object and the tip', minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class InvertedPendulumConfig(BenchmarkTaskConfig):
    """Balancing a pole: 1 for every step after which it stands (Gymnasium, InvertedPendulum-v5)."""

    upright_rad: float = param('greatest angle of a pole that stands, rad', minimum=0.0)


CONFIGS: dict[str, type[TaskConfig]] = {
    'reach': ReachConfig, 'half_cheetah': LocomotionConfig, 'hopper': LocomotionConfig,
    'walker2d': LocomotionConfig, 'ant': LocomotionConfig, 'swimmer': LocomotionConfig,
    'reacher': BenchmarkTaskConfig, 'pusher': PusherConfig,
    'inverted_pendulum': InvertedPendulumConfig}
"""Class of the settings of each task."""
