"""The policy network as data: what it is made of, so that torch trains and numpy runs the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from async_mbrl.core.config import ConfigError, param

MOST_LAYERS = 8

LOG_STD_RANGE = (-5.0, 2.0)
"""Bounds of the logarithm of a standard deviation that a policy gives itself."""

DISTRIBUTIONS = ('given', 'state_independent', 'state_dependent')


@dataclass(frozen=True)
class PolicyNetworkConfig:
    """A multi-layer perceptron from the task's features to the mean of a normalised action.

    While learning, noise is added. With a ``given`` distribution it comes from outside: its
    standard deviation travels with the policy, and it is added to the mean, which lies in [-1, 1]
    already. With the other two the policy learns its standard deviation, and what is drawn around
    the output of the network is brought into [-1, 1]; with the squash ``tanh_mean``, what is drawn
    around the hyperbolic tangent of the output is clipped.
    """

    hidden: tuple[int, ...] = param('units of each hidden layer', minimum=1, maximum=4096)
    activation: str = param('between layers', choices=('tanh', 'silu', 'relu'))
    squash: str = param('how the output is brought into [-1, 1], with what is drawn around it: '
                        'clip; tanh; tanh_mean: the mean by tanh, what is drawn by clipping',
                        choices=('clip', 'tanh', 'tanh_mean'))
    distribution: str = param(
        'given: the noise has a standard deviation that is set; state_independent: one that is '
        'learned, the same in all states; state_dependent: one that the network gives', 'given',
        choices=DISTRIBUTIONS)

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= MOST_LAYERS:
            raise ConfigError(f'hidden: {len(self.hidden)} hidden layers; from 1 to {MOST_LAYERS} '
                              'are possible')

    @property
    def stochastic(self) -> bool:
        """Whether the policy has a standard deviation of its own."""
        return self.distribution != 'given'


def layer_sizes(network: PolicyNetworkConfig, task: Any) -> list[int]:
    """Give the inputs, the units of each hidden layer, and the outputs of a policy for a task."""
    outputs = task.action_size * (2 if network.distribution == 'state_dependent' else 1)
    return [task.feature_size, *network.hidden, outputs]


def policy_architecture(network: PolicyNetworkConfig, task: Any) -> dict[str, Any]:
    """Describe a policy so exactly that equal descriptions mean exchangeable parameters.

    Tensors of such a snapshot, all float32: ``layer<i>.weight`` (outputs, inputs) and
    ``layer<i>.bias`` (outputs,) for each layer from 0, ``state_mean`` and ``state_std``
    (state_size,), the normalisation of the task's features. A state-independent distribution adds
    ``log_std`` (action_size,); with a state-dependent one the last layer has twice as many outputs:
    the mean, then what :func:`log_std_between` takes.

    Args:
        network: the network.
        task: a task (see :mod:`async_mbrl.tasks`); gives sizes and names of its features.
    """
    return {
        'type': 'mlp_policy',
        'task': task.name,
        'observation': task.observation_size,
        'features': task.feature_description,
        'sizes': layer_sizes(network, task),
        'activation': network.activation,
        'squash': network.squash,
        'distribution': network.distribution,
    }


def log_std_between(xp: Any, output: Any) -> Any:
    """Bring outputs of a network smoothly into :data:`LOG_STD_RANGE`."""
    low, high = LOG_STD_RANGE
    return low + 0.5 * (high - low) * (1.0 + xp.tanh(output))
