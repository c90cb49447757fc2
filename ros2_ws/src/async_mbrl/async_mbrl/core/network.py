"""The policy network as data: what it is made of, so that torch trains and numpy runs the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from async_mbrl.core.config import ConfigError, param

MOST_LAYERS = 8


@dataclass(frozen=True)
class PolicyNetworkConfig:
    """A multi-layer perceptron from the task's features to the mean of a normalised action."""

    hidden: tuple[int, ...] = param('units of each hidden layer', minimum=1, maximum=4096)
    activation: str = param('between layers', choices=('tanh', 'silu', 'relu'))
    squash: str = param('how the output is brought into [-1, 1]', choices=('clip', 'tanh'))

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= MOST_LAYERS:
            raise ConfigError(f'hidden: {len(self.hidden)} hidden layers; from 1 to {MOST_LAYERS} '
                              'are possible')


def policy_architecture(network: PolicyNetworkConfig, task: Any) -> dict[str, Any]:
    """Describe a policy so exactly that equal descriptions mean exchangeable parameters.

    Tensors of such a snapshot, all float32: ``layer<i>.weight`` (outputs, inputs) and
    ``layer<i>.bias`` (outputs,) for each layer from 0, ``state_mean`` and ``state_std``
    (state_size,), the normalisation of the task's features.

    Args:
        network: the network.
        task: a task (see :mod:`async_mbrl.tasks`); gives sizes and names of its features.
    """
    return {
        'type': 'mlp_policy',
        'task': task.name,
        'observation': task.observation_size,
        'features': task.feature_description,
        'sizes': [task.feature_size, *network.hidden, task.action_size],
        'activation': network.activation,
        'squash': network.squash,
    }
