"""A learner as a managed node."""

from __future__ import annotations

from async_mbrl.core.config import ConfigError
from async_mbrl.learning.checkpoint import CheckpointError
from async_mbrl.ros.bridged_node import BridgedNode, serve
from async_mbrl.ros.learner_bridge import LearnerBridge
from async_mbrl.ros.lifecycle import ManagedNode


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
