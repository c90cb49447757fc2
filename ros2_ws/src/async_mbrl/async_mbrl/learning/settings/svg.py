"""Settings of SVG."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import param
from async_mbrl.learning.settings.disagreement import DisagreementConfig


@dataclass(frozen=True)
class SvgConfig(DisagreementConfig):
    """Stochastic value gradients: the return of imagined rollouts, differentiated."""

    offline_updates: int = param('updates from a dataset alone, before the arm moves, where there '
                                 'is one', 500, minimum=0)
    rollouts: int = param('imagined rollouts of an update, shared evenly by the members', 100,
                          minimum=1, maximum=100_000)
    horizon: int = param('steps of an imagined rollout', 20, minimum=1, maximum=10_000)
    initial_share: float = param('share of rollouts that start where real episodes started; the '
                                 'rest starts anywhere in the data', 0.25, minimum=0.0,
                                 maximum=1.0)
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    trace: float = param('lambda of the value targets', 0.95, minimum=0.0, maximum=1.0)
    action_std: float = param('noise of the imagined actions, normalised action', 0.1, minimum=0.0)
    policy_learning_rate: float = param('of Adam', 1e-3, minimum=0.0)
    value_learning_rate: float = param('of Adam', 1e-3, minimum=0.0)
    value_hidden: tuple[int, ...] = param('units of each hidden layer of the value network',
                                          (128, 128), minimum=1, maximum=4096)
    value_activation: str = param('between layers of the value network', 'silu',
                                  choices=('tanh', 'silu', 'relu'))
    gradient_norm: float = param('greatest norm of the gradient of the policy', 1.0, minimum=0.0)
    value_gradient_norm: float = param('greatest norm of the gradient of the value', 10.0,
                                       minimum=0.0)
    target_rate: float = param('step of the target value towards the value', 0.01, minimum=1e-6,
                               maximum=1.0)
    average: float = param('step of the running average of the policy that is published', 0.05,
                           minimum=1e-6, maximum=1.0)
