"""The queue of the comparison: what is run, resumed, left out for want of time, and drawn."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_mbrl.bench import paper, rows
from async_mbrl.bench.outcome import gains, mean_curve, references, table, write_outcome
from async_mbrl.bench.paper import Places, Queue, RowFailed
from async_mbrl.bench.rows import Row
from async_mbrl.bringup.arguments import parse_request
from async_mbrl.bringup.compose import compose
from async_mbrl.cli import _parser
from async_mbrl.core.config import ConfigError

TWO = rows.emulated('half_cheetah', 'me_trpo', 100, 1)


def figures(ret: float = 1.0, samples: int = 100, elapsed_s: float = 10.0) -> dict[str, Any]:
    return {'samples': samples, 'elapsed_s': elapsed_s, 'robot_time_s': 5.0,
            'updates_per_transition': {'model': 2.0, 'policy': 0.5},
            'curve': [{'samples': count, 'robot_time_s': 0.05 * count, 'wall_time_s': 1.0 * count,
                       'return': ret * count} for count in (20, 60, samples)]}


class Ran:
    """Stands for the command: writes down what was run, and the files that come of it."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_how: Any) -> Any:
        if command[0] == 'git':
            return subprocess.CompletedProcess(command, 0, stdout='abc\n')
        self.commands.append(command[3:])
        if self.status == 0:
            Path(command[command.index('--output') + 1]).write_text(json.dumps(figures()))
        return subprocess.CompletedProcess(command, self.status)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    found = Ran()
    monkeypatch.setattr(paper.subprocess, 'run', found)
    return found


def queue(folder: Path, lines: list[str] | None = None,
          wanted: list[Row] = TWO) -> Queue:
    said = [] if lines is None else lines
    return Queue(wanted, Places(folder / 'paper.json', folder / 'runs'), 'bench', said.append)


def test_each_row_is_written_at_once_and_not_run_again(tmp_path: Path, ran: Ran) -> None:
    first = queue(tmp_path)
    assert first.run(TWO[:1]) == 0
    results = json.loads((tmp_path / 'paper.json').read_text())
    assert {'command', 'git', 'machine', 'seeds', 'runs'} <= set(results)
    run, = results['runs']
    assert (run['environment'], run['algorithm'], run['schedule'], run['seed'], run['comparison']
            ) == ('half_cheetah', 'me_trpo', 'sync', 1, 'emulated')
    assert run['data_time_ratio'] is None and run['command'].startswith('async-mbrl emulate ')
    assert set(run['curve'][0]) >= {'wall_time_s', 'robot_time_s', 'samples', 'return'}

    again = queue(tmp_path)
    assert again.done(TWO[0]) and again.run(TWO) == 0
    assert len(ran.commands) == 2
    # The asynchronous row may learn as much from each transition as the synchronous one did.
    assert 'schedule.model_updates_per_transition=2' in ran.commands[1]
    assert 'schedule.policy_updates_per_transition=0.5' in ran.commands[1]


def test_row_that_does_not_fit_into_the_time_left_is_not_begun(tmp_path: Path, ran: Ran) -> None:
    lines: list[str] = []
    started = queue(tmp_path, lines)
    started.run(TWO[:1])
    assert started.expected_s(TWO[1]) == pytest.approx(10.0)     # 0.1 s a sample, as measured
    assert started.run(TWO, minutes_left=0.1) == 0
    assert len(ran.commands) == 1 and 'do not fit into the time left' in lines[-1]


def test_rows_that_fail_do_not_end_the_queue(tmp_path: Path, ran: Ran) -> None:
    ran.status = 1
    lines: list[str] = []
    assert queue(tmp_path, lines).run(TWO) == 2
    assert len(ran.commands) == 1 and not (tmp_path / 'paper.json').exists()
    assert 'ended with status 1' in lines[1] and 'which was not run' in lines[-1]


def test_emulated_rows_run_side_by_side_but_not_before_those_they_follow(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each emulated row waits for a second one; one that is alone would break the barrier."""
    together, done = threading.Barrier(2, timeout=20.0), []

    def run(_self: Queue, row: Row) -> dict[str, Any]:
        if row.wall_s == 0.0:
            together.wait()
        done.append(row.name)
        return figures()

    monkeypatch.setattr(Queue, '_run', run)
    pairs = [rows.emulated('half_cheetah', algorithm, 100, 1)
             for algorithm in ('me_trpo', 'me_ppo')]
    alone = rows.real('hopper', 'me_ppo', 6.0, 1)
    wanted = [*pairs[0], *pairs[1], *alone]
    assert queue(tmp_path, wanted=wanted).run(wanted, jobs=2) == 0
    assert {*done[:2]} == {pair[0].name for pair in pairs}
    assert {*done[2:4]} == {pair[1].name for pair in pairs}
    assert done[4:] == [row.name for row in alone]


def test_results_of_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'paper.json').write_text('{"runs": [{"seed": 1}]}')
    with pytest.raises(ConfigError, match='not a file of results'):
        queue(tmp_path)


def test_rows_are_selected_by_part_or_pattern_of_their_names(tmp_path: Path) -> None:
    everything = queue(tmp_path, wanted=rows.full())
    assert len({row.name for row in rows.full()}) == len(rows.full())
    assert len(everything.select(['hopper-mb_mpo'])) == 4
    assert [row.seed for row in everything.select(['main-half_cheetah*-sync-*'])] == [1, 2]


def test_pairs_differ_in_the_schedule_and_on_the_real_clock_in_what_was_published() -> None:
    for environment, algorithm in (('half_cheetah', 'me_trpo'), ('hopper', 'mb_mpo')):
        for pair, published in ((rows.real(environment, algorithm, 6.0, 1),
                                 rows.PUBLISHED[algorithm]),
                                (rows.emulated(environment, algorithm, 1000, 1)[::-1], ())):
            one, other = pair
            assert (one.wall_s, one.samples) == (other.wall_s, other.samples)
            kinds = [{each.partition('=')[0] for each in row.settings} for row in pair]
            assert {key for key in kinds[0] ^ kinds[1] if not key.startswith('schedule.')} == {
                each.partition('=')[0] for each in published}


@pytest.mark.parametrize('row', [*rows.quick(), *rows.full()[2:8]], ids=lambda row: row.name)
def test_every_kind_of_row_is_a_configuration(row: Row, package_root: Path,
                                              tmp_path: Path) -> None:
    command = paper.real_command(row, tmp_path) if row.wall_s else paper.emulated_command(
        row, tmp_path, {'model': 1.0, 'policy': 0.1})
    options = _parser().parse_args(command)
    composition = compose(parse_request({
        **{name: getattr(options, name) for name in ('robot', 'task', 'algorithm', 'schedule',
                                                     'seed')}, 'set': ';'.join(options.set)}),
        package_root, tmp_path)
    assert composition.schedule.name == row.schedule
    assert composition.model.early_stopping and composition.model.batch == 256
    assert composition.model.persistence == (0.99 if row.schedule == 'async' else 0.4)
    if row.schedule == 'sync':
        assert (composition.schedule.rollouts, composition.schedule.model_epochs,
                composition.schedule.policy_steps) == (10, 200, 50)


def test_curve_of_a_run_has_a_point_for_each_episode(tmp_path: Path) -> None:
    def record(episodes: int, **more: Any) -> dict[str, Any]:
        return {'phase': 'learning', 'episodes': episodes, 'wall_time_s': 2.0 * episodes,
                'robot_time_s': 1.0 * episodes, 'transitions': 30 * episodes, **more}

    path = tmp_path / 'metrics.jsonl'
    path.write_text('\n'.join(json.dumps(item) for item in (
        record(0), record(1, return_mean=3.0), record(1, return_mean=3.0, wall_time_s=9.0),
        record(2, return_mean=4.0), {**record(2, return_mean=4.0), 'phase': 'finishing'})))
    assert paper.curve(path) == [
        {'wall_time_s': 2.0, 'robot_time_s': 1.0, 'samples': 30, 'return': 3.0},
        {'wall_time_s': 4.0, 'robot_time_s': 2.0, 'samples': 60, 'return': 4.0}]


def test_mean_over_seeds_and_its_range() -> None:
    grid, mean, half = mean_curve([figures(1.0), figures(3.0)], 'samples')
    assert grid[0] == 20 and grid[-1] == 100
    np.testing.assert_allclose(mean, 2.0 * grid)
    np.testing.assert_allclose(half, grid)


def test_plots_and_table_are_made_of_whatever_is_there(tmp_path: Path) -> None:
    def run(row: Row, ret: float) -> dict[str, Any]:
        return {'id': row.name, 'environment': row.environment, 'algorithm': row.algorithm,
                'schedule': row.schedule, 'seed': row.seed, 'comparison': row.comparison,
                'variant': row.variant, 'data_time_ratio': 1.25 if row.wall_s else None,
                'wall_time_s': 100.0, **figures(ret)}

    runs = [run(row, ret) for row, ret in zip(
        [*rows.real('hopper', 'me_trpo', 1.0, 1), *rows.real('hopper', 'me_trpo', 1.0, 2), *TWO],
        (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True)]
    written = write_outcome(tmp_path / 'paper.json', runs)
    assert [path.name for path in written] == ['paper_main.png', 'paper_emulated.png', 'paper.md']
    assert all(path.stat().st_size > 0 for path in written)
    lines = table(runs).splitlines()
    assert '| main | hopper | me_trpo | async | none | 1, 2 | 100 | 100 | 1.25 | 2 | 0.5 | ' \
        '200.0 [100.0, 300.0] | 120.0 [60.0, 180.0] |' in lines
    assert len(lines) == 2 + 2 + 4      # of each kind one, its seeds together


def test_variations_are_held_against_the_same_seeds_with_nothing_varied() -> None:
    def run(row: Row, curve: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
        return {'id': row.name, 'environment': row.environment, 'algorithm': row.algorithm,
                'seed': row.seed, 'comparison': row.comparison, 'samples': row.samples,
                'curve': list(curve)}

    what = ('half_cheetah', 'me_trpo', 100)
    one, other = ([run(row) for row in rows.emulated(*what, seed)] for seed in (1, 2))
    varied = [run(row) for row in rows.ablations(*what, 1)]
    longer = [run(row) for row in rows.emulated('half_cheetah', 'me_trpo', 200, 1)]
    unfinished = [run(row, ()) for row in rows.emulated(*what, 1)]
    assert references([*one, *other, *longer, *varied, *unfinished], varied) == one


def test_the_gain_is_when_asynchronous_learning_was_as_good() -> None:
    def run(row: Row, *returns: float) -> dict[str, Any]:
        return {'id': row.name, 'environment': row.environment, 'algorithm': row.algorithm,
                'schedule': row.schedule, 'seed': row.seed, 'comparison': row.comparison,
                'curve': [{'wall_time_s': 10.0 * (i + 1), 'return': value}
                          for i, value in enumerate(returns)]}

    one, other = rows.real('hopper', 'me_trpo', 1.0, 1)
    third, fourth = rows.real('hopper', 'me_trpo', 1.0, 2)
    lines = gains([run(one, 0.0, 4.0, 9.0), run(other, 0.0, 1.0, 2.0, 3.0, 2.5),
                   run(third, 0.0, 1.0), run(fourth, 2.0), run(TWO[0], 0.0)]).splitlines()
    assert lines[2:] == ['| hopper | me_trpo | 1 | at the end | 2.5 | 50 | 20 | 0.40 |',
                         '| hopper | me_trpo | 1 | at its best | 3.0 | 40 | 20 | 0.50 |',
                         '| hopper | me_trpo | 2 | at the end | 2.0 | 10 | never | none |',
                         '| hopper | me_trpo | 2 | at its best | 2.0 | 10 | never | none |']


def test_a_row_in_need_of_another_says_so(tmp_path: Path) -> None:
    with pytest.raises(RowFailed, match=TWO[0].name):
        queue(tmp_path)._budget(TWO[1])
