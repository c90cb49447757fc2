"""A learner as a managed node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunSettings
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.learning.device import find_device
from async_mbrl.learning.pretraining import Trainee, read_offline
from async_mbrl.learning.recorded import recorded_count, recorded_hash
from async_mbrl.learning.warm_start import checkpoint_of
from async_mbrl.ros.bridged_node import BridgedNode, serve
from async_mbrl.ros.learner_bridge import LearnerBridge
from async_mbrl.ros.lifecycle import ManagedNode


class Beginner(Protocol):
    """A learner that may begin with what another one has learned."""

    def begin_from(self, folder: Path) -> None:
        """Take what a checkpoint holds.

        Raises:
            CheckpointError: it does not fit.
        """
        ...


class LearnerNode(BridgedNode[LearnerBridge]):
    """Configured, it has restored its checkpoint and takes what arrives; active, it learns.

    Deactivated, it stops learning, but goes on receiving, answering and giving heartbeats.
    """

    def build(self) -> LearnerBridge:
        """Build the learner and what carries its messages.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            ConfigError: the parameters do not fit.
        """
        raise NotImplementedError

    def configure(self) -> None:
        """Go on from the checkpoint, if there is one."""
        try:
            self.bridge = self.build()
        except CheckpointError as error:
            raise ConfigError(str(error)) from None

    def cleanup(self) -> None:
        """Save and leave the graph."""
        bridge, self.bridge = self.bridge, None
        if bridge is not None:
            bridge.stop()
            bridge.close()
            if bridge.error is not None:
                raise bridge.error

    def on_failure(self) -> None:
        """Save, if that is still possible, and leave the graph."""
        bridge, self.bridge = self.bridge, None
        if bridge is not None:
            bridge.stop()
            bridge.close()


def begin_from(node: ManagedNode, learner: Beginner, name: str, run: RunSettings,
               folder: Path) -> None:
    """Let a learner begin with what another run has learned, if it is to and has nothing yet.

    Args:
        node: tells what was taken.
        learner: that has learned nothing.
        name: of the learner, as its checkpoints have it.
        run: says where to begin from.
        folder: of the learner's own checkpoint.

    Raises:
        CheckpointError: what is there does not fit, or nothing was learned there.
    """
    if not run.init_from or recorded_hash(folder):
        return
    found = checkpoint_of(Path(run.init_from), name)
    if found is None:
        node.get_logger().warning(f'{run.init_from} has nothing of a {name}: it begins anew')
        return
    learner.begin_from(found)
    node.get_logger().info(f'{name} begins with what was learned in {found}')


def use_dataset(node: ManagedNode, learner: Trainee, name: str, run: RunSettings, folder: Path,
                wanted: int, task: Any) -> None:
    """Let a learner learn from the dataset of a run as well, if the run has one.

    Args:
        node: tells what is learned from.
        learner: that has learned nothing, and has not restored anything yet.
        name: of the learner, as its checkpoints have it.
        run: says where the dataset is.
        folder: of the learner's own checkpoint.
        wanted: updates from the dataset alone that come before the arm moves.
        task: that the dataset must belong to.

    Raises:
        ConfigError: it cannot be used, or the updates that come before the arm moves are missing:
            they take longer than an arm should be kept waiting for.
        RuntimeError: it cannot be used now, but the run has gone online: a start that is tried
            again may succeed.
    """
    if not run.dataset:
        return
    made = recorded_count(folder, 'offline_updates')
    online = recorded_count(folder, 'next_transition') > 0
    if made < wanted and not online:
        raise ConfigError(f'run.dataset: {made} of {wanted} updates of {name} from {run.dataset} '
                          f'have been made; first: async-mbrl pretrain --run-dir {run.run_dir}')
    try:
        offline = read_offline(task, Path(run.dataset), find_device(run.device))
    except ConfigError as error:
        if not online:
            raise
        # The arm goes on with the policy that it has.
        raise RuntimeError(f'run.dataset: {error}') from None
    learner.use_offline(offline.buffer, offline.digest)
    node.get_logger().info(
        f'{name} learns from {learner.offline_transitions} transitions of {run.dataset} besides; '
        f'{made} updates were made of them before')


def spin(node: ManagedNode) -> None:
    """Serve callbacks until the run is over or a signal.

    Raises:
        ConfigError: the checkpoint does not fit the run, or the run is another one.
        RuntimeError: learning has failed; the reason was published and the cause is chained.
    """
    assert isinstance(node, LearnerNode)
    if serve(node):
        node.get_logger().info('asked to stop: saving')
    error = None if node.bridge is None else node.bridge.error
    if isinstance(error, ConfigError):
        raise error
    if error is not None:
        raise RuntimeError(f'{node.get_name()} has failed') from error
