"""A learner as a managed node."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunSettings
from async_mbrl.learning.checkpoint import CheckpointError, recorded_hash
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
