"""What the tests of the controller share: a robot, a policy, and a simple plant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from async_mbrl.core.config import load, read_yaml
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Snapshot, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode
from async_mbrl.tasks import ReachTask, TaskConfig

CONFIG = Path(__file__).resolve().parents[1] / 'config'
JOINTS = 7
FIRST = Version(1, 0)
NETWORK = PolicyNetworkConfig((16, 16), 'tanh', 'clip')
CHAIN = {
    'joint_positions': [0.0, 0.0, 0.2] * JOINTS,
    'joint_quaternions': [1.0, 0.0, 0.0, 0.0] * JOINTS,
    'joint_axes': [0.0, 0.0, 1.0, 0.0, 1.0, 0.0] * 3 + [0.0, 0.0, 1.0],
    'tool_points': [0.1, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.1],
}


def robot_mapping(**changes: Any) -> dict[str, Any]:
    """Give the demo arm with a made-up chain, so that no simulator is needed."""
    return {**read_yaml(CONFIG / 'robots' / 'arm7.yaml'), 'kinematics': CHAIN, **changes}


def make_robot(**changes: Any) -> RobotConfig:
    return load(RobotConfig, robot_mapping(**changes))


def make_reach(robot: RobotConfig) -> ReachTask:
    return ReachTask(load(TaskConfig, read_yaml(CONFIG / 'tasks' / 'reach.yaml')), robot)


def make_snapshot(task: ReachTask, version: Version = FIRST, *, bias: float = 0.0,
                  std: float = 0.0, correlation: float = 0.0, network: Any = NETWORK,
                  **tensors: np.ndarray) -> Snapshot:
    """Give a policy whose mean is ``bias`` everywhere."""
    sizes = [task.feature_size, *network.hidden, task.action_size]
    content = {'state_mean': np.zeros(task.state_size, np.float32),
               'state_std': np.ones(task.state_size, np.float32)}
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        content[f'layer{i}.weight'] = np.zeros((outputs, inputs), np.float32)
        content[f'layer{i}.bias'] = np.full(outputs, bias, np.float32)
    content.update(tensors)
    return Snapshot('policy', version, policy_architecture(network, task), content,
                    exploration_std=std, exploration_correlation=correlation)


def episode(robot: RobotConfig, number: int = 0, **changes: Any) -> EpisodeCommand:
    """Give the order to run a short episode from home."""
    fields: dict[str, Any] = {
        'kind': CommandKind.RUN_EPISODE, 'number': number, 'episode': number,
        'mode': Mode.LEARNING, 'start_pose': np.array(robot.home), 'move_duration_s': 0.5,
        'goal': np.zeros(9, np.float32), 'steps': 3, 'seed': 1, **changes}
    return EpisodeCommand(**fields)


class InertiaPlant:
    """Joints that do not feel each other, each as heavy as its braking acceleration says."""

    def __init__(self, robot: RobotConfig, position: np.ndarray | None = None) -> None:
        self.position = np.array(robot.home if position is None else position, np.float64)
        self.velocity = np.zeros(robot.joints)
        limits = robot.limits
        self.inertia = np.array(limits.effort) / np.array(limits.braking_acceleration)
        self.friction = 2.0 * self.inertia

    def step(self, effort: np.ndarray | None, period_s: float) -> None:
        """Advance under torques, N m; None sends nothing."""
        if effort is None:
            effort = np.zeros_like(self.position)
        acceleration = (effort - self.friction * self.velocity) / self.inertia
        self.velocity = self.velocity + period_s * acceleration
        self.position = self.position + period_s * self.velocity
