"""What all nodes of a run share, and where a run keeps its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from async_mbrl.core.config import ConfigError, param

_DEVICE = re.compile('cpu|cuda(:[0-9]{1,3})?')


@dataclass(frozen=True)
class RunSettings:
    """Settings every node is given."""

    run_dir: str = param('folder of the run')
    seed: int = param('seed of everything random in the run', minimum=0)
    algorithm: str = param('identifier of the algorithm, e.g. me_ppo')
    real_time_factor: float = param(
        'seconds of robot time in a second of wall time; other than 1 only in simulation', 1.0,
        minimum=0.05, maximum=20.0)
    mode: str = param('learn: collect and learn; use: act with what another run has learned, '
                      'towards goals from a topic', 'learn', choices=('learn', 'use'))
    policy_from: str = param('folder of the run whose policy is used, in mode use', '')
    dataset: str = param('folder of a dataset that model and policy are learned from, before '
                         'the arm moves and beside what it does; empty: none', '')
    init_from: str = param('folder of a run, or of a checkpoint, that learners begin from where '
                           'they have learned nothing in this run; empty: none', '')
    device: str = param('where learners compute: cpu; cuda, the first GPU; cuda:N, that one', 'cpu')
    dry_run: bool = param('everything runs, but no command is sent to the arm', False)

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f'device: no device {self.device!r}; expected cpu, cuda or cuda:N, '
                              'N being the number of a GPU, from 0')


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the folder of a run; who writes what is in the design."""

    root: Path

    @property
    def config(self) -> Path:
        """Configuration as used: run, robot, plant, task, algorithm (bringup)."""
        return self.root / 'config.yaml'

    @property
    def journal(self) -> Path:
        """Folder of the journal of transitions and events (robot_interface)."""
        return self.root / 'journal'

    @property
    def recording(self) -> Path:
        """rosbag2 MCAP folder made from the journal (robot_interface)."""
        return self.root / 'recording'

    @property
    def metrics(self) -> Path:
        """One JSON object a line, about once a second (robot_interface)."""
        return self.root / 'metrics.jsonl'

    @property
    def summary(self) -> Path:
        """Outcome of the run (robot_interface, completed by evaluate)."""
        return self.root / 'summary.json'

    @property
    def policy(self) -> Path:
        """Newest policy snapshot (policy_learner; before that what pretrain came to)."""
        return self.root / 'policy_learner' / 'policy.safetensors'

    @property
    def first_policy(self) -> Path:
        """Policy snapshot that the run began with (policy_learner)."""
        return self.root / 'policy_learner' / 'policy_first.safetensors'

    def learner(self, name: str) -> Path:
        """Folder of a learner: its checkpoint and incarnation."""
        return self.root / name
