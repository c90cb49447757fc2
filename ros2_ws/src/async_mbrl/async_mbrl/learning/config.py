"""Settings of the model and of exploration; those of the algorithms are in ``settings``."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import MOST_LAYERS
from async_mbrl.core.snapshot import MOST_COLOR


@dataclass(frozen=True)
class ModelConfig:
    """The dynamics ensemble and how it is learned."""

    kind: str = param('structured: joint acceleration is learned, integration and kinematics are '
                      'known; plain: the change of the whole state is learned', 'structured',
                      choices=('structured', 'plain'))
    members: int = param('networks in the ensemble', 5, minimum=1, maximum=64)
    hidden: tuple[int, ...] = param('units of each hidden layer', (128, 128), minimum=1,
                                    maximum=4096)
    activation: str = param('between layers', 'silu', choices=('tanh', 'silu', 'relu'))
    product: str = param('matrix product: batched, all members at once; onednn, each by itself by '
                         'oneDNN; auto, the faster one by a short trial at the start. Results '
                         'differ by rounding only, but give one of the two where runs must repeat '
                         'exactly', 'auto', choices=('auto', 'batched', 'onednn'))
    numbers: str = param('that hidden layers are multiplied in: float32; bfloat16, rounded to 8 '
                         'bits, which some processors do twice as fast (product is without effect '
                         'then); auto, bfloat16 where a short trial at the start says so: name one '
                         'where runs must repeat exactly. Weights, the last layer and imagined '
                         'states stay in float32', 'float32',
                         choices=('float32', 'bfloat16', 'auto'))
    batch: int = param('transitions a member draws for one update', 64, minimum=1,
                       maximum=65_536)
    learning_rate: float = param('of AdamW', 1e-3, minimum=0.0)
    weight_decay: float = param('of AdamW', 1e-5, minimum=0.0)
    position_weight: float = param('weight of the joint position error in the loss of the '
                                   'structured kind', 0.3, minimum=0.0)
    average: float = param('step of the running average of the weights that is published; 1 '
                           'publishes the weights themselves', 0.01, minimum=1e-6, maximum=1.0)
    clamp_margin: float = param('imagined states stay within the data seen, widened by this many '
                                'standard deviations', 0.5, minimum=0.0)
    capacity: int = param('transitions kept, the newest', 100_000, minimum=1,
                          maximum=10_000_000)
    minimum_transitions: int = param('transitions at which learning begins', 25, minimum=2)
    updates_per_step: int = param('updates between two looks at what arrived', 8, minimum=1)
    max_updates_per_transition: float = param(
        'updates for each transition received, on average, at most; 0: no limit', 0.0, minimum=0.0)
    offline_updates: int = param('updates from a dataset alone, before the arm moves, where there '
                                 'is one', 2000, minimum=0)
    early_stopping: bool = param('stop a member while the moving average of its validation loss '
                                 'rises, until the next episode has ended', False)
    validation_share: float = param('share of the transitions each member keeps apart for '
                                    'validation if it may stop early', 0.2, minimum=0.01,
                                    maximum=0.9)
    persistence: float = param('weight of the past in the moving average of the validation loss',
                               0.99, minimum=0.0, maximum=0.9999)
    publish_interval_s: float = param('wall time between two published snapshots, at least, s',
                                      0.25, minimum=0.0)

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= MOST_LAYERS:
            raise ConfigError(f'hidden: {len(self.hidden)} hidden layers; from 1 to {MOST_LAYERS} '
                              'are possible')


@dataclass(frozen=True)
class ExplorationConfig:
    """Noise while learning: on the action, correlated from step to step, and on the weights."""

    initial_std: float = param('standard deviation before anything is learned, normalised action',
                               1.0, minimum=0.0, maximum=1.0)
    start_std: float = param('standard deviation once the learned policy acts', 0.25, minimum=0.0,
                             maximum=1.0)
    end_std: float = param('standard deviation that it decays to', 0.08, minimum=0.0, maximum=1.0)
    time_constant_s: float = param('time constant of the decay, in motion time, s', 60.0,
                                   minimum=1e-3)
    correlation: float = param('AR(1) coefficient of the noise from step to step', 0.7,
                               minimum=0.0, maximum=0.999)
    color: float = param('exponent of a noise whose power spectrum falls as 1 / frequency^color, '
                         'in place of the correlation: 1 is pink, 2 red; 0: off', 0.0, minimum=0.0,
                         maximum=MOST_COLOR)
    parameter_noise: float = param(
        'noise on the weights of the policy, one draw an episode, by the root mean square of the '
        'change of the action that it makes, normalised action; decays as start_std does; 0: none',
        0.0, minimum=0.0, maximum=1.0)
    initial_steps: int = param('transitions during which the initial noise is kept', 30, minimum=0)

    def __post_init__(self) -> None:
        if self.correlation and self.color:
            raise ConfigError(f'color: {self.color}, but correlation is {self.correlation}; noise '
                              'has one or the other: set one of them to 0')
