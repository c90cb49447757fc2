"""Goals from outside: which are refused and why, and what is done with those that are not."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import arm7
import collection_rig as rig
import mujoco
import numpy as np
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.collection.course import ControllerView, LearnerView, Phase, Surroundings
from async_mbrl.collection.goals import REACHED_M, GoalCheck, GoalError, GoalSequence, ToolFrame
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode
from async_mbrl.simulation.collision import CollisionChecker
from async_mbrl.simulation.model import kinematics_from_model

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


@functools.cache
def check() -> GoalCheck:
    robot = arm7.robot()
    return GoalCheck(robot, rig.task(), CollisionChecker(robot, 0.02), seed=0)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Rotation matrix to x, y, z, w, by the eigenvector that belongs to it."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array([
        [xx - yy - zz, yx + xy, zx + xz, zy - yz], [yx + xy, yy - xx - zz, zy + yz, xz - zx],
        [zx + xz, zy + yz, zz - xx - yy, yx - xy], [zy - yz, xz - zx, yx - xy, xx + yy + zz]])
    return np.linalg.eigh(matrix / 3.0)[1][:, -1]


def test_pose_of_the_tool_frame_is_the_goal_that_its_tool_points_make() -> None:
    robot, task, rng = arm7.robot(), rig.task(), np.random.default_rng(1)
    frame = ToolFrame(robot)
    for pose in task.sample_goal_poses(rng, 20):
        origin, rotation = frame.pose(pose)
        goal = check().check(robot.base_frame, origin, 3.0 * quaternion(rotation), None)
        np.testing.assert_allclose(goal, task.tool_points(pose), atol=1e-6)


def test_frame_of_the_tool_is_that_of_its_link() -> None:
    urdf = """<robot name="a"><link name="base_link"/>{}<link name="tool"/>
        <joint name="fixed" type="fixed"><parent link="last"/><child link="tool"/>
        <origin xyz="0.1 0.2 0.3" rpy="0.4 0.5 0.6"/></joint>
        <link name="last"><inertial><mass value="1"/>
        <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
        <joint name="turn" type="revolute"><parent link="base_link"/><child link="last"/>
        <origin xyz="0 0 0.5" rpy="0.3 0 0"/><axis xyz="0 0 1"/>
        <limit lower="-1" upper="1" effort="1" velocity="1"/></joint></robot>"""
    model = mujoco.MjModel.from_xml_string(urdf.format(
        '<mujoco><compiler fusestatic="false"/></mujoco>'))
    points = np.array([[0.0, 0.0, 0.1], [0.05, 0.0, 0.1], [0.0, 0.07, 0.0]])
    chain = kinematics_from_model(model, ['turn'], (), 'tool', points.ravel().tolist())
    frame = ToolFrame(SimpleNamespace(kinematics=chain))  # type: ignore[arg-type]
    data = mujoco.MjData(model)
    data.qpos[0] = 0.7
    mujoco.mj_kinematics(model, data)
    origin, rotation = frame.pose(np.array([0.7]))
    np.testing.assert_allclose(origin, data.body('tool').xpos, atol=1e-9)
    np.testing.assert_allclose(rotation, data.body('tool').xmat.reshape(3, 3), atol=1e-9)
    np.testing.assert_allclose(
        frame.goal(origin, quaternion(rotation)),
        ToolKinematics(chain).points(np.array([0.7])), atol=1e-6)


@pytest.mark.parametrize(('frame', 'origin', 'turn', 'reason'), [
    ('camera', (0.6, 0.0, 0.9), IDENTITY, "give the pose in 'base_link'"),
    ('base_link', (np.nan, 0.0, 0.9), IDENTITY, 'not finite'),
    ('base_link', (0.6, 0.0, 0.9), np.zeros(4), 'is 0'),
    ('base_link', (0.6, 0.0, 2.5), IDENTITY, 'outside the workspace'),
    ('base_link', (0.6, 0.0, -0.1), IDENTITY, 'outside the workspace'),
    ('base_link', (1.0, 0.0, 0.2), IDENTITY, 'out of reach'),
    ('base_link', (-0.9, 0.0, 1.0), IDENTITY, 'out of reach'),
])
def test_goal_that_makes_no_sense_is_refused(
        frame: str, origin: tuple[float, ...], turn: np.ndarray, reason: str) -> None:
    with pytest.raises(GoalError, match=reason):
        check().check(frame, np.array(origin), turn, None)


def test_goal_that_only_a_collision_reaches_is_refused() -> None:
    class Wall:
        def flaw(self, position: np.ndarray) -> str:
            return 'hand and wall are 1 mm apart'

        def path_flaw(self, start: np.ndarray, end: np.ndarray) -> str:
            return ''

    robot = arm7.robot()
    origin, rotation = ToolFrame(robot).pose(np.array(robot.home))
    with pytest.raises(GoalError, match='only to be reached in collision: hand and wall'):
        GoalCheck(robot, rig.task(), Wall(), 0).check(
            robot.base_frame, origin, quaternion(rotation), np.array(robot.home))


def test_every_pose_within_the_limits_is_found_to_be_reachable() -> None:
    robot, task, rng = arm7.robot(), rig.task(), np.random.default_rng(5)
    for pose in rng.uniform(robot.limits.position_lower, robot.limits.position_upper, (20, 7)):
        _, distances = check()._solve(task.tool_points(pose), check()._seeds)
        assert distances.min() < REACHED_M


class Use:
    """A run in mode use on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock(100.0)
        config = CollectionConfig()
        self.collector = Collector(rig.task(), config, seed=0)
        self.sequence = GoalSequence(config, self.collector, progress_timeout_s=20.0)
        self.controller = ControllerView('ready', '', rig.VERSION, '', 0.0)
        self.number = 0

    def advance(self) -> EpisodeCommand | None:
        now_s = self.clock.now()
        seen = Surroundings(
            controller=dataclasses.replace(self.controller, heard_s=now_s),
            learners={'policy_learner': LearnerView(False, rig.VERSION)})
        command = self.sequence.advance(seen, now_s, self.number)
        if command is not None:
            self.number += 1
            self.collector.commanded(command, now_s)
        return command

    def execute(self, command: EpisodeCommand, **how: object) -> None:
        for event in rig.episode(rig.task(), command, **how):
            self.sequence.took(self.collector.take(event, self.clock.now()), self.clock.now())


def goal(seed: int) -> np.ndarray:
    return rig.task().sample_goals(np.random.default_rng(seed), 1)[0]


def test_without_a_goal_nothing_is_ordered() -> None:
    use = Use()
    assert use.advance() is None
    assert (use.sequence.phase, use.sequence.reason) == (Phase.EVALUATING, 'waiting for a goal')
    use.clock.time_s += 1000.0
    assert use.advance() is None and not use.sequence.complete


def test_episodes_go_on_towards_a_goal_from_where_the_arm_is() -> None:
    use = Use()
    use.sequence.take(goal(1))
    for number, at_goal in enumerate((False, True, True)):
        command = use.advance()
        assert command is not None and command.kind == CommandKind.RUN_EPISODE
        assert (command.number, command.mode) == (number, Mode.EVALUATION)
        assert command.start_pose.size == 0
        np.testing.assert_array_equal(command.goal, goal(1))
        assert use.advance() is None
        use.execute(command, at_goal=at_goal)
    outcome = use.sequence.to_mapping()
    assert (outcome['sent'], outcome['reached'], outcome['episodes']) == (1, 1, 3)
    assert outcome['final_distance_m'] == {'median': 0.0, 'p95': 0.0}    # of the last episode
    assert use.collector.transitions == 0


def test_newer_goal_replaces_the_one_gone_to_at_once() -> None:
    use = Use()
    use.sequence.take(goal(1))
    first = use.advance()
    assert first is not None and use.advance() is None
    use.sequence.take(goal(2))
    second = use.advance()
    assert second is not None
    np.testing.assert_array_equal(second.goal, goal(2))
    use.execute(first, abort_at=2)     # replaced: no abort that counts
    assert use.advance() is None and use.collector.open
    use.execute(second)
    use.sequence.refuse('out of reach')
    outcome = use.sequence.to_mapping()
    assert (outcome['received'], outcome['refused'], outcome['sent']) == (3, 1, 2)
    assert outcome['last_refusal'] == 'out of reach' and outcome['reached'] == 0


def test_paused_use_holds_and_goes_on_with_the_goal() -> None:
    use = Use()
    use.sequence.take(goal(1))
    use.advance()
    use.sequence.ask_pause('operator', 'paused')
    held = use.advance()
    assert held is not None and held.kind == CommandKind.HOLD
    use.sequence.release('operator')
    again = use.advance()
    assert again is not None
    np.testing.assert_array_equal(again.goal, goal(1))
    assert use.sequence.to_mapping()['sent'] == 1
    assert 'only a run that learns' in use.sequence.evaluate()
