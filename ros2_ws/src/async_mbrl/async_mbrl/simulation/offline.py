"""Episodes without ROS and faster than real time, with the control code of the live loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
from async_mbrl.simulation.body import make_physics
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.physics import Physics
from async_mbrl.tasks import TaskConfig, make_task

SETTLE_S = 0.1
"""Duration of the start of an episode after the robot was put where that is, s."""

_GOALS, _NOISE = 11, 12
"""Numbers that keep the random streams of an evaluation apart from each other and the run's."""


class OfflineArm:
    """A simulated robot and the control loop in lockstep: one tick, then the physics of a period.

    The robot may be an arm or a benchmark body, which starts each episode in a state that it is
    put into.
    """

    def __init__(self, physics: Physics, core: ControlCore, clock: FakeClock) -> None:
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

    @property
    def time_s(self) -> float:
        """Robot time of the next tick, s."""
        return self._start_s + self._ticks / self.physics.robot.control_rate_hz

    def run(self, command: EpisodeCommand, *, teleport: bool = False,
            observe: Callable[[float], None] | None = None) -> list[ControlStep]:
        """Run an episode to its end or abort; see :meth:`events`.

        Returns:
            The events of the control loop. The plant stays as it was when the last one happened.
        """
        return list(self.events(command, teleport=teleport, observe=observe))

    def events(self, command: EpisodeCommand, *, teleport: bool = False,
               observe: Callable[[float], None] | None = None) -> Iterator[ControlStep]:
        """Run an episode to its end or abort, event by event of the control loop.

        Time stands still while the caller looks at an event; a policy that the control loop is
        handed meanwhile acts from the next tick on.

        Args:
            command: the order, of kind RUN_EPISODE.
            teleport: put an arm at the start pose, at rest, instead of leaving the whole way to
                the move.
            observe: called with the robot time after every control period.
        """
        if teleport and self.physics.robot.kind == 'arm':
            self.physics.reset(command.start_pose)
            # What is sent must not go on from where the arm was before.
            self._core.enable(False)
            self._core.release()
            self._core.enable(True)
        self._core.command(command)
        neutral = self._neutral()
        while True:
            time_s = self.time_s
            self._clock.sleep_until(time_s)
            sent = self._core.tick(time_s, *self.physics.measured(), time_s)
            if (wanted := self._core.wanted_state()) is not None:
                self.physics.reset(wanted)
            happened = self._core.drain()
            ended = bool(happened) and happened[-1].kind in (StepKind.END, StepKind.ABORTED)
            if ended:
                # The next episode begins with a tick of its own.
                self._ticks += 1
            yield from happened
            if ended:
                return
            for _ in range(self._steps_per_tick):
                self.physics.step(neutral if sent is None else sent)
            self._ticks += 1
            if observe is not None:
                observe(time_s)

    def _neutral(self) -> np.ndarray | None:
        """Give what is in force before the first command; a body has to stay where it was put."""
        return self.physics.neutral_command() if self.physics.robot.kind == 'arm' else None


@dataclass(frozen=True)
class EvaluationResult:
    """How a policy did on fresh goals.

    Attributes:
        returns: (episodes,) sums of the rewards.
        distances: (episodes,) mean distance of the true tool points to the goal at the end, m;
            None for a task without goals.
        successes: (episodes,) whether the episode came to its end and succeeded; None for a task
            that does not say what success is.
        aborts: reasons of the episodes that were aborted.
    """

    returns: np.ndarray
    distances: np.ndarray | None
    successes: np.ndarray | None
    aborts: tuple[str, ...]

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes that succeeded; None where success is not defined."""
        return None if self.successes is None else float(self.successes.mean())


def make_offline_arm(snapshot: Snapshot, robot: RobotConfig, plant: PlantConfig, task: Any,
                     network: PolicyNetworkConfig, rng: np.random.Generator) -> OfflineArm:
    """Set up a plant and a control loop that acts by the policy of a snapshot.

    Raises:
        ConfigError: the parts do not fit.
        SnapshotError: the snapshot is no policy for this task and network.
    """
    core = ControlCore(robot, task, network)
    core.set_policy(PolicyParameters.from_snapshot(snapshot))
    return OfflineArm(make_physics(plant, robot, rng), core, FakeClock())


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
    """Judge the mean of a policy on goals and starts drawn afresh; arms by true tool positions.

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
    returns, verdicts, aborts = [], [], []
    for command in evaluation_commands(built, snapshot, episodes, seed):
        events = arm.run(command, teleport=True)
        ended = events[-1].kind == StepKind.END
        if not ended:
            aborts.append(events[-1].reason)
        returns.append(_return_of(built, events))
        verdict = built.judge(events[-1].observation, command.goal, returns[-1],
                              arm.physics.tool_points())
        verdicts.append(verdict if ended or verdict.success is None
                        else dataclasses.replace(verdict, success=False))
    return EvaluationResult(
        np.array(returns), _column([verdict.distance_m for verdict in verdicts]),
        _column([verdict.success for verdict in verdicts]), tuple(aborts))


def _column(values: list[Any]) -> np.ndarray | None:
    return None if any(value is None for value in values) else np.array(values)


def _return_of(task: Any, events: list[ControlStep]) -> float:
    seen = [event for event in events if event.kind in (StepKind.STEP, StepKind.END)]
    if len(seen) < 2:
        return 0.0
    observations = np.stack([event.observation for event in seen[1:]])
    actions = np.stack([event.previous_action_applied for event in seen[1:]])
    return float(task.reward(np, observations, actions).sum())
