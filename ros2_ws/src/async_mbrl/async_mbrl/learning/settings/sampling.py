"""Settings of which transitions an update is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from async_mbrl.core.config import ConfigError, param


@dataclass(frozen=True)
class SamplingConfig:
    """How transitions are drawn from those that are kept."""

    kind: str = param('uniform: each is as likely as another; recent: newer ones are likelier; '
                      'prioritised: those are likelier whose value surprised the critics most, and '
                      'they count less instead', 'uniform',
                      choices=('uniform', 'recent', 'prioritised'))
    human_share: float = param('uniform: share of what is drawn from the robot in which a person '
                               'acted, as soon as there is any; 0: as many as it happens', 0.0,
                               minimum=0.0, maximum=1.0)
    recency: float = param('eta of recent: an update draws from the newest N * recency^(1000 u) '
                           'of N transitions, u drawn evenly from 0 to 1 for each update; the '
                           'smaller, the more the newest are seen', 0.996, minimum=0.9,
                           maximum=1.0)
    recent_minimum: int = param('c_min of recent: the newest that are drawn from at least; while '
                                'there are no more, draws are uniform', 1000, minimum=1)
    priority_exponent: float = param('alpha of prioritised: 0 draws as uniform does, 1 in '
                                     'proportion to the error', 0.6, minimum=0.0, maximum=1.0)
    importance_exponent: float = param('beta of prioritised at first: 1 makes up for the whole '
                                       'preference, 0 for nothing of it', 0.4, minimum=0.0,
                                       maximum=1.0)
    importance_updates: int = param('updates over which beta of prioritised rises to 1; 0: it '
                                    'stays as it is', 0, minimum=0)

    _USED: ClassVar[dict[str, tuple[str, ...]]] = {
        'uniform': ('human_share',), 'recent': ('recency', 'recent_minimum'),
        'prioritised': ('priority_exponent', 'importance_exponent', 'importance_updates')}

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if field.name not in ('kind', *self._USED[self.kind]) and given != field.default:
                kind = next(kind for kind, used in self._USED.items() if field.name in used)
                raise ConfigError(f'{field.name}: {given}, but kind is {self.kind!r}, which does '
                                  f'not use it; leave it out, or give kind {kind!r}')
