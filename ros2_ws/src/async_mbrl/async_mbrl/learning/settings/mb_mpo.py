"""Settings of MB-MPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.learning.config import ModelConfig
from async_mbrl.learning.settings.imagined import ImaginedConfig
from async_mbrl.learning.settings.trust_region import TrustRegionConfig


@dataclass(frozen=True)
class MbMpoConfig(ImaginedConfig):
    """Model-based meta-policy optimisation: a policy that adapts to each model in one step."""

    NAME: ClassVar[str] = 'mb_mpo'

    offline_updates: int = param('updates from a dataset alone, before the arm moves, where there '
                                 'is one', 100, minimum=0)
    rollouts: int = param('imagined rollouts of a task before adaptation, and as many after it', 20,
                          minimum=1, maximum=100_000)
    tasks: int = param('tasks, shared evenly by the members: each is one member for a whole '
                       'update', 5, minimum=1, maximum=1000)
    inner_learning_rate: float = param('of the gradient step that adapts to a task', 1e-3,
                                       minimum=0.0)
    trust_region: TrustRegionConfig = param('the step of the meta-policy', TrustRegionConfig())
    act_with: str = param('policy that acts on the robot; adapted: the one adapted to a task, the '
                          'next task with each episode; meta: the one before adaptation',
                          'adapted', choices=('adapted', 'meta'))

    def check_model(self, model: ModelConfig) -> None:
        """Refuse tasks that the members cannot share evenly."""
        super().check_model(model)
        if self.tasks % model.members:
            raise ConfigError(
                f'improvement.tasks: {self.tasks} tasks cannot be shared evenly by {model.members} '
                f'members; give a multiple of model.members, such as '
                f'{model.members * max(1, round(self.tasks / model.members))}')
