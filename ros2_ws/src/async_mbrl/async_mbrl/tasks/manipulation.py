"""Small tasks of Gymnasium: reacher, pusher, inverted pendulum.

Gymnasium takes the places of bodies from before the last step of the simulator, angles and slides
from after it; here all of them are those after it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from async_mbrl.core.kinematics import KinematicChain, ToolKinematics
from async_mbrl.core.robot import RobotConfig
from async_mbrl.tasks.benchmark import BenchmarkTask
from async_mbrl.tasks.config import InvertedPendulumConfig, PusherConfig

_UPPER_M, _LOWER_M = 0.1, 0.11
"""Lengths of the links of the reacher, reacher.xml."""

_PUSHER_ARM = KinematicChain(
    joint_positions=(0.0, -0.6, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0,
                     0.321, 0.0, 0.0, 0.0, 0.0, 0.0),
    joint_quaternions=(1.0, 0.0, 0.0, 0.0) * 7,
    joint_axes=(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0,
                0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
    tool_points=(0.0, 0.0, 0.0))
"""The arm of the pusher, from the base to its body tips_arm, pusher_v5.xml."""

_OBJECT = np.array([0.45, -0.05, -0.275])
_GOAL = np.array([0.45, -0.05, -0.323])
"""Where the object and the goal of the pusher are while their slides read 0, m, pusher_v5.xml."""


class Reacher(BenchmarkTask):
    """Bring the tip of two links to a target.

    Observation, float32: cosines and sines of both joints, target (m), speeds (rad/s), vector from
    the target to the tip (m). Reward: -distance - action_cost |a|^2, after the step (Gymnasium,
    Reacher-v5).
    """

    STATES, OBSERVATION, ENDS = 4, 10, False

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (10,), float32, from measured states (4,)."""
        del previous_action, goal
        angle, target = position[:2], position[2:]
        ahead = angle[0] + angle[1]
        tip = (_UPPER_M * np.array([math.cos(angle[0]), math.sin(angle[0])])
               + _LOWER_M * np.array([math.cos(ahead), math.sin(ahead)]))
        return np.concatenate([np.cos(angle), np.sin(angle), target, velocity[:2],
                               tip - target]).astype(np.float32)

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        distance = xp.sqrt(xp.square(next_observation[..., 8:]).sum(-1))
        return -distance - self.config.action_cost * xp.square(action).sum(-1)

    def _correct(self, position: np.ndarray, velocity: np.ndarray,
                 rng: np.random.Generator) -> None:
        while True:
            position[2:] = rng.uniform(-0.2, 0.2, 2)
            if math.hypot(*position[2:]) < 0.2:
                break
        velocity[2:] = 0.0


class Pusher(BenchmarkTask):
    """Push an object to a goal with an arm of 7 joints.

    Observation, float32: joints (rad) and their speeds (rad/s), then tip, object and goal (m).
    """

    STATES, OBSERVATION, ENDS = 11, 23, False

    def __init__(self, config: PusherConfig, robot: RobotConfig) -> None:
        """Build the task; see :class:`BenchmarkTask`."""
        super().__init__(config, robot)
        self._near_weight = config.near_weight
        self._kinematics = ToolKinematics(_PUSHER_ARM)

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (23,), float32, from measured states (11,)."""
        del previous_action, goal
        thing, place = _OBJECT.copy(), _GOAL.copy()
        thing[1::-1] += position[7:9]       # the slide along y comes first
        place[1::-1] += position[9:11]
        return np.concatenate([position[:7], velocity[:7], self._kinematics.points(position[:7]),
                               thing, place]).astype(np.float32)

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        tip, thing, place = (next_observation[..., begin:begin + 3] for begin in (14, 17, 20))
        near = xp.sqrt(xp.square(thing - tip).sum(-1))
        away = xp.sqrt(xp.square(thing - place).sum(-1))
        return (-away - self._near_weight * near
                - self.config.action_cost * xp.square(action).sum(-1))

    def _correct(self, position: np.ndarray, velocity: np.ndarray,
                 rng: np.random.Generator) -> None:
        while True:
            position[7:9] = rng.uniform((-0.3, -0.2), (0.0, 0.2))
            if math.hypot(*position[7:9]) > 0.17:
                break
        position[9:] = 0.0
        velocity[7:] = 0.0


class InvertedPendulum(BenchmarkTask):
    """Balance a pole on a cart; observation: place (m) and angle (rad), and their velocities."""

    STATES, OBSERVATION = 2, 4

    def __init__(self, config: InvertedPendulumConfig, robot: RobotConfig) -> None:
        """Build the task; see :class:`BenchmarkTask`."""
        super().__init__(config, robot)
        self._upright_rad = config.upright_rad

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (4,), float32, from measured states (2,)."""
        del previous_action, goal
        return np.concatenate([position, velocity]).astype(np.float32)

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        return (1.0 * (xp.abs(next_observation[..., 1]) <= self._upright_rad)
                - self.config.action_cost * xp.square(action).sum(-1))

    def healthy(self, observation: np.ndarray) -> np.ndarray:
        """Whether the pole stands."""
        healthy: np.ndarray = (np.isfinite(observation).all(-1)
                               & (np.abs(observation[..., 1]) <= self._upright_rad))
        return healthy
