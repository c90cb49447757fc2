"""Small pieces for tests of learning: a two-joint arm whose motion is known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from async_mbrl.core.config import load
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.transition import Transition
from async_mbrl.tasks import ReachTask, TaskConfig

ROBOT: dict[str, Any] = {
    'name': 'two_joints', 'joint_names': ['shoulder', 'elbow'], 'command_interface': 'effort',
    'action_scale': [1.0, 1.0], 'home': [0.3, -0.6], 'control_rate_hz': 100.0,
    'gravity_compensated': True, 'state_timeout_s': 0.05,
    'limits': {'position_lower': [-3.0, -3.0], 'position_upper': [3.0, 3.0],
               'velocity': [5.0, 5.0], 'acceleration': [100.0, 100.0], 'jerk': [1e4, 1e4],
               'effort': [2.0, 2.0], 'effort_rate': [200.0, 200.0],
               'braking_acceleration': [50.0, 50.0]},
    'model': '', 'workspace': {'lower': [-2.0, -2.0, -1.0], 'upper': [2.0, 2.0, 1.0],
                               'minimum_height_m': -1.0, 'braking_acceleration': 5.0},
    'move': {'stiffness': [10.0, 10.0], 'damping': [2.0, 2.0], 'velocity': [1.0, 1.0]},
    'kinematics': {
        'joint_positions': [0.0, 0.0, 0.5, 0.3, 0.0, 0.0],
        'joint_quaternions': [1.0, 0.0, 0.0, 0.0] * 2,
        'joint_axes': [0.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        'tool_points': [0.2, 0.0, 0.0, 0.1, 0.05, 0.0]}}
TASK: dict[str, Any] = {
    'name': 'reach', 'policy_rate_hz': 10.0, 'episode_steps': 15, 'reset_s': 1.0,
    'start_half_range': [0.05, 0.05], 'goal_half_range': [0.5, 0.5], 'success_distance_m': 0.02,
    'success_rate': 0.9, 'velocity_cost': 0.0125, 'effort_cost': 0.05, 'reward_scale': 0.1,
    'coarse_gain': 4.0, 'fine_gain': 20.0}
PERIOD_S = 0.1


def make_task() -> ReachTask:
    """Reach with the two-joint arm."""
    return ReachTask(load(TaskConfig, TASK), load(RobotConfig, ROBOT))


class Plant:
    """A damped double integrator in each joint: qd' = 0.8 qd + 0.5 a, q' = q + 0.1 qd'."""

    DAMPING, GAIN = 0.8, 0.5

    def __init__(self, task: ReachTask, seed: int = 0) -> None:
        self.task = task
        self.rng = np.random.default_rng(seed)
        self.number = self.episode = 0

    def advance(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        task = self.task
        velocity = self.DAMPING * observation[task.velocity] + self.GAIN * action
        position = observation[task.position] + PERIOD_S * velocity
        return task.observe(position, velocity, action, observation[task.goal])

    def start(self) -> np.ndarray:
        """First observation of an episode."""
        still = np.zeros(self.task.joints)
        goal = self.task.sample_goals(self.rng, 1)[0]
        return self.task.observe(self.task.sample_start(self.rng), still, still, goal)

    def run(self, act: Any, steps: int | None = None) -> list[Transition]:
        """Give the transitions of one episode in which ``act(observation)`` acts."""
        steps = steps or self.task.config.episode_steps
        observation, transitions = self.start(), []
        for step in range(steps):
            action = np.clip(act(observation), -1.0, 1.0).astype(np.float32)
            following = self.advance(observation, action)
            transitions.append(Transition(
                number=self.number, episode=self.episode, step=step, observation=observation,
                action_requested=action, action_applied=action, next_observation=following,
                reward=float(self.task.reward(np, following, action)), terminated=False,
                truncated=step == steps - 1))
            self.number += 1
            observation = following
        self.episode += 1
        return transitions

    def explore(self, episodes: int) -> list[Transition]:
        """Give the transitions of episodes of random actions."""
        return [transition for _ in range(episodes) for transition in self.run(
            lambda _: self.rng.uniform(-1.0, 1.0, self.task.action_size))]
