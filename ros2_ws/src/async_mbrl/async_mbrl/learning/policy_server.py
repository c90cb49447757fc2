"""In the place of a learner: hands out the policy that another run has learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import NO_VERSION, Snapshot, SnapshotError, Version
from async_mbrl.core.transition import Transition


class PolicyServer:
    """A :class:`~async_mbrl.learning.learner.Learner` that has learned all it ever will."""

    def __init__(self, policy_from: str, network: PolicyNetworkConfig, task: Any, *,
                 incarnation: int) -> None:
        """Read and verify the newest policy of a run.

        Args:
            policy_from: folder of the run.
            network: network that the controller acts with.
            task: see :mod:`async_mbrl.tasks`.
            incarnation: which start it is; the policy is handed out under a version of its own, so
                that it is newer than the one of the start before.

        Raises:
            ConfigError: there is no policy, it is damaged, or it is one of another architecture.
        """
        if not policy_from:
            raise ConfigError('run.policy_from: missing; in mode use, name the folder of the run '
                              'whose policy is to be used')
        path = RunFolder(Path(policy_from)).policy
        try:
            if path.stat().st_size > snapshots.MAXIMUM_BYTES:
                raise SnapshotError(f'{path.stat().st_size} bytes are more than any policy has')
            self.origin = snapshots.decode(
                path.read_bytes(), expected_kind='policy',
                expected_architecture=policy_architecture(network, task))
        except OSError as error:
            raise ConfigError(f'run.policy_from: {path} cannot be read ({error.strerror}); name '
                              'the folder of a run that has published a policy') from None
        except SnapshotError as error:
            raise ConfigError(f'run.policy_from: {path}: {error}; give the robot, task and network '
                              'of that run, or name another one') from None
        self._version = Version(incarnation, 0)

    next_transition = kept = 0
    ready = True
    model_version = NO_VERSION
    epochs = 0.0
    trouble = ''
    news: tuple[int, ...] = ()

    @property
    def updates(self) -> int:
        """Gradient updates behind the policy."""
        return self.origin.updates

    def take(self, transitions: Sequence[Transition]) -> None:
        """Ignore them."""

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore it."""

    def step(self) -> bool:
        """Learn nothing."""
        return False

    def snapshot(self) -> Snapshot:
        """Give the policy, under the version of this start."""
        return dataclasses.replace(self.origin, version=self._version)

    def save(self, folder: Path, transitions: Path | None = None) -> None:
        """Save nothing: the policy lies where it came from."""

    def restore(self, folder: Path, transitions: Path | None = None) -> int:
        """Restore nothing; give the number of the next transition wanted."""
        return 0

    def discard(self) -> None:
        """Discard nothing."""

    def close(self) -> None:
        """Let go of nothing."""

    def metrics(self) -> dict[str, float]:
        """Give nothing to tell."""
        return {}
