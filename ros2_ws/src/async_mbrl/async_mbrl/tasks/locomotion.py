"""Running forwards with the bodies of Gymnasium: half-cheetah, hopper, walker, ant, swimmer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from async_mbrl.core.robot import RobotConfig
from async_mbrl.tasks.benchmark import BenchmarkTask
from async_mbrl.tasks.config import LocomotionConfig


class Locomotion(BenchmarkTask):
    """Run forwards; the observation is the state without the place of the root.

    Observation, float32: positions but for the first ``HIDDEN`` ones, then velocities. Velocity
    and height are those after the step everywhere: the released code of Zhang et al. 2019 takes
    the ones before it on the robot, for some bodies.
    """

    HIDDEN: ClassVar[int] = 1
    """Positions, the first ones, that are not observed: those that the task does not depend on."""
    PADDING: ClassVar[tuple[int, ...]] = ()
    """Velocities, by their place, that only stand for the fourth number of a quaternion."""

    def __init__(self, config: LocomotionConfig, robot: RobotConfig) -> None:
        """Build the task; see :class:`BenchmarkTask`."""
        super().__init__(config, robot)
        self.forward = self.STATES - self.HIDDEN
        """Place of the forward velocity in the observation."""
        self._config = config
        self._velocities = np.delete(np.arange(self.STATES), self.PADDING)

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (observation_size,), float32, from measured states (states,)."""
        del previous_action, goal
        return np.concatenate([position[self.HIDDEN:],
                               velocity[self._velocities]]).astype(np.float32)

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        config = self._config
        reward = (next_observation[..., self.forward]
                  - config.action_cost * xp.square(action).sum(-1) + config.alive_reward)
        if config.height_cost:
            reward = reward - config.height_cost * xp.square(
                next_observation[..., 0] - config.target_height_m)
        return reward


class HalfCheetah(Locomotion):
    """Observation: height, pitch, 6 joints (rad), their velocities with that forwards first."""

    STATES, OBSERVATION, ENDS = 9, 17, False


class Hopper(Locomotion):
    """Observation: height, pitch, 3 joints (rad), their velocities with that forwards first."""

    STATES, OBSERVATION = 6, 11

    def healthy(self, observation: np.ndarray) -> np.ndarray:
        """Stands, and nothing is beyond 100 (Gymnasium, Hopper-v5)."""
        healthy: np.ndarray = (
            np.isfinite(observation).all(-1) & (np.abs(observation[..., 1:]) < 100.0).all(-1)
            & (observation[..., 0] > 0.7) & (np.abs(observation[..., 1]) < 0.2))
        return healthy


class Walker2d(Locomotion):
    """Observation: height, pitch, 6 joints (rad), their velocities with that forwards first."""

    STATES, OBSERVATION = 9, 17

    def healthy(self, observation: np.ndarray) -> np.ndarray:
        """Stands upright (Gymnasium, Walker2d-v5)."""
        height, pitch = observation[..., 0], observation[..., 1]
        healthy: np.ndarray = (height > 0.8) & (height < 2.0) & (np.abs(pitch) < 1.0)
        return healthy


class Ant(Locomotion):
    """Observation: height, orientation as a quaternion, 8 joints (rad), 14 velocities.

    The velocities are those of the root, linear, then angular, then of the joints.
    """

    STATES, OBSERVATION, HIDDEN, PADDING = 15, 27, 2, (3,)

    def healthy(self, observation: np.ndarray) -> np.ndarray:
        """Neither lies nor flies (Gymnasium, Ant-v5)."""
        healthy: np.ndarray = (np.isfinite(observation).all(-1) & (observation[..., 0] >= 0.2)
                               & (observation[..., 0] <= 1.0))
        return healthy

    def _correct(self, position: np.ndarray, velocity: np.ndarray,
                 rng: np.random.Generator) -> None:
        # Noise is added to the quaternion, too, as Gymnasium does; the simulator normalises it.
        position[3:7] /= math.sqrt(float(position[3:7] @ position[3:7]))
        velocity[3] = 0.0


class Swimmer(Locomotion):
    """Observation: pitch, 2 joints (rad), 5 velocities, that forwards first.

    Gymnasium rewards the mean forward velocity over a step, which no observation holds; here it is
    that after the step.
    """

    STATES, OBSERVATION, ENDS, HIDDEN = 5, 8, False, 2
