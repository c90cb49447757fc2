"""What the tasks of benchmark bodies have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import BenchmarkConfig, RobotConfig
from async_mbrl.tasks.config import BenchmarkTaskConfig
from async_mbrl.tasks.task import Plan, Verdict


class BenchmarkTask:
    """A task of a benchmark body: it has no goal, and its state is the whole observation.

    Rewards are functions of the normalised action and of the observation that it has led to, the
    same one on numpy and torch, on the robot and in imagination.
    """

    STATES: ClassVar[int]
    """Positions, and velocities, that the driver of the body reports."""
    OBSERVATION: ClassVar[int]
    """Numbers of an observation."""
    ENDS: ClassVar[bool] = True
    """Whether Gymnasium ends an episode before its time."""

    def __init__(self, config: BenchmarkTaskConfig, robot: RobotConfig) -> None:
        """Build the task.

        Raises:
            ConfigError: it is not the task of this robot; or it is to end early, and cannot.
        """
        if not isinstance(robot, BenchmarkConfig) or robot.task != config.name:
            own = f'its task is {robot.task}' if isinstance(robot, BenchmarkConfig) else 'an arm'
            raise ConfigError(f'task.name: {config.name} is not for robot {robot.name} ({own}); '
                              'task and robot do not fit')
        if robot.states != self.STATES:
            raise ConfigError(f'robot.state_joint_names: {robot.states} names, but the body of '
                              f'{config.name} has {self.STATES}; task and robot do not fit')
        if config.terminate and not self.ENDS:
            raise ConfigError(f'task.terminate: true, but {config.name} never ends by itself; '
                              'leave it false')
        self.name = config.name
        self.config = config
        self.robot = robot
        self.action_size = robot.joints
        self.goal_size = 0
        self.start_size = robot.start_size
        self.observation_size = self.state_size = self.feature_size = self.OBSERVATION
        self.feature_description = 'normalised state'
        self._home = np.asarray(robot.home)

    def observe(self, position: np.ndarray, velocity: np.ndarray, previous_action: np.ndarray,
                goal: np.ndarray) -> np.ndarray:
        """Build the observation (observation_size,), float32, from measured states (states,)."""
        raise NotImplementedError

    def reward(self, xp: Any, next_observation: Any, action: Any) -> Any:
        """Reward (...) of having taken action (..., n), normalised, and come to an observation."""
        raise NotImplementedError

    def features(self, xp: Any, observation: Any, state_mean: Any, state_std: Any) -> Any:
        """Input (..., feature_size) of policy and value: the normalised state."""
        del xp
        return (observation - state_mean) / state_std

    def terminated(self, observation: np.ndarray) -> np.ndarray:
        """Whether (...) the episode ends at observations (..., size), where it may."""
        if not self.config.terminate:
            return np.zeros(observation.shape[:-1], bool)
        return ~self.healthy(observation)

    def healthy(self, observation: np.ndarray) -> np.ndarray:
        """Whether (...) Gymnasium would let the episode go on from observations (..., size)."""
        raise NotImplementedError

    def judge(self, observation: np.ndarray, goal: np.ndarray, ret: float,
              tool: np.ndarray | None) -> Verdict:
        """Judge an episode by its return, if a criterion is given."""
        del observation, goal, tool
        if self.config.criterion == 'none':
            return Verdict()
        return Verdict(success=ret >= self.config.success_return)

    def plan(self, rng: np.random.Generator) -> Plan:
        """Draw an episode."""
        return Plan(self.sample_start(rng))

    def sample_start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a start state (2 * states,): positions, then velocities."""
        config = self.config
        position = self._home + config.start_position_noise * rng.uniform(-1.0, 1.0, self.STATES)
        velocity = config.start_velocity_noise * (
            rng.standard_normal(self.STATES) if config.start_velocity_law == 'normal'
            else rng.uniform(-1.0, 1.0, self.STATES))
        self._correct(position, velocity, rng)
        return np.concatenate([position, velocity])

    def sample_goals(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Give (count, 0) goals: there are none."""
        del rng
        return np.zeros((count, 0), np.float32)

    def _correct(self, position: np.ndarray, velocity: np.ndarray,
                 rng: np.random.Generator) -> None:
        """Change a start that was drawn, in place, where it must be something else."""
