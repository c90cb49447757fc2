"""Reach: bring three points on the tool, and so its full pose, to a goal with raw commands."""

from __future__ import annotations

from typing import Any

import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.robot import ArmConfig, RobotConfig
from async_mbrl.tasks.config import ReachConfig
from async_mbrl.tasks.task import Plan, Verdict


class ReachTask:
    """Reach with an n-joint arm and p tool points.

    Observation, float32, as on the PR2 of Zhang et al. 2019 plus the previous action (needed once
    commands are late) and the goal: joint positions (n, rad), joint velocities (n, rad/s), tool
    points (3p, m), previous applied action (n, normalised), goal (3p, m). The first four make the
    *state*; the goal does not change within an episode.
    """

    def __init__(self, config: ReachConfig, robot: RobotConfig) -> None:
        """Build the task.

        Raises:
            ConfigError: the robot is no arm, or the ranges of the task do not fit its joints.
        """
        if not isinstance(robot, ArmConfig):
            raise ConfigError(f'task.name: {config.name} is for arms, not for robot {robot.name}; '
                              'task and robot do not fit')
        joints, coordinates = robot.joints, 3 * robot.kinematics.points
        center = config.goal_center or robot.home
        if len(center) != joints:
            raise ConfigError(f'task.goal_center: {len(center)} numbers, but robot {robot.name} '
                              f'has {joints} joints; give one for each, or none for home')
        for name, around, middle in (('start_half_range', 'home', robot.home),
                                     ('goal_half_range', 'center', center)):
            half_range = getattr(config, name)
            if len(half_range) != joints:
                raise ConfigError(f'task.{name}: {len(half_range)} numbers, but robot {robot.name} '
                                  f'has {joints} joints; task and robot do not fit: put ranges '
                                  f'of its own into {config.name}.{robot.name}.yaml beside its '
                                  'file')
            for joint, mid, half, low, high in zip(
                    robot.joint_names, middle, half_range, robot.limits.position_lower,
                    robot.limits.position_upper, strict=True):
                if mid - half < low or mid + half > high:
                    raise ConfigError(
                        f'task.{name}: {around} {mid} +- {half} of {joint} leaves its limits '
                        f'[{low}, {high}]; task and robot do not fit')
        self.name = config.name
        self.config = config
        self.robot = robot
        self.joints = joints
        self.action_size = joints
        self.goal_size = coordinates
        self.start_size = joints
        self.state_size = 3 * joints + coordinates
        self.observation_size = self.state_size + coordinates
        self.feature_size = self.state_size + 2 * coordinates
        self.feature_description = (
            f'normalised state, {config.coarse_gain} * error, tanh({config.fine_gain} * error)')
        self.position = slice(0, joints)
        self.velocity = slice(joints, 2 * joints)
        self.tool = slice(2 * joints, 2 * joints + coordinates)
        self.previous_action = slice(2 * joints + coordinates, self.state_size)
        self.goal = slice(self.state_size, self.observation_size)
        self._kinematics = ToolKinematics(robot.kinematics)
        self._home = np.asarray(robot.home)
        self._goal_center = np.asarray(center)
        self._start_half_range = np.asarray(config.start_half_range)
        self._goal_half_range = np.asarray(config.goal_half_range)

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (observation_size,), float32, from measured joints (n,)."""
        tool = self._kinematics.points(position)
        return np.concatenate([position, velocity, tool, previous_action, goal]).astype(np.float32)

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        cost = self.config
        error = next_observation[..., self.tool] - next_observation[..., self.goal]
        speed = xp.square(next_observation[..., self.velocity]).sum(-1)
        effort = xp.square(action).sum(-1)
        costs = -cost.velocity_cost * speed - cost.effort_cost * effort
        if cost.sparse:
            points = xp.square(error.reshape((*error.shape[:-1], -1, 3))).sum(-1)
            arrived = xp.sqrt(points).mean(-1) < cost.success_distance_m
            return cost.reward_scale * (costs + 1.0 * arrived)
        squared = xp.square(error).sum(-1)
        return cost.reward_scale * (costs - squared - xp.log(squared + 1e-5))

    def features(self, xp: Any, observation: Any, state_mean: Any, state_std: Any) -> Any:
        """Input (..., feature_size) of policy and value.

        The state normalised, and the error of the tool points twice: linear for the way there,
        saturating for the last centimetres.
        """
        state = (observation[..., :self.state_size] - state_mean) / state_std
        error = observation[..., self.tool] - observation[..., self.goal]
        return xp.concatenate([state, self.config.coarse_gain * error,
                               xp.tanh(self.config.fine_gain * error)], -1)

    def distance(self, tool: np.ndarray, goal: np.ndarray) -> float:
        """Mean distance of the tool points (3p,) to the goal (3p,), m."""
        error = np.reshape(tool, (-1, 3)) - np.reshape(goal, (-1, 3))
        return float(np.linalg.norm(error, axis=1).mean())

    def terminated(self, observation: np.ndarray) -> np.ndarray:
        """Whether (...) the task ends by itself at observations (..., size): reach never does."""
        return np.zeros(observation.shape[:-1], bool)

    def judge(self, observation: np.ndarray, goal: np.ndarray, ret: float,
              tool: np.ndarray | None) -> Verdict:
        """Judge an episode by where the tool is at its end.

        Args:
            observation: the last one.
            goal: (3p,), m.
            ret: the return; not looked at.
            tool: true tool points (3p,), m, where they are known; None to take those observed.
        """
        del ret
        distance = self.distance(observation[self.tool] if tool is None else tool, goal)
        return Verdict(distance < self.config.success_distance_m, distance)

    def plan(self, rng: np.random.Generator) -> Plan:
        """Draw an episode."""
        start = self.sample_start(rng)
        reached = self.sample_goal_poses(rng, 1)[0]
        return Plan(start, self.tool_points(reached).astype(np.float32), reached)

    def sample_goals(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw goals (count, 3p), m: the tool points of poses drawn around the center."""
        return self._kinematics.points(self.sample_goal_poses(rng, count)).astype(np.float32)

    def sample_goal_poses(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw poses (count, n), rad, whose tool points are goals."""
        offset = rng.uniform(-1.0, 1.0, (count, self.joints)) * self._goal_half_range
        return self._goal_center + offset

    def sample_start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a start pose (n,), rad."""
        return self._home + rng.uniform(-1.0, 1.0, self.joints) * self._start_half_range

    def tool_points(self, position: np.ndarray) -> np.ndarray:
        """Tool points (..., 3p), m, of joint positions (..., n), rad."""
        return self._kinematics.points(position)
