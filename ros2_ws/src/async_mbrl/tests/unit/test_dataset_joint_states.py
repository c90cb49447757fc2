"""Any bag with joint states and commands becomes what the task would have recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import arm7
import numpy as np
import pytest
from dataset_rig import all_columns, task
from joint_bag_rig import (
    HOME,
    NAMES,
    PERIOD_NS,
    SCALE,
    START_NS,
    Item,
    array,
    clock,
    commands,
    efforts,
    motion,
    state,
    states,
    trajectory,
    write,
)
from rosbags.rosbag2 import StoragePlugin

from async_mbrl.datasets import mcap, sqlite
from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import CLIPPED, NOT_KNOWN_BEFORE, GoalRule
from async_mbrl.datasets.identity import DatasetError, identity_of
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.joint_states import SET_BACK
from async_mbrl.datasets.store import read_about
from async_mbrl.tasks import make_task

PREVIOUS = identity_of(task()).part('previous_action')
REACHED = ImportOptions(goal=GoalRule('reached'), actor=Source.HUMAN)


def held_mean(times_ns: np.ndarray, values: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Mean of commands that are each held until the next, written out."""
    total = np.zeros(7)
    for place, stamp in enumerate(times_ns):
        until = times_ns[place + 1] if place + 1 < len(times_ns) else end
        total += values[place] * max(0, min(until, end) - max(stamp, begin))
    return total / (end - begin)


def load(folder: Path, tmp_path: Path, name: str = 'dataset', built: Any = None,
         options: ImportOptions = REACHED) -> tuple[Columns, dict[str, Any]]:
    import_sources([folder], tmp_path / name, built or task(), options, print)
    return (joined(all_columns(tmp_path / name)),
            dict(read_about(tmp_path / name).sources[0]))


@pytest.mark.parametrize('plugin', list(StoragePlugin))
def test_steps_are_those_of_the_task(tmp_path: Path, plugin: StoragePlugin) -> None:
    built = task()
    state_times, command_times = clock(7.05, 0.01), clock(7.05, 0.03, -0.2)
    values = efforts(command_times)
    folder = write(tmp_path / 'bag', [
        *states(state_times, [6, 2, 0, 1, 5, 4, 3]), *commands(command_times, values)], plugin)
    found, source = load(folder, tmp_path)
    assert len(found) == 70 and source['format'] == 'joint_states'
    assert found.step.tolist() == [*range(30), *range(30), *range(10)]
    assert np.flatnonzero(found.truncated).tolist() == [29, 59, 69] and not found.terminated.any()
    assert set(found.source.tolist()) == {Source.HUMAN}
    assert np.isnan(found.log_probability).all() and not found.policy_version.any()
    for row in range(70):
        begin = START_NS + row * PERIOD_NS
        action = held_mean(command_times, values, begin, begin + PERIOD_NS) / SCALE
        np.testing.assert_allclose(found.action_applied[row], action, atol=1e-6)
        previous = held_mean(command_times, values, begin - PERIOD_NS, begin) / SCALE
        goal = built.tool_points(motion(min(7.0, 3.0 * (row // 30 + 1)))[0])
        for time_s, name in ((0.1 * row, 'observation'), (0.1 * (row + 1), 'next_observation')):
            acted = previous if name == 'observation' else found.action_applied[row]
            np.testing.assert_allclose(getattr(found, name)[row], built.observe(
                *motion(time_s), acted, goal), atol=1e-6)
        assert found.reward[row] == built.reward(
            np, found.next_observation[row].astype(np.float64),
            found.action_applied[row].astype(np.float64))


def test_it_does_not_matter_how_a_bag_is_cut_into_pieces(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_times, command_times = clock(4.0, 0.01), clock(4.0, 0.007, -0.2)
    pause = (state_times < START_NS + int(1.4e9)) | (state_times > START_NS + int(1.65e9))
    folder = write(tmp_path / 'bag', [*states(state_times[pause]), *commands(
        command_times, efforts(command_times))], StoragePlugin.SQLITE3)
    whole, source = load(folder, tmp_path, 'whole')
    monkeypatch.setattr(sqlite, '_BATCH', 3)
    pieces, same = load(folder, tmp_path, 'pieces')
    assert source['left_out'] == same['left_out']
    for field in dataclasses.fields(Columns):
        np.testing.assert_allclose(getattr(whole, field.name), getattr(pieces, field.name),
                                   atol=1e-6)


def test_what_is_not_fresh_is_dropped_and_counted(tmp_path: Path) -> None:
    times = clock(3.001, 0.01)
    seconds = (times - START_NS) * 1e-9
    kept = times[(seconds < 1.015) | (seconds > 1.255)]       # less than the gap of 1 s
    folder = write(tmp_path / 'bag', [*states(kept), *commands(
        clock(3.0, 0.05, -0.2), efforts(clock(3.0, 0.05, -0.2)))])
    found, source = load(folder, tmp_path)
    # The sample at 1.1 s is 90 ms old, the limit is 80 ms; that at 1.2 s is older still.
    assert source['left_out'] == {'without fresh joint states': 3}
    assert found.episode.tolist() == [0] * 10 + [1] * 17
    assert np.flatnonzero(found.truncated).tolist() == [9, 26]


def test_a_long_pause_begins_a_new_clock(tmp_path: Path) -> None:
    times = np.concatenate([clock(1.0, 0.01), clock(5.0, 0.01, 3.333)])
    folder = write(tmp_path / 'bag', [*states(times), *commands(
        clock(5.0, 0.05, -0.2), efforts(clock(5.0, 0.05, -0.2)))])
    found, source = load(folder, tmp_path)
    assert not source['left_out'] and found.episode.tolist() == [0] * 9 + [1] * 16
    np.testing.assert_allclose(found.observation[9, :7], motion(3.333)[0], atol=1e-6)


@pytest.mark.parametrize('batch', [5, 2048])
def test_a_clock_that_is_set_back_begins_a_new_stretch(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(mcap, '_BATCH', batch)
    times = clock(1.001, 0.01, -0.2)
    items = [*states(times[20:]), *commands(times, efforts(times))]
    first = write(tmp_path / 'bag', [(stamp + 10**11, *rest) for stamp, *rest in items])
    second = write(tmp_path / 'other', items)
    (second / 'other.mcap').rename(first / 'bag_1.mcap')
    (first / 'metadata.yaml').unlink()
    found, source = load(first, tmp_path)
    assert found.episode.tolist() == [0] * 10 + [1] * 10
    assert source['marked'] == {SET_BACK: 1}
    np.testing.assert_array_equal(found.action_applied[:10], found.action_applied[10:])


def test_before_the_first_command_nothing_is_taken(tmp_path: Path) -> None:
    command_times = clock(2.0, 0.05, 0.52)
    folder = write(tmp_path / 'bag', [*states(clock(2.001, 0.01)), *commands(
        command_times, efforts(command_times))])
    found, source = load(folder, tmp_path)
    assert source['left_out'] == {'without commands': 6, NOT_KNOWN_BEFORE: 1}
    assert len(found) == 13


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    command_times = clock(2.0, 0.1, -0.2)
    values = efforts(command_times)
    values[9, 3] = np.nan
    values[13, 3] = 1e300
    folder = write(tmp_path / 'bag', [*states(clock(1.501, 0.01)), *commands(
        command_times, values)])
    found, source = load(folder, tmp_path)
    assert np.isfinite(found.action_applied).all() and np.isfinite(found.observation).all()
    assert source['left_out'] == {'not finite': 2, NOT_KNOWN_BEFORE: 2}
    assert found.episode.tolist() == [0] * 7 + [1] * 2 + [2] * 2


def test_commands_beyond_the_scale_are_clipped_and_marked(tmp_path: Path) -> None:
    command_times = clock(1.1, 0.1, -0.2)
    values = efforts(command_times)
    values[6, 2] = 1.5 * SCALE[2]
    folder = write(tmp_path / 'bag', [*states(clock(1.001, 0.01)), *commands(
        command_times, values)])
    found, source = load(folder, tmp_path)
    assert found.intervened.tolist() == [row == 4 for row in range(10)]
    assert found.action_applied[4, 2] == 1.0 and source['marked'] == {CLIPPED: 1}


def position_task() -> Any:
    robot = arm7.robot(command_interface='position', action_scale=(0.2,) * 7)
    return make_task(arm7.task(), robot)


def test_positions_count_by_where_the_last_command_led(tmp_path: Path) -> None:
    built = position_task()
    command_times = clock(1.2, 0.02, -0.01)
    values = HOME + np.random.default_rng(1).uniform(-0.3, 0.3, (len(command_times), 7))
    order = [3, 1, 0, 2, 6, 5, 4]
    items = [(stamp, '/arm/joint_trajectory', trajectory(
        value[order], [NAMES[place] for place in order]))
        for stamp, value in zip(command_times.tolist(), values, strict=True)]
    folder = write(tmp_path / 'bag', [*states(clock(1.001, 0.01)), *items])
    found, source = load(folder, tmp_path, built=built, options=dataclasses.replace(
        REACHED, commands='/arm/joint_trajectory'))
    # What was commanded before the first step counts from where nobody knows the joints were.
    assert source['left_out'] == {NOT_KNOWN_BEFORE: 1} and len(found) == 9
    for row in range(10):
        end = START_NS + (row + 1) * PERIOD_NS
        last = values[np.flatnonzero(command_times < end)[-1]]
        action = np.clip((last - motion(0.1 * row)[0]) / 0.2, -1, 1)
        if row > 0:
            np.testing.assert_allclose(found.action_applied[row - 1], action, atol=1e-5)
        if row < 9:
            np.testing.assert_allclose(found.observation[row, PREVIOUS], action, atol=1e-5)


GOAL = np.linspace(0.1, 0.9, 9)


def test_goals_are_given_or_drawn_by_a_seed(tmp_path: Path) -> None:
    command_times = clock(7.0, 0.1, -0.2)
    folder = write(tmp_path / 'bag', [*states(clock(7.001, 0.02)), *commands(
        command_times, efforts(command_times))])
    built = task()
    found, _ = load(folder, tmp_path, 'fixed', options=ImportOptions(
        goal=GoalRule('fixed', tuple(GOAL))))
    np.testing.assert_allclose(found.observation[:, built.goal], np.tile(GOAL, (70, 1)), atol=1e-6)
    drawn = [load(folder, tmp_path, name, options=ImportOptions(
        goal=GoalRule('drawn'), seed=seed))[0] for name, seed in (('a', 3), ('b', 3), ('c', 4))]
    goals = [part.observation[:, built.goal] for part in drawn]
    assert np.array_equal(goals[0], goals[1]) and not np.array_equal(goals[0], goals[2])
    assert len(np.unique(goals[0], axis=0)) == 3        # episodes
    for options, words in ((ImportOptions(), 'goal: missing; task reach has goals of 9'),
                           (ImportOptions(goal=GoalRule('fixed', (1.0,))), 'goal: 1 numbers')):
        with pytest.raises(DatasetError, match=words):
            load(folder, tmp_path, 'none', options=options)


ONCE = np.array([START_NS])


def ordered(message: Any) -> Item:
    return START_NS, '/commands', message


@pytest.mark.parametrize(('items', 'words'), [
    ([ordered(array(HOME))], r'no topic of sensor_msgs/msg/JointState; there are: /commands'),
    ([*states(ONCE)], 'no topic of std_msgs/msg/Float64MultiArray or traj'),
    ([*states(ONCE), (START_NS, '/a', array(HOME)), (START_NS, '/b', array(HOME))],
     'no topic commands of .*, which is that of the robot; name the one .* --commands: /a, /b'),
    ([*states(ONCE, range(6)), ordered(array(HOME))],
     r"joints \['wrist_roll'\] of robot arm7 are missing; there are: shoulder_pan"),
    ([(START_NS, '/joint_states', state(np.zeros(1), np.zeros(1), ['gripper'])),
      ordered(array(HOME))], 'no joint of robot arm7; there are: gripper'),
    ([(START_NS, '/joint_states', state(HOME, np.zeros(0), NAMES)),
      ordered(array(HOME))], '0 numbers of velocity for 7 joints'),
    ([*states(ONCE), ordered(array(HOME[:6]))], 'commands of 6 numbers, but robot arm7'),
    ([*states(ONCE), ordered(trajectory(HOME, NAMES))], '0 numbers of points.0.effort'),
    ([*states(ONCE), ordered(trajectory(HOME[:6], NAMES[:6]))], 'are missing'),
    ([*states(ONCE), ordered(trajectory(HOME, NAMES, 2))], 'a trajectory of 2 points'),
    ([*states(ONCE), ordered(array(HOME))], 'no transition in it'),
])
def test_what_does_not_fit_is_said(tmp_path: Path, items: list[Item], words: str) -> None:
    folder = write(tmp_path / 'bag', items)
    with pytest.raises(DatasetError, match=words):
        import_sources([folder], tmp_path / 'x', task(), REACHED, print)
    assert not (tmp_path / 'x').exists()


def test_topics_can_be_named(tmp_path: Path) -> None:
    times = clock(1.001, 0.02)
    other = commands(times, np.zeros((len(times), 7)), '/b')
    folder = write(tmp_path / 'bag', [
        *states(times), *commands(times, efforts(times), '/a'), *other])
    found, _ = load(folder, tmp_path, options=dataclasses.replace(REACHED, commands='b'))
    assert not found.action_applied.any()


def test_an_episode_ends_where_the_task_ends(tmp_path: Path) -> None:
    built = make_task(arm7.task(), arm7.robot())
    built.terminated = lambda observation: np.arange(len(observation)) == 3      # its fourth step
    times = clock(1.001, 0.02, -0.2)
    folder = write(tmp_path / 'bag', [*states(times[10:]), *commands(times, efforts(times))])
    found, _ = load(folder, tmp_path, built=built)
    assert np.flatnonzero(found.terminated).tolist() == [3, 7]
    assert np.flatnonzero(found.truncated).tolist() == [9]
    assert found.step.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    np.testing.assert_array_equal(found.observation[1:, PREVIOUS], found.action_applied[:-1])
