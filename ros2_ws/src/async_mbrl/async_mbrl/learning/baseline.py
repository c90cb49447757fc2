"""What the returns of imagined rollouts are held against, and the advantages that remain."""

from __future__ import annotations

import torch

from async_mbrl.learning.rollouts import Rollouts
from async_mbrl.learning.settings.imagined import BaselineConfig
from async_mbrl.learning.value import ValueNetwork, lambda_returns

FEATURE_BOUND = 10.0
RIDGE = 1e-5


def linear_baseline(features: torch.Tensor, rewards: torch.Tensor,
                    discount: float) -> torch.Tensor:
    """Fit the discounted returns of rollouts and give the fit, as Zhang et al. 2019 (their code).

    The regressors are the features, clipped to +-10, their squares, t / 100 for step t, its square
    and cube, and 1; ridge regression with weight 1e-5. The features are those of the policy, not
    raw observations: on a task with a goal these have no square of the error. Solved in double
    precision, as the regressors may be nearly dependent.

    Args:
        features: (horizon + 1, groups, rollouts, feature_size).
        rewards: (horizon, groups, rollouts); each group is fitted by itself.
        discount: of the return.

    Returns:
        (horizon + 1, groups, rollouts), the last one 0: a rollout ends there.
    """
    horizon, groups, rollouts = rewards.shape
    returns = lambda_returns(rewards, rewards.new_zeros(horizon + 1, groups, rollouts),
                             discount, 1.0)
    bounded = features[:-1].clamp(-FEATURE_BOUND, FEATURE_BOUND).double()
    time = torch.arange(horizon, dtype=torch.double, device=rewards.device) / 100.0
    time = time[:, None, None, None].expand(horizon, groups, rollouts, 1)
    design = torch.cat([bounded, bounded.square(), time, time.square(), time ** 3,
                        torch.ones_like(time)], -1)
    rows = design.transpose(0, 1).reshape(groups, horizon * rollouts, -1)
    wanted = returns.double().transpose(0, 1).reshape(groups, horizon * rollouts, 1)
    moments = rows.transpose(1, 2) @ rows
    moments.diagonal(dim1=1, dim2=2).add_(RIDGE)
    weights = torch.linalg.solve(moments, rows.transpose(1, 2) @ wanted)
    values = rewards.new_zeros(horizon + 1, groups, rollouts)
    values[:-1] = (rows @ weights).view(groups, horizon, rollouts).transpose(0, 1)
    return values


@torch.no_grad()
def advantages_and_returns(rollouts: Rollouts, value: ValueNetwork | None,
                           config: BaselineConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Give generalised advantages, normalised, and lambda returns, (horizon, ...) both.

    Args:
        rollouts: of one policy.
        value: the baseline, None for the linear one.
        config: discount and lambda.
    """
    rewards = rollouts.incentives
    if value is None:
        horizon = len(rewards)
        values = linear_baseline(
            rollouts.features.view(horizon + 1, 1, -1, rollouts.features.shape[-1]),
            rewards.view(horizon, 1, -1), config.discount).view(horizon + 1, *rewards.shape[1:])
    else:
        values = value(rollouts.features)
    returns = lambda_returns(rewards, values, config.discount, config.trace)
    advantages = returns - values[:-1]
    return (advantages - advantages.mean()) / (advantages.std() + 1e-6), returns
