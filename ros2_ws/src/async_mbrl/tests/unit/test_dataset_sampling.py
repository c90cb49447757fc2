"""Steps are made of what was in force when they happened, in whatever order it was recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import arm7
import numpy as np
import pytest
from dataset_rig import all_columns, task
from hypothesis import given
from hypothesis import strategies as st
from joint_bag_rig import (
    HOME,
    NAMES,
    SCALE,
    START_NS,
    behind,
    clock,
    commands,
    efforts,
    motion,
    states,
    trajectory,
    write,
)

from async_mbrl.datasets.columns import Columns, Source, joined
from async_mbrl.datasets.episodes import NOT_KNOWN_BEFORE, EpisodeBuilder, GoalRule
from async_mbrl.datasets.identity import DatasetError
from async_mbrl.datasets.importing import ImportOptions, import_sources
from async_mbrl.datasets.joint_states import SET_BACK
from async_mbrl.datasets.sampling import LATE, LATE_NS, Sampler
from async_mbrl.datasets.store import read_about
from async_mbrl.datasets.tally import Tally
from async_mbrl.tasks import make_task

REACHED = ImportOptions(goal=GoalRule('reached'))


def load(folder: Path, built: Any = None, **changes: Any) -> tuple[Columns, dict[str, Any]]:
    dataset = folder.with_name('dataset')
    import_sources([folder], dataset, built or task(), dataclasses.replace(REACHED, **changes),
                   print)
    return joined(all_columns(dataset)), dict(read_about(dataset).sources[0])


@pytest.mark.parametrize(('gap_s', 'kept'), [(1.0, 29), (10.0, 60)])
def test_a_command_that_nobody_renews_counts_no_more(tmp_path: Path, gap_s: float,
                                                     kept: int) -> None:
    times = clock(1.96, 0.05, -0.2)
    write(tmp_path / 'bag', [*states(clock(6.001, 0.01)), *commands(times, efforts(times))])
    found, source = load(tmp_path / 'bag', gap_s=gap_s)
    # The last one, of 1.95 s, is older than a second within the step that ends at 3 s.
    assert len(found) == kept and bool(found.truncated[-1])
    assert source['left_out'] == ({'without fresh commands': 31} if kept == 29 else {})


def test_a_position_that_nobody_renews_counts_no_more(tmp_path: Path) -> None:
    built = make_task(arm7.task(), arm7.robot(command_interface='position',
                                              action_scale=(0.2,) * 7))
    times = clock(1.96, 0.05, -0.2)
    items = [(stamp, '/commands', trajectory(HOME, NAMES)) for stamp in times.tolist()]
    write(tmp_path / 'bag', [*states(clock(6.001, 0.01)), *items])
    found, source = load(tmp_path / 'bag', built)
    assert len(found) == 28
    assert source['left_out'] == {'without fresh commands': 31, NOT_KNOWN_BEFORE: 1}


def test_a_topic_that_is_named_must_be_there(tmp_path: Path) -> None:
    times = clock(1.001, 0.02)
    write(tmp_path / 'bag', [*states(times), *commands(times, efforts(times))])
    for name in ('joint_states', 'commands'):
        with pytest.raises(DatasetError, match='no topic mistyped of .*; there are: /commands'):
            load(tmp_path / 'bag', **{name: 'mistyped'})


def test_other_commands_are_taken_only_when_named(tmp_path: Path) -> None:
    times = clock(1.001, 0.02)
    items = [(stamp, '/arm' + topic, message) for stamp, topic, message in states(times)]
    write(tmp_path / 'bag', [*items, *commands(times, efforts(times), '/arm/commands')])
    with pytest.raises(DatasetError, match=r'name the one to take with --commands: /arm/commands'):
        load(tmp_path / 'bag')
    _, source = load(tmp_path / 'bag', commands='/arm/commands')
    assert source['notes'][0].endswith(
        'no topic joint_states; /arm/joint_states, the only one of sensor_msgs/msg/JointState, '
        'was taken')
    assert 'joint states of /arm/joint_states, commands of /arm/commands' in source['notes']


def test_a_clock_set_back_by_little_begins_a_new_stretch(tmp_path: Path) -> None:
    times = clock(1.001, 0.01, -0.2)
    again = clock(1.701, 0.01, 0.7)
    behind(tmp_path / 'bag', [*states(times[20:]), *commands(times, efforts(times))],
           [*states(again), *commands(again[21:], efforts(again[21:], 1))])
    found, source = load(tmp_path / 'bag')
    assert found.episode.tolist() == [0] * 10 + [1] * 6 and source['marked'] == {SET_BACK: 1}
    # The commands of the other clock, of the same times, are not those of this one.
    assert source['left_out'] == {'without commands': 3, NOT_KNOWN_BEFORE: 1}
    np.testing.assert_allclose(found.observation[10, :7], motion(1.1)[0], atol=1e-6)


def test_commands_of_a_clock_that_was_set_back_stay_behind(tmp_path: Path) -> None:
    times = clock(1.001, 0.01, -0.2)
    items = [*states(times[20:]), *commands(times[:110], efforts(times[:110]))]
    folder = behind(tmp_path / 'bag', [(stamp + 10**11, *rest) for stamp, *rest in items], [
        *states(times[20:]), *commands(times[70:], efforts(times[70:], 1))])
    found, source = load(folder)
    assert found.episode.tolist() == [0] * 10 + [1] * 4
    assert source['left_out'] == {'without commands': 5, NOT_KNOWN_BEFORE: 1}


def test_a_trajectory_of_several_points_costs_only_itself(tmp_path: Path) -> None:
    built = make_task(arm7.task(), arm7.robot(command_interface='position',
                                              action_scale=(0.2,) * 7))
    times = clock(1.0, 0.05, -0.2)
    for place in (0, 9):
        items = [(stamp, '/commands', trajectory(HOME, NAMES, 2 if row == place else 1))
                 for row, stamp in enumerate(times.tolist())]
        folder = write(tmp_path / f'{place}' / 'bag', [*states(clock(1.001, 0.01)), *items])
        with pytest.raises(DatasetError, match='a trajectory of 2 points'):
            load(folder, built)
        found, source = load(folder, built, skip_damaged=True)
        assert len(found) == 9 and source['left_out']['damaged messages'] == 1


def test_after_a_termination_an_episode_has_its_whole_length(tmp_path: Path) -> None:
    built = make_task(arm7.task(), arm7.robot())
    calls: list[int] = []

    def terminated(observation: np.ndarray) -> np.ndarray:
        calls.append(len(observation))
        return np.arange(len(observation)) == (3 if len(calls) == 1 else -1)

    built.terminated = terminated
    times = clock(7.001, 0.02, -0.2)
    write(tmp_path / 'bag', [*states(times[10:]), *commands(times, efforts(times))])
    found, _ = load(tmp_path / 'bag', built)
    assert np.bincount(found.episode).tolist() == [4, 30, 30, 6]


def sampler(tally: Tally) -> Sampler:
    return Sampler(task(), EpisodeBuilder(
        task(), GoalRule('drawn'), Source.UNKNOWN, np.random.default_rng(0), tally), tally, 1.0)


def recorded(seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    times, command_times = clock(seconds, 0.02), clock(seconds, 0.03, -0.2)
    position, velocity = motion((times - START_NS) * 1e-9)
    return (times, np.stack([position, velocity], 1), command_times,
            efforts(command_times))


@given(seed=st.integers(0, 10**6), pieces=st.integers(1, 30))
def test_the_order_within_half_a_second_does_not_matter(seed: int, pieces: int) -> None:
    times, values, command_times, orders = recorded(4.0)
    tallies = Tally(), Tally()
    whole = sampler(tallies[0])
    expected = joined([*whole.take(times, values, command_times, orders), *whole.finish()])
    shuffled = sampler(tallies[1])
    rng = np.random.default_rng(seed)
    all_times = np.concatenate([times, command_times])
    order = np.argsort(all_times + rng.uniform(0, 0.99 * LATE_NS, len(all_times)))
    found = []
    for part in np.array_split(order, pieces):
        mine, theirs = part[part < len(times)], part[part >= len(times)] - len(times)
        found += list(shuffled.take(times[mine], values[mine], command_times[theirs],
                                    orders[theirs]))
    found = joined([*found, *shuffled.finish()])
    assert tallies[0].left_out == tallies[1].left_out == {}
    for field in dataclasses.fields(Columns):
        np.testing.assert_allclose(getattr(found, field.name), getattr(expected, field.name),
                                   atol=1e-6)


def test_what_comes_later_is_counted() -> None:
    times, values, command_times, orders = recorded(4.0)
    tally = Tally()
    late = sampler(tally)
    first = times < START_NS + 3 * 10**9
    held = (command_times > START_NS + 10**9) & (command_times < START_NS + int(1.1e9))
    found = [*late.take(times[first], values[first], command_times[~held], orders[~held])]
    found += [*late.take(times[~first], values[~first], command_times[held], orders[held]),
              *late.finish()]
    assert tally.left_out == {LATE: int(held.sum())} and len(joined(found)) == 39


def test_memory_does_not_grow_where_joint_states_stop() -> None:
    times, values, _, _ = recorded(1.0)
    kept = sampler(Tally())
    for second in range(100):
        command_times = clock(second + 1.0, 0.01, second)
        rows = slice(0, len(times) if second == 0 else 0)
        list(kept.take(times[rows], values[rows], command_times,
                       np.zeros((len(command_times), 7)) * SCALE))
        assert len(kept._command_times) < 300
