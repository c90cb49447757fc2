"""Runs with a benchmark body: how they are put together, and what they come to."""

from __future__ import annotations

import shutil
from pathlib import Path

import arm7
import bodies
import numpy as np
import pytest
import yaml

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose, recompose
from async_mbrl.collection.collector import CollectionConfig, Collector, EpisodeResult
from async_mbrl.collection.phases import Check
from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Mode, StepKind
from async_mbrl.reporting.outcome import closing_rows, figures, succeeded
from async_mbrl.simulation.offline import make_offline_arm

NOWHERE = Path('/nowhere')


@pytest.fixture
def share(tmp_path: Path) -> Path:
    shutil.copytree(arm7.CONFIG, tmp_path / 'share/config')
    return tmp_path / 'share'


@pytest.mark.parametrize('name', bodies.NAMES)
def test_a_body_does_its_own_task_by_default(share: Path, name: str) -> None:
    composition = compose(RunRequest(robot=name), share, NOWHERE)
    assert composition.task.name == composition.robot.name == name
    assert composition.model.kind == 'plain'
    assert recompose(yaml.safe_load(composition.to_yaml()), Path('config.yaml')) == composition
    assert compose(RunRequest(), share, NOWHERE).task.name == 'reach'


@pytest.mark.parametrize(('request_', 'message'), [
    (RunRequest(robot='half_cheetah', where='real'), 'exists only in simulation'),
    (RunRequest(robot='half_cheetah', task='reach'), 'reach is for arms, not for robot half_ch'),
    (RunRequest(robot='half_cheetah', task='ant'), 'ant is not for robot half_cheetah'),
    (RunRequest(task='hopper'), r'hopper is not for robot arm7 \(an arm\)'),
    (RunRequest(robot='ant', set=('model.kind=structured',)), 'no kinematics is known; use plain'),
    (RunRequest(robot='ant', set=('task.alive_bonus=1.0',)), 'alive_bonus: unknown key'),
])
def test_what_does_not_fit_is_refused(share: Path, request_: RunRequest, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(request_, share, NOWHERE)


def test_settings_of_an_algorithm_may_differ_for_bodies(share: Path) -> None:
    folder = share / 'config/algorithms'
    (folder / 'me_ppo.benchmark.yaml').write_text('model: {members: 3}\nimprovement: {clip: 0.3}')
    (folder / 'me_ppo.ant.yaml').write_text('model: {members: 7}')
    before = compose(RunRequest(), share, NOWHERE)
    unnamed = yaml.safe_load((folder / 'me_ppo.yaml').read_text())['model']['hidden']
    hopper = compose(RunRequest(robot='hopper'), share, NOWHERE)
    ant = compose(RunRequest(robot='ant'), share, NOWHERE)
    assert (hopper.model.members, hopper.improvement.clip) == (3, 0.3)
    assert (ant.model.members, ant.improvement.clip) == (7, 0.3)
    assert list(ant.model.hidden) == unnamed
    assert (before.model.members, before.model.kind) == (5, 'structured')
    (folder / 'me_ppo.ant.yaml').write_text('modell: {members: 7}')
    with pytest.raises(ConfigError, match=r'modell: unknown key \(in .*me_ppo.ant.yaml\)'):
        compose(RunRequest(robot='ant'), share, NOWHERE)


def collect(name: str, episodes: int, **changes) -> tuple[Collector, list]:
    """Collect learning episodes without ROS."""
    task = bodies.task(name, **changes)
    collector = Collector(task, CollectionConfig(motion_time_s=1000.0), seed=0)
    policy = arm7.constant_policy(task, np.full(task.action_size, 0.2))
    arm = make_offline_arm(policy, bodies.robot(name), bodies.plant(name), task, arm7.NETWORK,
                           np.random.default_rng(0))
    transitions = []
    for number in range(episodes):
        command = collector.learning_command(number)
        collector.commanded(command, arm.time_s)
        for event in arm.run(command):
            taken = collector.take(event, event.time_s)
            assert event.kind != StepKind.ABORTED, event.reason
            transitions += taken.transitions
    return collector, transitions


def test_learning_episodes_become_transitions() -> None:
    collector, transitions = collect('half_cheetah', 2, episode_steps=30)
    assert [transition.number for transition in transitions] == list(range(60))
    assert collector.robot_time_s == pytest.approx(60 * 0.05 + 1.0)
    assert [transition.truncated for transition in transitions] == ([False] * 29 + [True]) * 2
    assert not any(transition.terminated for transition in transitions)
    assert {transition.observation.shape for transition in transitions} == {(17,)}
    for one, other in zip(transitions[:29], transitions[1:30], strict=True):
        assert one.next_observation == pytest.approx(other.observation)
        assert one.reward == pytest.approx(
            one.next_observation[8] - 0.1 * (one.action_applied ** 2).sum(), abs=1e-4)
    assert len(collector.learning_curve) == 2
    assert all(row[2] is None for row in collector.learning_curve)
    # An episode always starts elsewhere, and the same run always at the same place.
    assert not np.allclose(transitions[0].observation, transitions[30].observation)
    again, _ = collect('half_cheetah', 1, episode_steps=30)
    assert again.learning_command(5).start_pose == pytest.approx(
        collect('half_cheetah', 1, episode_steps=30)[0].learning_command(5).start_pose)


def test_an_episode_that_ends_early_is_a_whole_one() -> None:
    collector, transitions = collect('inverted_pendulum', 2, terminate=True)
    ends = [transition for transition in transitions if transition.terminated]
    assert len(ends) == 2 and not any(transition.truncated for transition in transitions)
    assert len(collector.learning_curve) == 2
    assert collector.learning_curve[-1][1] == pytest.approx(
        sum(transition.reward for transition in transitions) / 2.0)


def test_a_run_without_a_criterion_succeeds_by_coming_to_its_end(share: Path) -> None:
    composition = compose(RunRequest(robot='ant'), share, NOWHERE)
    summary = {'evaluation': {'offline': figures(None, np.array([10.0, 30.0]), None)}}
    assert succeeded(summary, composition)
    assert summary['evaluation']['offline']['return'] == {'mean': 20.0, 'std': 10.0}
    assert ('return, offline', '20.0 ± 10.0 (mean and standard deviation of 2 episodes)') in (
        closing_rows(summary))
    judged = compose(RunRequest(robot='ant', set=('task.criterion=return',)), share, NOWHERE)
    for rate, met in ((0.9, True), (0.89, False), (None, False)):
        summary = {'evaluation': {'offline': figures(None, np.array([10.0, 30.0]), rate)}}
        assert succeeded(summary, judged) == met


def test_an_evaluation_in_between_tells_returns() -> None:
    results = tuple(EpisodeResult(number, Mode.EVALUATION, 200, float(number), None, None,
                                  Version(1, 1)) for number in range(3))
    check = Check(12.0, results)
    assert check.to_mapping()['success_rate'] is None
    assert check.to_mapping()['median_distance_m'] is None
    assert str(check) == 'mean return 1.0 of 3 episodes, policy 1.1 to 1.1'
