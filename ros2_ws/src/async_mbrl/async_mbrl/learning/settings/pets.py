"""Settings of PETS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.plan import MOST_STEPS
from async_mbrl.learning.config import ExplorationConfig
from async_mbrl.learning.settings.base import ImprovementConfig


@dataclass(frozen=True)
class PetsConfig(ImprovementConfig):
    """Model-predictive control with the ensemble, and a policy that imitates it."""

    PLANS: ClassVar[bool] = True

    offline_updates: int = param('none: what a dataset holds was not planned by this planner, so '
                                 'that there is nothing to imitate; the model alone is learned '
                                 'before the arm moves', 0, minimum=0, maximum=0)
    planner: str = param('how plans are improved; cem: cross-entropy method; mppi: path integral',
                         'cem', choices=('cem', 'mppi'))
    horizon: int = param('steps of a plan', 15, minimum=1, maximum=1000)
    candidates: int = param('plans that are tried in an iteration', 64, minimum=2, maximum=100_000)
    iterations: int = param('iterations of a plan', 3, minimum=1, maximum=1000)
    elites: int = param('best candidates of an iteration that the next one is drawn around; cem '
                        'only', 8, minimum=1)
    kept: int = param('of these, how many are tried again; cem only', 2, minimum=0)
    smoothing: float = param('weight of what was before in mean and standard deviation of an '
                             'iteration; cem only', 0.1, minimum=0.0, maximum=0.999)
    temperature: float = param('of the weights of the candidates, as a share of the distance of '
                               'the best one from the median; mppi only', 0.3, minimum=1e-3)
    initial_std: float = param('standard deviation of the candidates around the plan before, '
                               'normalised action', 0.5, minimum=1e-4, maximum=10.0)
    correlation: float = param('AR(1) coefficient of the candidates from step to step', 0.5,
                               minimum=0.0, maximum=0.999)
    handed_out: int = param('first actions of a plan that are handed out: for so many steps it is '
                            'followed if no newer one comes in time', 5, minimum=1,
                            maximum=MOST_STEPS)
    batch: int = param('transitions of an update of the policy that imitates the planner', 128,
                       minimum=1, maximum=65_536)
    imitation_learning_rate: float = param('of Adam, for that policy', 1e-3, minimum=0.0)

    def __post_init__(self) -> None:
        if self.elites > self.candidates:
            raise ConfigError(f'elites: {self.elites} of {self.candidates} candidates; give at '
                              'most as many')
        if self.kept >= self.candidates or self.kept > self.elites:
            raise ConfigError(f'kept: {self.kept} of {self.elites} elites and {self.candidates} '
                              'candidates; keep at most all elites, and fewer than the candidates')
        if self.handed_out > self.horizon:
            raise ConfigError(f'handed_out: {self.handed_out} actions of a plan of {self.horizon} '
                              'steps; give at most horizon')

    def check_network(self, network: PolicyNetworkConfig) -> None:
        """Refuse what cannot be regressed on actions in [-1, 1], or has a spread of its own."""
        if (network.distribution, network.squash) != ('given', 'tanh'):
            raise ConfigError(
                'network.distribution: the policy of pets imitates planned actions; expected '
                f"'given' and network.squash 'tanh', got {network.distribution!r} and "
                f'{network.squash!r}')

    def check_exploration(self, exploration: ExplorationConfig) -> None:
        """Refuse noise on the weights where there is none on the actions.

        What the perturbed policy does then has no density, and would be taken for planned.
        """
        quiet = [name for name, still in (
            ('initial_std', exploration.initial_steps > 0 and exploration.initial_std == 0.0),
            ('start_std and end_std', exploration.start_std == exploration.end_std == 0.0))
            if still]
        if exploration.parameter_noise and quiet:
            raise ConfigError(
                f'exploration.parameter_noise: {exploration.parameter_noise}, but exploration.'
                f'{quiet[0]} 0; pets tells what its policy did from what was planned by the '
                'density of the noise on the actions: let there be some, or set parameter_noise 0')
