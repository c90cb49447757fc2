"""Settings of the two learners and of the algorithms."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import ConfigError, param
from async_mbrl.core.network import MOST_LAYERS, PolicyNetworkConfig


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
    """Noise added to the mean action while learning, correlated from step to step."""

    initial_std: float = param('standard deviation before anything is learned, normalised action',
                               1.0, minimum=0.0, maximum=1.0)
    start_std: float = param('standard deviation once the learned policy acts', 0.25, minimum=0.0,
                             maximum=1.0)
    end_std: float = param('standard deviation that it decays to', 0.08, minimum=0.0, maximum=1.0)
    time_constant_s: float = param('time constant of the decay, in motion time, s', 60.0,
                                   minimum=1e-3)
    correlation: float = param('AR(1) coefficient of the noise from step to step', 0.7,
                               minimum=0.0, maximum=0.999)
    initial_steps: int = param('transitions during which the initial noise is kept', 30, minimum=0)


@dataclass(frozen=True)
class MePpoConfig:
    """Proximal policy optimisation on rollouts imagined by a model ensemble."""

    rollouts: int = param('imagined rollouts of an update, shared evenly by the members', 100,
                          minimum=1, maximum=100_000)
    horizon: int = param('steps of an imagined rollout', 30, minimum=1, maximum=10_000)
    initial_share: float = param('share of rollouts that start where real episodes started; the '
                                 'rest starts anywhere in the data', 0.5, minimum=0.0, maximum=1.0)
    discount: float = param('discount of the return', 0.97, minimum=0.0, maximum=1.0)
    trace: float = param('lambda of the generalised advantage', 0.95, minimum=0.0, maximum=1.0)
    clip: float = param('greatest change of the probability ratio', 0.2, minimum=0.0)
    epochs: int = param('passes over the imagined steps', 4, minimum=1)
    minibatches: int = param('updates of a pass', 4, minimum=1)
    policy_learning_rate: float = param('of Adam', 7e-4, minimum=0.0)
    value_learning_rate: float = param('of Adam', 1e-3, minimum=0.0)
    value_hidden: tuple[int, ...] = param('units of each hidden layer of the value network',
                                          (64, 64), minimum=1, maximum=4096)
    value_activation: str = param('between layers of the value network', 'silu',
                                  choices=('tanh', 'silu', 'relu'))
    gradient_norm: float = param('greatest norm of the gradient of the policy', 1.0, minimum=0.0)
    initial_log_std: float = param('of the imagined actions, normalised action', -0.7)
    least_log_std: float = param('floor of it while it is learned', -3.5)
    entropy_weight: float = param('of the entropy of the imagined actions', 1e-4, minimum=0.0)
    excess_cost: float = param('cost of the squared part of an action beyond [-1, 1]', 0.01,
                               minimum=0.0)
    capacity: int = param('transitions kept, the newest', 100_000, minimum=1,
                          maximum=10_000_000)
    minimum_transitions: int = param('transitions at which improvement begins', 25, minimum=2)
    publish_interval_s: float = param('wall time between two published snapshots, at least, s',
                                      0.1, minimum=0.0)


@dataclass(frozen=True)
class SvgConfig:
    """Stochastic value gradients: the return of imagined rollouts, differentiated."""

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
    capacity: int = param('transitions kept, the newest', 100_000, minimum=1,
                          maximum=10_000_000)
    minimum_transitions: int = param('transitions at which improvement begins', 25, minimum=2)
    publish_interval_s: float = param('wall time between two published snapshots, at least, s',
                                      0.1, minimum=0.0)


def check_network(improvement: MePpoConfig | SvgConfig, network: PolicyNetworkConfig) -> None:
    """Check that the network which acts is the one that an algorithm improves.

    Raises:
        ConfigError: they differ.
    """
    # Its imagined actions are drawn around the unsquashed output and clipped afterwards; SVG
    # imagines with the squashed output, whichever it is.
    if isinstance(improvement, MePpoConfig) and network.squash != 'clip':
        raise ConfigError(f"network.squash: me_ppo improves a policy whose output is clipped; "
                          f"expected 'clip', got {network.squash!r}")


IMPROVEMENTS: dict[str, type] = {'me_ppo': MePpoConfig, 'svg': SvgConfig}
"""Settings class of each algorithm, by its identifier."""
