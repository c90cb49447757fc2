"""Episodes without ROS and faster than real time, with the control code of the live loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_mbrl.control.core import ControlCore
from async_mbrl.control.policy import PolicyParameters
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand, Mode, StepKind
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.physics import ArmPhysics
from async_mbrl.tasks import TaskConfig, make_task

SETTLE_S = 0.1
"""Duration of the move that begins an episode after the arm was put at its start pose, s."""

_GOALS, _NOISE = 11, 12
"""Numbers that keep the random streams of an evaluation apart from each other and the run's."""


class OfflineArm:
    """A simulated arm and the control loop in lockstep: one tick, then the physics of a period."""

    def __init__(self, physics: ArmPhysics, core: ControlCore, clock: FakeClock) -> None:
        """Couple the two.

        Args:
            physics: the plant.
            core: the control loop of the same robot.
            clock: tells the time of the ticks; moved on by :meth:`run`.

        Raises:
            ConfigError: the control rate does not divide the physics rate.
        """
        ratio = physics.plant.physics_rate_hz / physics.robot.control_rate_hz
        self._steps_per_tick = round(ratio)
        if self._steps_per_tick < 1 or abs(ratio - self._steps_per_tick) > 1e-9:
            raise ConfigError(f'physics_rate_hz: {physics.plant.physics_rate_hz} is no multiple '
                              f'of the control_rate_hz {physics.robot.control_rate_hz}')
        self.physics = physics
        self._core = core
        self._clock = clock
        self._start_s = clock.now()
        self._ticks = 0

    def run(self, command: EpisodeCommand, *, teleport: bool = False,
            observe: Callable[[float], None] | None = None) -> list[ControlStep]:
        """Run an episode to its end or abort.

        Args:
            command: the order, of kind RUN_EPISODE.
            teleport: put the arm at the start pose, at rest, instead of leaving the whole way to
                the move.
            observe: called with the robot time after every control period.

        Returns:
            The events of the control loop. The plant stays as it was when the last one happened.
        """
        if teleport:
            self.physics.reset(command.start_pose)
        self._core.command(command)
        neutral = self.physics.neutral_command()
        rate_hz = self.physics.robot.control_rate_hz
        events: list[ControlStep] = []
        while True:
            time_s = self._start_s + self._ticks / rate_hz
            self._clock.sleep_until(time_s)
            sent = self._core.tick(time_s, *self.physics.measured(), time_s)
            if happened := self._core.drain():
                events += happened
                if events[-1].kind in (StepKind.END, StepKind.ABORTED):
                    # The next episode begins with a tick of its own.
                    self._ticks += 1
                    return events
            for _ in range(self._steps_per_tick):
                self.physics.step(neutral if sent is None else sent)
            self._ticks += 1
            if observe is not None:
                observe(time_s)


@dataclass(frozen=True)
class EvaluationResult:
    """How a policy did on fresh goals.

    Attributes:
        distances: (episodes,) mean distance of the true tool points to the goal at the end, m.
        returns: (episodes,) sums of the rewards.
        successes: (episodes,) whether the episode came to its end within the success distance.
        aborts: reasons of the episodes that were aborted.
    """

    distances: np.ndarray
    returns: np.ndarray
    successes: np.ndarray
    aborts: tuple[str, ...]

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.distances)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return float(self.successes.mean())


def make_offline_arm(snapshot: Snapshot, robot: RobotConfig, plant: PlantConfig, task: Any,
                     network: PolicyNetworkConfig, rng: np.random.Generator) -> OfflineArm:
    """Set up a plant and a control loop that acts by the policy of a snapshot.

    Raises:
        ConfigError: the parts do not fit.
        SnapshotError: the snapshot is no policy for this task and network.
    """
    core = ControlCore(robot, task, network)
    core.set_policy(PolicyParameters.from_snapshot(snapshot))
    return OfflineArm(ArmPhysics(plant, robot, rng), core, FakeClock())


def evaluation_commands(task: Any, snapshot: Snapshot, episodes: int,
                        seed: int) -> list[EpisodeCommand]:
    """Draw evaluation episodes of a policy; the same for the same seed, whatever the policy."""
    rng = np.random.default_rng([seed, _GOALS])
    goals = task.sample_goals(rng, episodes)
    return [EpisodeCommand(
        kind=CommandKind.RUN_EPISODE, number=episode, episode=episode, mode=Mode.EVALUATION,
        start_pose=task.sample_start(rng), move_duration_s=SETTLE_S, goal=goals[episode],
        steps=task.config.episode_steps, policy_version=snapshot.version)
        for episode in range(episodes)]


def evaluate(snapshot: Snapshot, robot: RobotConfig, plant: PlantConfig, task: TaskConfig,
             network: PolicyNetworkConfig, episodes: int, seed: int) -> EvaluationResult:
    """Judge the mean of a policy by true tool positions on goals drawn afresh.

    Args:
        snapshot: the policy.
        robot: the robot.
        plant: the plant.
        task: the task.
        network: network of the policy.
        episodes: number of episodes, at least 1.
        seed: seed of goals, start poses and sensor noise.

    Raises:
        ConfigError: the parts do not fit.
        SnapshotError: the snapshot is no policy for this task and network.
    """
    built = make_task(task, robot)
    arm = make_offline_arm(snapshot, robot, plant, built, network,
                           np.random.default_rng([seed, _NOISE]))
    distances, returns, successes, aborts = [], [], [], []
    for command in evaluation_commands(built, snapshot, episodes, seed):
        events = arm.run(command, teleport=True)
        distance = built.distance(arm.physics.tool_points(), command.goal)
        ended = events[-1].kind == StepKind.END
        if not ended:
            aborts.append(events[-1].reason)
        distances.append(distance)
        returns.append(_return_of(built, events))
        successes.append(ended and distance < task.success_distance_m)
    return EvaluationResult(np.array(distances), np.array(returns), np.array(successes),
                            tuple(aborts))


def _return_of(task: Any, events: list[ControlStep]) -> float:
    seen = [event for event in events if event.kind in (StepKind.STEP, StepKind.END)]
    if len(seen) < 2:
        return 0.0
    observations = np.stack([event.observation for event in seen[1:]])
    actions = np.stack([event.previous_action_applied for event in seen[1:]])
    return float(task.reward(np, observations, actions).sum())
