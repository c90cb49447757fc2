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
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from async_mbrl.collection.recording import write_recording
from async_mbrl.core.config import to_mapping
from async_mbrl.core.run import RunFolder
from async_mbrl.core.transition import CommandKind, ControlStep, EpisodeCommand
from async_mbrl.ros import qos
from async_mbrl.ros.convert import command_from_message, step_to_message, version_to_message
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


class Stage:
    """Controller, driver and learners in this process, robot_interface in another."""

    def __init__(self, folder: Path, **collection: Any) -> None:
        self.folder = RunFolder(folder)
        self.parameters = {
            'run': {'run_dir': str(folder), 'seed': 1, 'algorithm': 'me_ppo'},
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

    def until(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
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
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def _on_command(self, message: msg.EpisodeCommand, _recovered: bool) -> None:
        command = command_from_message(message)
        self.commands.append(command)
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
            session=SESSION, state='running' if self.script else 'holding',
            policy_version=version_to_message(rig.VERSION),
            next_control_step=self.steps.next_number))
        finishing = self.status is not None and self.status.phase >= msg.RunStatus.FINISHING
        state = msg.LearnerStatus.FINISHED if finishing else msg.LearnerStatus.LEARNING
        for name in ('model_learner', 'policy_learner'):
            self.learner_status.publish(msg.LearnerStatus(
                name=name, state=state, version=version_to_message(rig.VERSION),
                next_transition=len(self.transitions)))
        names, home = list(reversed(arm7.robot().joint_names)), np.zeros(7)
        joints = JointState(name=names, position=home, velocity=home)
        self.joint_states.publish(joints)
        self.truth.publish(joints)


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
    assert errors.startswith('error: ') and len(errors.splitlines()) == 1
    assert 'task.reward_scale 0.1, not 3.0' in errors


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
