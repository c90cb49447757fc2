"""Settings of the algorithms: one file each, without torch, so that a run is checked at once."""

from __future__ import annotations

from async_mbrl.learning.settings.actor_critic import ActorCriticConfig
from async_mbrl.learning.settings.awac import AwacConfig
from async_mbrl.learning.settings.base import ImprovementConfig
from async_mbrl.learning.settings.mb_mpo import MbMpoConfig
from async_mbrl.learning.settings.mbpo import MbpoConfig
from async_mbrl.learning.settings.me_ppo import MePpoConfig
from async_mbrl.learning.settings.me_trpo import MeTrpoConfig
from async_mbrl.learning.settings.pets import PetsConfig
from async_mbrl.learning.settings.ppo import PpoConfig
from async_mbrl.learning.settings.sac import SacConfig
from async_mbrl.learning.settings.sampling import SamplingConfig
from async_mbrl.learning.settings.svg import SvgConfig

IMPROVEMENTS: dict[str, type[ImprovementConfig]] = {
    'me_ppo': MePpoConfig,
    'me_trpo': MeTrpoConfig,
    'mb_mpo': MbMpoConfig,
    'svg': SvgConfig,
    'mbpo': MbpoConfig,
    'pets': PetsConfig,
    'awac': AwacConfig,
    'ppo': PpoConfig,
    'sac': SacConfig,
}
"""Settings class of each algorithm, by its identifier."""

__all__ = [
    'IMPROVEMENTS', 'ActorCriticConfig', 'AwacConfig', 'ImprovementConfig', 'MbMpoConfig',
    'MbpoConfig', 'MePpoConfig', 'MeTrpoConfig', 'PetsConfig', 'PpoConfig', 'SacConfig',
    'SamplingConfig', 'SvgConfig']
