"""The use of what was learned: goals from outside, checked, and gone to one after the other."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np

from async_mbrl.collection.collector import Clearance, CollectionConfig, Collector, EpisodeResult
from async_mbrl.collection.course import Course, Phase, Surroundings
from async_mbrl.collection.phases import POLICY_LEARNER
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.robot import ArmConfig
from async_mbrl.core.transition import EpisodeCommand

REACHED_M = 0.002
"""Greatest distance of a tool point to a goal that the arm can be said to reach."""

_SEEDS, _ITERATIONS, _DAMPING, _STEP_RAD = 24, 60, 1e-3, 0.3
_OUTCOMES = 1000
_FRAME = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class GoalError(ValueError):
    """A goal is refused; the message says why."""


class ToolFrame:
    """Pose of the tool: of the link that carries its points if one is named, or the last joint."""

    def __init__(self, robot: ArmConfig) -> None:
        """Take the kinematics of a robot."""
        chain = robot.kinematics
        frame = chain.tool_frame or _FRAME
        origin, *axes = np.reshape(frame, (4, 3))
        rotation = (np.array(axes) - origin).T
        self._points = (np.reshape(chain.tool_points, (-1, 3)) - origin) @ rotation
        self._kinematics = ToolKinematics(dataclasses.replace(chain, tool_points=frame))

    def pose(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give origin (3,), m, and rotation matrix (3, 3) in the base frame, of joints (n,)."""
        corners = np.reshape(self._kinematics.points(position), (4, 3))
        return corners[0], (corners[1:] - corners[0]).T

    def goal(self, origin: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
        """Give the tool points (3p,), m, of a pose of the frame; quaternion x, y, z, w."""
        x, y, z, w = quaternion / np.linalg.norm(quaternion)
        rotation = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])
        return np.asarray((origin + self._points @ rotation.T).ravel(), np.float32)


class GoalCheck:
    """Decide whether a goal may be given to the arm."""

    def __init__(self, robot: ArmConfig, task: Any, clearance: Clearance, seed: int) -> None:
        """Take the limits of a robot.

        Args:
            robot: limits, workspace, kinematics, frame.
            task: its tool points are what a goal is.
            clearance: tells collisions.
            seed: of the poses that the search for a pose begins at.
        """
        self._robot = robot
        self._task = task
        self._clearance = clearance
        self._frame = ToolFrame(robot)
        self._lower = np.asarray(robot.limits.position_lower)
        self._upper = np.asarray(robot.limits.position_upper)
        self._seeds = np.random.default_rng(seed).uniform(
            self._lower, self._upper, (_SEEDS, robot.joints))
        self._seeds[0] = robot.home

    def check(self, frame: str, origin: np.ndarray, quaternion: np.ndarray,
              position: np.ndarray | None) -> np.ndarray:
        """Give the goal (3p,), m, of a pose of the tool frame.

        Args:
            frame: that the pose is given in.
            origin: of the tool frame (3,), m.
            quaternion: orientation of the tool frame, x, y, z, w; of any length but 0.
            position: where the arm is (n,), rad, None where it is not known.

        Raises:
            GoalError: another frame, not finite, outside the workspace, out of reach, or only to
                be reached in collision.
        """
        if frame != self._robot.base_frame:
            raise GoalError(f'frame {frame!r}; give the pose in {self._robot.base_frame!r}')
        if not (np.isfinite(origin).all() and np.isfinite(quaternion).all()):
            raise GoalError('a coordinate is not finite')
        if not np.linalg.norm(quaternion) > 1e-6:
            raise GoalError('the quaternion of its orientation is 0')
        goal = self._frame.goal(origin, quaternion)
        self._check_workspace(np.reshape(goal, (-1, 3)))
        seeds = self._seeds if position is None else np.vstack([position, self._seeds])
        poses, distances = self._solve(goal.astype(float), seeds)
        reached = poses[distances <= REACHED_M]
        if not len(reached):
            raise GoalError(f'out of reach: {1e3 * distances.min():.0f} mm away from it at best')
        flaws = [self._clearance.flaw(pose) for pose in reached]
        if all(flaws):
            raise GoalError(f'only to be reached in collision: {flaws[0]}')
        return goal

    def _check_workspace(self, points: np.ndarray) -> None:
        space = self._robot.workspace
        lower = np.maximum(space.lower, [-np.inf, -np.inf, space.minimum_height_m])
        for point in points:
            if (point < lower).any() or (point > space.upper).any():
                raise GoalError(f'tool point {np.round(point, 3).tolist()} is outside the '
                                f'workspace, {lower.tolist()} to {list(space.upper)}')

    def _solve(self, goal: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search poses (k, n) within the limits for a goal; give them and their distances (k,)."""
        joints = poses.shape[1]
        nudges = np.vstack([np.zeros(joints), 1e-6 * np.eye(joints)])
        for _ in range(_ITERATIONS):
            points = self._task.tool_points(poses[:, None] + nudges)
            error = points[:, 0] - goal
            jacobian = np.swapaxes(points[:, 1:] - points[:, :1], 1, 2) / 1e-6
            square = np.swapaxes(jacobian, 1, 2) @ jacobian + _DAMPING**2 * np.eye(joints)
            slope = np.swapaxes(jacobian, 1, 2) @ error[..., None]
            step = np.linalg.solve(square, slope)[..., 0]
            poses = np.clip(poses - np.clip(step, -_STEP_RAD, _STEP_RAD), self._lower, self._upper)
        error = np.reshape(self._task.tool_points(poses) - goal, (len(poses), -1, 3))
        return poses, np.linalg.norm(error, axis=2).max(1)


class GoalSequence(Course):
    """Run episodes towards the newest goal, from where the arm is, until the next one comes.

    Attributes:
        received: goals heard of.
        refused: of these, the ones that were not taken.
        last_refusal: why the last of them was not taken.
        goals: goals that the arm was sent to.
        reached: of these, the ones at which an episode ended within the success distance.
        episodes: episodes that ran to their end.
    """

    def __init__(self, config: CollectionConfig, collector: Collector,
                 progress_timeout_s: float) -> None:
        """Begin by waiting; see :class:`Course`."""
        super().__init__(config, collector, progress_timeout_s,
                         tuple(name for name in config.learners if name == POLICY_LEARNER))
        self.received = self.refused = self.goals = self.reached = self.episodes = 0
        self.last_refusal = ''
        self.goal: np.ndarray | None = None
        """The newest goal (3p,), m; None before there is one."""
        self._distances: deque[float] = deque(maxlen=_OUTCOMES)
        self._sent: np.ndarray | None = None
        self._hit = self._ended = False

    def take(self, goal: np.ndarray) -> None:
        """Take a goal (3p,), m, in place of the one before."""
        self.received += 1
        self.goal = goal

    def refuse(self, reason: str) -> None:
        """Count a goal that was refused."""
        self.received += 1
        self.refused += 1
        self.last_refusal = reason

    def to_mapping(self) -> dict[str, object]:
        """Give what came of the goals, as it stands in the summary.

        Distances are those at the end of the last episode of each goal, of the newest 1000.
        """
        distances = list(self._distances)
        return {
            'received': self.received, 'refused': self.refused,
            'last_refusal': self.last_refusal, 'sent': self.goals, 'reached': self.reached,
            'episodes': self.episodes,
            'final_distance_m': {
                'median': float(np.median(distances)) if distances else None,
                'p95': float(np.percentile(distances, 95)) if distances else None}}

    def _step(self, seen: Surroundings, now_s: float, number: int) -> EpisodeCommand | None:
        if self.phase == Phase.WAITING:
            self._begin(seen, now_s, Phase.EVALUATING)
            return None
        controller = seen.controller
        assert controller is not None
        replaced = self.goal is not self._sent
        if self._collector.open and not replaced:
            self._stuck(controller, now_s)
            return None
        if self.goal is None:
            self.reason = 'waiting for a goal'
            return None
        if self._retrying(now_s):
            return None
        self.reason = ''
        if replaced:
            self._sent, self._hit, self._ended = self.goal, False, False
            self.goals += 1
        return self._collector.goal_command(number, self.goal)

    def _judged(self, result: EpisodeResult) -> None:
        self.episodes += 1
        assert result.success is not None and result.distance_m is not None    # of an arm
        self.reached += result.success and not self._hit
        self._hit |= result.success
        if self._ended:
            self._distances.pop()
        self._distances.append(result.distance_m)
        self._ended = True
