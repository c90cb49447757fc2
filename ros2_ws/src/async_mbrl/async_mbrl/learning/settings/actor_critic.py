"""Settings that off-policy actor-critics share."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import param
from async_mbrl.learning.settings.base import ImprovementConfig
from async_mbrl.learning.settings.sampling import SamplingConfig


@dataclass(frozen=True)
class ActorCriticConfig(ImprovementConfig):
    """A policy and two critics that learn from transitions, whoever brought them about."""

    offline_updates: int = param('updates from a dataset alone, before the arm moves, where there '
                                 'is one', 10_000, minimum=0)
    batch: int = param('transitions of an update', 256, minimum=1, maximum=65_536)
    sampling: SamplingConfig = param('which transitions of the robot, and offline ones, an update '
                                     'is made of', SamplingConfig())
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    numbers: str = param('that hidden layers are multiplied in while they are learned: float32; '
                         'bfloat16, rounded to 8 bits, which some processors do twice as fast; '
                         'auto, bfloat16 where a short trial at the start says so: name one where '
                         'runs must repeat exactly. Weights and the last layer stay in float32, '
                         'and the robot acts in float32', 'float32',
                         choices=('float32', 'bfloat16', 'auto'))
    policy_learning_rate: float = param('of Adam', 3e-4, minimum=0.0)
    critic_learning_rate: float = param('of Adam', 3e-4, minimum=0.0)
    critic_hidden: tuple[int, ...] = param('units of each hidden layer of a critic', (128, 128),
                                           minimum=1, maximum=4096)
    critic_activation: str = param('between layers of a critic', 'silu',
                                   choices=('tanh', 'silu', 'relu'))
    target_rate: float = param('step of the target critics towards the critics', 0.005,
                               minimum=1e-6, maximum=1.0)
