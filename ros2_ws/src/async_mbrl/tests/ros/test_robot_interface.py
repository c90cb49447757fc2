"""robot_interface as a process, between a scripted controller and scripted learners."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm7
import collection_rig as rig
import numpy as np
import pytest
import rclpy
import yaml
from async_mbrl_interfaces import msg
from bag import read_bag
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from async_mbrl.collection.goals import ToolFrame
from async_mbrl.collection.recording import write_recording
from async_mbrl.core.config import to_mapping
from async_mbrl.core.host import host_id
from async_mbrl.core.run import RunFolder
from async_mbrl.core.schedule import TURNS_METRIC
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand, Mode
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_from_message, step_to_message, version_to_message
from async_mbrl.ros.markers import quaternion
from async_mbrl.ros.streams import (
    CONTROL_STEPS,
    EPISODE_COMMANDS,
    TRANSITIONS,
    StreamPublisher,
    StreamSubscriber,
)

SESSION = 77
EPISODES = 3
STEPS = 4


OPEN: list[Stage] = []
"""Stages that were not closed: one that a failed test leaves would disturb the tests after it."""


class Stage:
    """Controller, driver and learners in this process, robot_interface in another."""

    def __init__(self, folder: Path, run: dict[str, Any] | None = None,
                 **collection: Any) -> None:
        OPEN.append(self)
        self.folder = RunFolder(folder)
        self.parameters = {
            'run': {'run_dir': str(folder), 'seed': 1, 'algorithm': 'me_ppo', **(run or {})},
            'robot': to_mapping(arm7.robot()), 'task': to_mapping(arm7.task(episode_steps=STEPS)),
            'collection': {'motion_time_s': 0.1 * STEPS * EPISODES, 'live_evaluation_episodes': 2,
                           **collection},
        }
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = Node('stage', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.paused = False
        self.turns = 0
        self.controller: dict[str, Any] = {}
        self.silent: set[str] = set()
        self.script: deque[ControlStep] = deque()
        self.commands: list[EpisodeCommand] = []
        self.transitions: list[msg.Transition] = []
        self.status: msg.RunStatus | None = None
        self.process: subprocess.Popen[str] | None = None
        node = self.node
        self.steps = StreamPublisher(node, CONTROL_STEPS, session=SESSION)
        self.orders = StreamSubscriber(node, EPISODE_COMMANDS, self._on_command)
        self.learner: StreamSubscriber | None = None
        self.controller_status = node.create_publisher(
            msg.ControllerStatus, 'controller_status', qos.STATUS)
        self.learner_status = node.create_publisher(
            msg.LearnerStatus, 'learner_status', qos.STATUS)
        self.joint_states = node.create_publisher(JointState, 'joint_states', qos.FRESH)
        self.truth = node.create_publisher(JointState, 'ground_truth/joint_states', qos.FRESH)
        node.create_subscription(msg.RunStatus, 'run_status', self._on_run_status, qos.STATUS)
        node.create_timer(0.02, self._beat)
        for name in ('model_learner', 'policy_learner'):
            node.create_service(Trigger, f'{name}/save', lambda _, response, name=name:
                                Trigger.Response(success=True, message=f'{name} has saved'))

    def ask(self, name: str, kind: type = Trigger, **request: Any) -> Any:
        """Call a service of robot_interface and give its answer."""
        client = self.node.create_client(kind, f'robot_interface/{name}')
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request(**request))
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def start(self) -> None:
        path = self.folder.root.parent / 'parameters.yaml'
        path.write_text(yaml.safe_dump({'/**': {'ros__parameters': self.parameters}}))
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'async_mbrl.nodes.robot_interface', '--ros-args',
             '--params-file', str(path)], stderr=subprocess.PIPE, text=True)

    def listen(self) -> None:
        """Join as a learner."""
        self.learner = StreamSubscriber(
            self.node, TRANSITIONS, lambda message, recovered: self.transitions.append(message))

    def until(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f'not in time; status: {self.status}'
            self.executor.spin_once(timeout_sec=0.02)

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def errors(self) -> str:
        assert self.process is not None
        return self.process.communicate(timeout=10)[1]

    def play(self, count: int) -> None:
        """Publish the next events of the script."""
        for _ in range(min(count, len(self.script))):
            number = self.steps.next_number
            self.steps.publish(step_to_message(self.script.popleft(), number, SESSION))

    def close(self) -> None:
        OPEN.remove(self)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def _on_command(self, message: msg.EpisodeCommand, _recovered: bool) -> None:
        command = command_from_message(message)
        self.commands.append(command)
        self.script.clear()
        if command.kind == CommandKind.RUN_EPISODE:
            self.script.extend(rig.episode(rig.task(), command))

    def _on_run_status(self, message: msg.RunStatus) -> None:
        self.status = message
        if message.next_episode_command:
            self.orders.announce(message.next_episode_command, message.session)
        if self.learner is not None:
            self.learner.announce(message.next_transition)

    def _beat(self) -> None:
        evaluating = self.status is not None and self.status.phase == msg.RunStatus.EVALUATING
        if not self.paused and (not evaluating or self.truth.get_subscription_count()):
            self.play(2)
        self.controller_status.publish(msg.ControllerStatus(
            session=SESSION, policy_version=version_to_message(rig.VERSION),
            next_control_step=self.steps.next_number,
            **{'state': 'running' if self.script else 'holding', **self.controller}))
        finishing = self.status is not None and self.status.phase >= msg.RunStatus.FINISHING
        state = msg.LearnerStatus.FINISHED if finishing else msg.LearnerStatus.LEARNING
        for name in {'model_learner', 'policy_learner'} - self.silent:
            self.learner_status.publish(msg.LearnerStatus(
                name=name, state=state, version=version_to_message(rig.VERSION),
                next_transition=len(self.transitions), metric_names=[TURNS_METRIC],
                metric_values=[float(self.turns)]))
        names, home = list(reversed(arm7.robot().joint_names)), np.zeros(7)
        joints = JointState(name=names, position=home, velocity=home)
        self.joint_states.publish(joints)
        self.truth.publish(joints)


@pytest.fixture(autouse=True)
def leftovers() -> Iterator[None]:
    yield
    for stage in list(OPEN):
        stage.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / 'run')
    yield stage
    stage.close()


def test_whole_run_with_a_learner_that_comes_late(stage: Stage) -> None:
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    stage.listen()
    stage.until(stage.ended)
    assert stage.errors().count('error') == 0 and stage.process.returncode == 0
    stage.until(lambda: stage.status.phase == msg.RunStatus.DONE)

    assert [item.number for item in stage.transitions] == list(range(EPISODES * STEPS))
    assert [(item.episode, item.step) for item in stage.transitions] == list(
        itertools.product(range(EPISODES), range(STEPS)))
    assert all(item.publish_time_ns for item in stage.transitions)
    assert [command.number for command in stage.commands] == list(range(EPISODES + 3))
    assert stage.commands[-1].kind == CommandKind.FINISH

    summary = json.loads(stage.folder.summary.read_text())
    assert summary['phase'] == 'done' and summary['transitions']['collected'] == 12
    assert summary['motion_time_s'] == pytest.approx(1.2)
    assert summary['robot_time_s'] == pytest.approx(1.2 + 2 * rig.task().config.reset_s)
    live = summary['evaluation']['live']
    assert live['episodes'] == 2 and live['judged_by'] == 'true_positions'
    goals = [command.goal for command in stage.commands[EPISODES:EPISODES + 2]]
    true_tool = rig.task().tool_points(np.zeros(7))
    assert live['final_distance_m']['median'] == pytest.approx(
        np.median([rig.task().distance(true_tool, goal) for goal in goals]))
    records = [json.loads(line) for line in stage.folder.metrics.read_text().splitlines()]
    assert records and records[-1]['model_learner']['transitions'] == 12

    recorded = read_bag(stage.folder.recording)
    assert [item.number for item in recorded['/transitions']] == list(range(12))
    assert recorded['/transitions'][3].next_observation == pytest.approx(
        stage.transitions[3].next_observation)
    assert len(recorded['/control_steps/joint_states']) == len(
        [item for item in recorded['/control_steps'] if len(item.observation)]) == 5 * 5
    assert [item.kind for item in recorded['/episode_commands']] == [0] * 5 + [2]
    for topic in ('/run_status', '/controller_status', '/learner_status'):
        assert recorded[topic]


def test_killed_in_mid_episode_goes_on_without_loss(stage: Stage) -> None:
    stage.listen()
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    stage.paused = True
    stage.until(lambda: len(stage.transitions) >= STEPS)
    stage.play(3)
    first_loss = stage.steps.next_number
    stage.until(lambda: stage.status.next_control_step == first_loss)
    stage.process.kill()
    assert stage.errors() is not None
    stage.play(2)   # nobody is there to hear these
    assert write_recording(stage.folder) > 0   # as a run that died is recorded
    assert [item.number for item in read_bag(stage.folder.recording)['/transitions']] == list(
        range(len(stage.transitions)))
    known = stage.status.next_transition
    stage.start()
    stage.until(lambda: stage.status.next_transition > known)
    stage.paused = False
    stage.until(stage.ended)
    assert stage.process.returncode == 0, stage.errors()
    stage.until(lambda: len(stage.transitions) == EPISODES * STEPS)

    assert [item.number for item in stage.transitions] == list(range(EPISODES * STEPS))
    assert [(item.episode, item.step) for item in stage.transitions] == list(
        itertools.product(range(EPISODES), range(STEPS)))
    summary = json.loads(stage.folder.summary.read_text())
    assert summary['transitions']['collected'] == 12 and summary['episodes'] == 3
    assert [item.number for item in read_bag(stage.folder.recording)['/transitions']] == list(
        range(12))


def test_interrupt_holds_the_arm_and_leaves_complete_files(stage: Stage) -> None:
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    begin = time.monotonic()
    stage.process.send_signal(signal.SIGINT)
    stage.until(stage.ended)
    assert time.monotonic() - begin < 3.0
    assert stage.process.returncode == 0, stage.errors()
    stage.until(lambda: stage.commands[-1].kind == CommandKind.HOLD)
    summary = json.loads(stage.folder.summary.read_text())
    assert summary['reason'] == 'interrupted' and summary['phase'] == 'learning'
    assert len(read_bag(stage.folder.recording)['/transitions']) == summary[
        'transitions']['collected']


def test_an_outcome_that_cannot_be_written_is_no_success(stage: Stage) -> None:
    stage.folder.summary.mkdir(parents=True)   # in the way
    stage.start()
    stage.until(lambda: bool(stage.commands))
    stage.process.send_signal(signal.SIGINT)
    stage.until(stage.ended)
    assert stage.process.returncode == 1
    assert stage.errors().splitlines()[-1].startswith('error: the outcome could not be written')


def test_full_disk_ends_the_run_with_its_reason_in_the_summary(stage: Stage) -> None:
    stage.folder.root.mkdir()
    stage.folder.metrics.symlink_to('/dev/full')
    stage.start()
    stage.until(stage.ended)
    assert stage.process.returncode == 1
    last = stage.errors().splitlines()[-1]
    assert last.startswith('error: files of the run cannot be written') and 'No space' in last
    summary = json.loads(stage.folder.summary.read_text())
    assert summary['phase'] == 'failed' and 'No space left' in summary['reason']


def test_folder_of_another_task_is_refused(stage: Stage) -> None:
    stage.start()
    stage.until(lambda: bool(stage.commands))
    stage.process.kill()
    stage.errors()
    stage.parameters['task']['reward_scale'] = 3.0
    stage.start()
    errors = stage.errors()
    assert stage.process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith('error: ') and 'task.reward_scale 0.1, not 3.0' in last
    assert 'Traceback' not in errors


def test_run_that_cannot_start_says_what_is_missing(tmp_path: Path) -> None:
    stage = Stage(tmp_path / 'run', start_timeout_s=1.0, learners=['planner'])
    stage.start()
    stage.until(stage.ended)
    errors = stage.errors()
    stage.close()
    assert stage.process.returncode == 1
    reason = errors.splitlines()[-1]
    assert reason.startswith('error: ') and reason.endswith(
        'planner (no learner_status): not there after 1 s')
    assert json.loads(stage.folder.summary.read_text())['phase'] == 'failed'


def test_operator_pauses_evaluates_saves_and_stops(tmp_path: Path) -> None:
    stage = Stage(tmp_path / 'run', motion_time_s=1000.0)
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    assert stage.status.process == stage.process.pid and stage.status.mode == 'learn'
    assert stage.ask('pause').success
    stage.until(lambda: stage.status.paused)
    assert stage.commands[-1].kind == CommandKind.HOLD
    assert 'robot_interface/start' in stage.status.reason
    held, paused_at = len(stage.commands), stage.status
    stage.until(lambda: stage.status.header.stamp.sec > paused_at.header.stamp.sec + 1)
    assert len(stage.commands) == held
    assert stage.status.wall_time_s == paused_at.wall_time_s
    assert stage.ask('start').message == 'going on'
    stage.until(lambda: len(stage.commands) > held + 1)
    assert stage.commands[held].mode == Mode.LEARNING and not stage.status.paused

    answer = stage.ask('evaluate')
    assert answer.success and '0 of 2 episodes successful' in answer.message   # it ends far away
    assert '1.4 to 1.4' in answer.message
    judged = [command for command in stage.commands if command.mode == Mode.EVALUATION]
    assert len(judged) == 2 and stage.status.phase == msg.RunStatus.LEARNING

    answer = stage.ask('save')
    assert answer.success and 'model_learner has saved' in answer.message
    assert json.loads(stage.folder.summary.read_text())['evaluation']['in_between'][0][
        'episodes'] == 2
    assert stage.ask('stop').success
    stage.until(stage.ended)
    assert stage.process.returncode == 0, stage.errors()
    stage.until(lambda: stage.status.process == 0)
    assert stage.status.reason == 'interrupted'
    stage.close()


def test_run_waits_for_an_arm_that_must_not_move_and_an_inactive_node(tmp_path: Path) -> None:
    stage = Stage(tmp_path / 'run', motion_time_s=1000.0, maximum_aborts=1)
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    stage.controller = {'state': 'estop', 'motion': 'estop', 'fault': 'pressed',
                        'fault_causes': ['emergency_stop: pressed']}
    stage.until(lambda: stage.status.paused)
    assert 'emergency stop: pressed' in stage.status.reason
    assert 'clear_fault' in stage.status.reason
    held = len(stage.commands)
    assert not stage.ask('start').success      # not the operator has paused it
    stage.controller = {}
    stage.until(lambda: len(stage.commands) > held + 1)

    stage.silent = {'model_learner'}
    stage.until(lambda: 'model_learner has been silent for' in stage.status.reason)
    stage.silent = set()

    def change(transition: int) -> None:
        assert stage.ask('change_state', ChangeState,
                         transition=Transition(id=transition)).success

    change(Transition.TRANSITION_DEACTIVATE)
    stage.until(lambda: stage.status.paused and 'inactive' in stage.status.reason)
    stage.until(lambda: stage.commands[-1].kind == CommandKind.HOLD)
    held = len(stage.commands)
    change(Transition.TRANSITION_ACTIVATE)
    stage.until(lambda: len(stage.commands) > held)
    collected = stage.status.next_transition
    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_CLEANUP)
    stage.until(lambda: stage.status.process == 0)
    change(Transition.TRANSITION_CONFIGURE)     # takes the run up again
    change(Transition.TRANSITION_ACTIVATE)
    stage.until(lambda: stage.status.process and stage.status.next_transition > collected)
    change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    stage.until(stage.ended)
    assert stage.process.returncode == 0, stage.errors()
    assert json.loads(stage.folder.summary.read_text())['reason'] == 'interrupted'
    stage.close()


def test_death_of_the_controller_is_noticed_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path / 'run', motion_time_s=1000.0)
    heartbeat = stage.node.create_publisher(msg.SafetyStatus, 'safety_status', qos.HEARTBEAT)
    victim = subprocess.Popen(['sleep', '1000'])
    timer = stage.node.create_timer(0.02, lambda: heartbeat.publish(msg.SafetyStatus(
        source='controller', state=msg.SafetyStatus.ACTIVE, host=host_id(),
        processes=[victim.pid])))
    stage.start()
    stage.until(lambda: len(stage.commands) == 2)
    timer.cancel()
    victim.kill()
    victim.wait()
    stage.until(lambda: 'the controller has died' in stage.status.reason, 5.0)
    assert stage.status.paused
    stage.close()


def test_goals_from_a_topic_are_gone_to_one_after_the_other(tmp_path: Path) -> None:
    stage = Stage(tmp_path / 'run', {'mode': 'use', 'policy_from': str(tmp_path)})
    seen: dict[str, Any] = {}
    for topic, kind in (('markers', MarkerArray), ('/tf', TFMessage),
                        ('/diagnostics', DiagnosticArray)):
        stage.node.create_subscription(
            kind, topic, lambda message, topic=topic: seen.update({topic: message}), 10)
    goals = stage.node.create_publisher(PoseStamped, 'goal', qos.GOAL)
    stage.start()
    stage.until(lambda: stage.status is not None
                and stage.status.reason == 'waiting for a goal')
    assert not stage.commands and stage.status.mode == 'use'
    stage.until(goals.get_subscription_count)

    def send(pose: np.ndarray, frame: str = 'base_link') -> None:
        origin, rotation = ToolFrame(arm7.robot()).pose(pose)
        message = PoseStamped()
        message.header.frame_id = frame
        at, turn = message.pose.position, message.pose.orientation
        at.x, at.y, at.z = origin.tolist()
        turn.x, turn.y, turn.z, turn.w = quaternion(rotation)
        goals.publish(message)

    home = np.array(arm7.robot().home)
    send(home, frame='camera')
    send(home)
    stage.until(lambda: len(stage.commands) >= 3)      # again and again
    first = stage.commands[-1]
    assert first.mode == Mode.EVALUATION and first.start_pose.size == 0
    assert first.goal == pytest.approx(rig.task().tool_points(home), abs=1e-5)
    stage.paused = True
    stage.until(lambda: len(seen) == 3)
    send(home + 0.1)
    stage.until(lambda: stage.commands[-1].goal == pytest.approx(
        rig.task().tool_points(home + 0.1), abs=1e-5))
    stage.until(lambda: {marker.ns for marker in seen['markers'].markers}
                == {'workspace', 'tool', 'goal'})
    transform = seen['/tf'].transforms[0]
    assert (transform.header.frame_id, transform.child_frame_id) == ('base_link', 'arm7_tool')
    origin, _ = ToolFrame(arm7.robot()).pose(np.zeros(7))       # where the joint states say it is
    assert transform.transform.translation.x == pytest.approx(origin[0])
    assert stage.ask('stop').success
    stage.until(stage.ended)
    assert stage.process.returncode == 0, stage.errors()
    outcome = json.loads(stage.folder.summary.read_text())
    assert outcome['mode'] == 'use' and outcome['transitions']['collected'] == 0
    assert (outcome['goals']['received'], outcome['goals']['refused']) == (3, 1)
    assert outcome['goals']['sent'] == 2 and outcome['goals']['episodes'] >= 2
    assert not stage.folder.journal.exists() and not stage.folder.recording.exists()
    stage.close()


def test_arm_is_held_until_the_learners_have_had_their_turn(stage: Stage) -> None:
    stage.parameters['schedule'] = {'name': 'sync', 'rollouts': 2}
    stage.parameters['collection']['learners'] = ['policy_learner']
    stage.listen()
    stage.start()
    stage.until(lambda: stage.status is not None and 'learners compute' in stage.status.reason)
    stage.until(lambda: len(stage.transitions) == 2 * STEPS)
    assert len(stage.commands) == 2
    assert stage.status.phase == msg.RunStatus.LEARNING and not stage.status.in_motion
    held_s = stage.status.wall_time_s
    stage.until(lambda: stage.status.wall_time_s > held_s + 1.0)
    assert len(stage.commands) == 2

    # A new process knows from the journal whose turn it is.
    stage.process.kill()
    assert stage.errors() is not None
    stage.status = None
    stage.start()
    stage.until(lambda: stage.status is not None and 'learners compute' in stage.status.reason)
    assert len(stage.commands) == 2
    stage.turns = 1
    stage.until(stage.ended)
    assert stage.process.returncode == 0, stage.errors()
    summary = json.loads(stage.folder.summary.read_text())
    assert summary['schedule'] == 'sync' and summary['transitions']['collected'] == 12
