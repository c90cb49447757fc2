"""How collecting and learning take turns. No torch here: who collects needs to know it too.

An iteration of a sequential schedule is a number of rollouts and the learning that they allow. It
is split into *turns*: after a turn's rollouts the arm is held until the learners have done their
part of it. A rollout is over with the transition that ends its episode, also one that was cut
short, so that those who collect and those who learn count the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from async_mbrl.core.config import ConfigError, param

SCHEDULES = ('async', 'sync', 'interleaved')

TURNS_METRIC = 'turns'
"""Name of the scalar by which a sequential learner says how many turns are behind its policy."""


class Block(NamedTuple):
    """Learning without a pause: passes over the data by the model, then steps of the policy."""

    model_epochs: int
    policy_steps: int


@dataclass(frozen=True)
class ScheduleConfig:
    """When is collected and when is learned; everything else stays the same.

    ``async``: side by side, nobody waits. ``sync``: the rollouts of an iteration, then the model,
    then the policy (the sequential baseline of Zhang et al. 2019). ``interleaved``: the same amount
    of learning in an iteration, in smaller pieces.
    """

    name: str = param('async, sync or interleaved', 'async', choices=SCHEDULES)
    rollouts: int = param('sync, interleaved: rollouts of an iteration', 10, minimum=1,
                          maximum=100_000)
    model_epochs: int = param(
        'sync, interleaved: passes over the training data in an iteration, at most; members that '
        'may stop early stop before', 200, minimum=0, maximum=1_000_000)
    policy_steps: int = param('sync, interleaved: policy updates in an iteration', 50, minimum=0,
                              maximum=1_000_000)
    interleave: str = param(
        'interleaved: model_policy splits the learning of an iteration into blocks of model, then '
        'policy; data_policy puts policy updates between the rollouts, the model is learned after '
        'the last one', 'model_policy', choices=('model_policy', 'data_policy'))
    blocks: int = param('interleaved, model_policy: blocks of an iteration', 20, minimum=1,
                        maximum=100_000)
    model_updates_per_transition: float = param(
        'async on the emulated clock: model updates for each transition', 1.0, minimum=0.0,
        maximum=10_000.0)
    policy_updates_per_transition: float = param(
        'async on the emulated clock: policy updates for each transition', 0.025, minimum=0.0,
        maximum=10_000.0)

    def __post_init__(self) -> None:
        most = max(self.model_epochs, self.policy_steps)
        if self.name == 'interleaved' and self.interleave == 'model_policy' and self.blocks > most:
            raise ConfigError(f'blocks: {self.blocks}, but an iteration has {self.model_epochs} '
                              f'model epochs and {self.policy_steps} policy updates to share; at '
                              f'most {most}')

    @property
    def sequential(self) -> bool:
        """Whether the arm waits for the learners."""
        return self.name != 'async'

    @property
    def rollouts_per_turn(self) -> int:
        """Rollouts after which the learners have a turn."""
        return 1 if self._between_rollouts else self.rollouts

    def turns(self, rollouts: int) -> int:
        """Give the turns that are due after a number of rollouts."""
        return rollouts // self.rollouts_per_turn

    def program(self, turn: int) -> tuple[Block, ...]:
        """Give what is learned in a turn, numbered from 0."""
        if self._between_rollouts:
            place = turn % self.rollouts
            last = place == self.rollouts - 1
            return (Block(self.model_epochs if last else 0,
                          _part(self.policy_steps, place, self.rollouts)),)
        blocks = self.blocks if self.name == 'interleaved' else 1
        return tuple(Block(_part(self.model_epochs, place, blocks),
                           _part(self.policy_steps, place, blocks)) for place in range(blocks))

    @property
    def _between_rollouts(self) -> bool:
        return self.name == 'interleaved' and self.interleave == 'data_policy'


def _part(total: int, place: int, parts: int) -> int:
    """Give one of the parts, as equal as possible, that a total is split into."""
    return total * (place + 1) // parts - total * place // parts
