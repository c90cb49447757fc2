"""Collisions of the demo arm: known ones, none in normal learning, and ways in and out of one."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import arm7
import collection_rig as rig
import numpy as np
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector, NoPlanError
from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import NO_VERSION
from async_mbrl.simulation.collision import CollisionChecker

HOME = np.array(arm7.robot().home)
DOWN = np.array([0.0, 1.6, 0.0, 0.2, 0.0, 0.6, 0.0])
"""The hand in the pedestal."""
FOLDED = np.array([0.0, 0.35, 0.0, -2.4, 0.0, -2.2, 0.0])
"""The hand in the upper arm."""
AT_REST = np.zeros(7)


@functools.cache
def checker() -> CollisionChecker:
    return CollisionChecker(arm7.robot(), 0.02)


@pytest.mark.parametrize('pose', [HOME, np.zeros(7), [1.5, 0.8, 1.0, -1.5, 1.0, -1.0, 1.0]])
def test_free_poses(pose: np.ndarray) -> None:
    assert checker().flaw(np.asarray(pose)) == ''
    assert checker().clearance(np.asarray(pose)) == 0.02


@pytest.mark.parametrize(('pose', 'links'), [
    (DOWN, ('hand', 'pedestal')), (FOLDED, ('upper_arm', 'hand')),
    ([0.0, 1.6, 0.0, 0.0, 0.0, 0.0, 0.0], ('forearm', 'pedestal'))])
def test_poses_in_collision(pose: np.ndarray, links: tuple[str, str]) -> None:
    flaw = checker().flaw(np.asarray(pose))
    assert all(link in flaw for link in links) and 'mm apart' in flaw
    assert checker().clearance(np.asarray(pose)) < 0.0


def test_floor_is_the_plane_of_the_model_or_a_height(tmp_path: Path) -> None:
    low = np.array([0.0, 1.1, 0.0, 0.2, 0.0, 0.0, 0.0])   # arm and tool hang down, 0.15 m high
    assert 'floor' in CollisionChecker(arm7.robot(), 0.4).flaw(low)
    path = tmp_path / 'no_floor.xml'
    model = (Path(__file__).resolve().parents[2] / 'sim/arm7.xml').read_text()
    lines = [line for line in model.splitlines() if 'name="floor" type="plane"' not in line]
    path.write_text('\n'.join(lines))
    robot = arm7.robot(model=str(path))
    assert CollisionChecker(robot, 0.02).flaw(low) == ''
    assert 'and floor' in CollisionChecker(robot, 0.02, floor_height_m=0.3).flaw(low)


@pytest.mark.parametrize('margin', [0.0, 0.02, 0.1, 0.5])
def test_what_is_left_out_does_not_depend_on_the_margin(margin: float) -> None:
    wide = CollisionChecker(arm7.robot(), margin)
    assert wide.ignored == checker().ignored
    assert 'pedestal and shoulder' in wide.ignored and 'forearm and hand' in wide.ignored
    assert not any('floor' in pair or pair == 'hand and pedestal' for pair in wide.ignored)
    assert 'hand' in wide.flaw(DOWN)


def test_normal_learning_never_meets_one() -> None:
    task, rng = rig.task(), np.random.default_rng(0)
    for _ in range(2000):
        assert checker().flaw(task.sample_start(rng)) == ''
    for pose in task.sample_goal_poses(rng, 2000):
        assert checker().flaw(pose) == ''


def test_way_through_the_base_is_seen_though_both_ends_are_free() -> None:
    right = np.array([-0.6, -0.4, 1.6, -2.2, -2.6, -2.0, -1.3])
    left = np.array([0.8, -0.8, -0.2, -2.3, 0.7, -0.9, 0.7])
    assert not checker().flaw(right) and not checker().flaw(left)
    assert 'hand and base' in checker().path_flaw(right, left)
    assert checker().path_flaw(right, HOME) == ''


def test_way_may_lead_out_of_a_collision_but_not_deeper() -> None:
    assert checker().path_flaw(FOLDED, HOME) == ''
    assert checker().path_flaw(HOME, FOLDED) != ''
    nearly = FOLDED + 0.1 * (HOME - FOLDED)
    assert checker().flaw(nearly) and checker().path_flaw(nearly, FOLDED)


def test_motion_is_stopped_as_long_as_braking_still_helps() -> None:
    fold = (FOLDED - HOME) / np.linalg.norm(FOLDED - HOME)
    seen_at = [checker().clearance(HOME + way * fold) for way in np.arange(0.0, 2.0, 0.01)
               if checker().ahead_flaw(HOME + way * fold, 2.0 * fold)]
    assert seen_at[0] == 0.02          # before the margin is touched
    assert checker().ahead_flaw(HOME, 2.0 * fold) == ''
    deep = FOLDED + 0.05 * (HOME - FOLDED)
    assert checker().ahead_flaw(deep, fold) != ''
    assert checker().ahead_flaw(deep, -fold) == '' and checker().ahead_flaw(deep, AT_REST) == ''


def test_joint_that_the_model_lacks_is_refused() -> None:
    robot = arm7.robot()
    names = ('nothing', *robot.joint_names[1:])
    with pytest.raises(ConfigError, match="no joint 'nothing'"):
        CollisionChecker(dataclasses.replace(robot, joint_names=names), 0.02)


class Wall:
    """Says that everything with a positive first joint is in a wall."""

    def flaw(self, position: np.ndarray) -> str:
        return 'wall' if position[0] > 0.0 else ''

    def path_flaw(self, start: np.ndarray, end: np.ndarray) -> str:
        return self.flaw(end)


def test_another_episode_is_planned_in_place_of_one_that_collides() -> None:
    config = CollectionConfig()
    free, careful = Collector(rig.task(), config, 3), Collector(rig.task(), config, 3, Wall())
    careful.position = HOME
    changed = 0
    for episode in range(20):
        free.attempts = careful.attempts = episode
        drawn, planned = free.learning_command(episode), careful.learning_command(episode)
        assert planned.start_pose[0] <= 0.0
        changed += planned.seed != drawn.seed
        if planned.seed == drawn.seed:      # nothing was wrong with the first draw
            np.testing.assert_array_equal(planned.goal, drawn.goal)
    assert 0 < changed < 20
    assert careful.refused_plans >= changed


def test_no_free_episode_at_all_is_said() -> None:
    class Everywhere(Wall):
        def flaw(self, position: np.ndarray) -> str:
            return 'hand and wall are 1 mm apart'

    collector = Collector(rig.task(), CollectionConfig(), 3, Everywhere())
    with pytest.raises(NoPlanError, match='hand and wall are 1 mm apart'):
        collector.evaluation_command(0, NO_VERSION)
