"""Runs on an emulated clock: the same numbers each time, and as much learning as was stated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import arm7
import pytest

from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.transition import ControlStep, EpisodeCommand, StepKind
from async_mbrl.emulation.command import line
from async_mbrl.emulation.run import EmulatedRun, EmulationError, EmulationSettings, Progress
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.settings import MePpoConfig
from async_mbrl.simulation.offline import OfflineArm

STEPS = 6
SYNC = ScheduleConfig('sync', rollouts=3, model_epochs=4, policy_steps=5)
BLOCKS = ScheduleConfig('interleaved', 3, 4, 5, 'model_policy', blocks=2)
BETWEEN = ScheduleConfig('interleaved', 3, 4, 5, 'data_policy')
ASYNC = ScheduleConfig(model_updates_per_transition=0.75, policy_updates_per_transition=0.25)


def settings(schedule: ScheduleConfig, seed: int = 5, **changes: Any) -> EmulationSettings:
    model = ModelConfig(members=2, hidden=(16,), batch=16, minimum_transitions=2,
                        updates_per_step=1)
    return dataclasses.replace(EmulationSettings(
        seed=seed, robot=arm7.robot(control_rate_hz=100.0),
        plant=arm7.plant(physics_rate_hz=500.0),
        task=arm7.task(episode_steps=STEPS), collection=CollectionConfig(), model=model,
        network=PolicyNetworkConfig((8,), 'tanh', 'clip'), exploration=ExplorationConfig(),
        improvement=MePpoConfig(rollouts=8, horizon=3, value_hidden=(8,), minimum_transitions=2),
        schedule=schedule), **changes)


def outcome(schedule: ScheduleConfig, samples: int, seed: int = 5) -> tuple[bytes, Any, Progress]:
    run = EmulatedRun(settings(schedule, seed), samples)
    progress = run.run()
    curve = [{name: value for name, value in point.items() if name != 'wall_time_s'}
             for point in progress.curve]
    return run.policy_bytes(), (curve, progress.updates, progress.robot_time_s), progress


@pytest.mark.parametrize('schedule', [
    pytest.param(SYNC, id='sync'), pytest.param(ASYNC, id='async'),
    pytest.param(BLOCKS, id='model_policy'), pytest.param(BETWEEN, id='data_policy')])
def test_a_seed_gives_the_same_bits_twice_and_another_seed_others(schedule: ScheduleConfig) -> None:
    first, again, other = (outcome(schedule, 24, seed) for seed in (5, 5, 6))
    assert first[:2] == again[:2]
    assert first[0] != other[0]


def test_coloured_noise_and_noise_on_the_weights_repeat_too() -> None:
    noise = ExplorationConfig(correlation=0.0, color=1.0, parameter_noise=0.2, initial_steps=STEPS)
    found = []
    for exploration in (noise, noise, dataclasses.replace(noise, parameter_noise=0.0)):
        run = EmulatedRun(settings(ASYNC, exploration=exploration), 4 * STEPS)
        progress = run.run()
        found.append((run.policy_bytes(), progress.curve[-1]['return']))
    assert found[0] == found[1]
    assert found[0][1] != found[2][1]
    policy = snapshots.decode(found[0][0])
    assert policy.exploration_color == 1.0
    assert policy.parameter_noise_std > 0.0


def test_async_takes_the_updates_stated_for_each_transition() -> None:
    _, _, progress = outcome(ASYNC, 40)
    assert progress.samples == 40
    # Before there were data, and a model, some were forfeited.
    assert 40 * 0.75 - 2 <= progress.updates['model'] <= 40 * 0.75
    assert 40 * 0.25 - 2 <= progress.updates['policy'] <= 40 * 0.25


def test_sync_learns_only_between_the_rollouts() -> None:
    seen: list[tuple[int, int]] = []
    run = EmulatedRun(settings(SYNC), 2 * 3 * STEPS + 4)
    run.run(lambda progress: seen.append((progress.samples, progress.updates['policy'])))
    for samples, updates in seen:
        assert updates == 5 * (samples // (3 * STEPS))
    assert run.progress.model_epochs == pytest.approx(8.0, abs=1.0)
    # 7 resets, the first one before the first transition; the last episode is cut short.
    assert run.progress.robot_time_s == pytest.approx(40 * 0.1 + 6 * arm7.task().reset_s)
    assert len(run.progress.curve) == 6


def test_interleaving_learns_as_much_in_an_iteration() -> None:
    updates = [outcome(schedule, 2 * 3 * STEPS)[2].updates['policy']
               for schedule in (SYNC, BLOCKS, BETWEEN)]
    assert updates[:2] == [10, 10]
    assert updates[2] == 5 + 5 - 3      # the first two parts had no model yet


def test_a_robot_that_cannot_collect_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(arm: OfflineArm, command: EpisodeCommand, **_how: Any) -> Iterator[ControlStep]:
        yield ControlStep(StepKind.ABORTED, arm.time_s, command.number, command.episode, 0,
                          command.mode, reason='the arm is stuck')

    monkeypatch.setattr(OfflineArm, 'events', abort)
    run = EmulatedRun(settings(SYNC), 10)
    with pytest.raises(EmulationError, match='5 episodes in a row were aborted: the arm is stuck'):
        run.run()


def test_no_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match='samples'):
        EmulatedRun(settings(SYNC), 0)


def test_line_tells_the_time_left() -> None:
    progress = Progress(samples=25, robot_time_s=3.0, elapsed_s=10.0,
                        updates={'model': 50, 'policy': 5})
    assert line(progress, 100) == (
        ' 25 %  25 of 100 samples, 3 s of robot time; return none yet; updates a sample: model 2, '
        'policy 0.2; 30 s left')
