"""Both learners as processes, fed by a scripted stream: late start, gap, restart, damage."""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import learning_rig
import pytest
import rclpy
import yaml
from async_mbrl_interfaces import msg
from lifecycle_msgs.msg import Transition as Lifecycle
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from std_srvs.srv import Trigger

from async_mbrl.bringup.supervisor import CONFIG_STATUS
from async_mbrl.control.policy import PolicyLayout
from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.network import PolicyNetworkConfig, policy_architecture
from async_mbrl.core.run import RunFolder
from async_mbrl.core.schedule import TURNS_METRIC
from async_mbrl.datasets.columns import Source, columns_of
from async_mbrl.datasets.identity import identity_of
from async_mbrl.datasets.store import DatasetWriter
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.pretraining import Pretraining, read_offline
from async_mbrl.learning.recorded import recorded_count, recorded_hash
from async_mbrl.learning.settings import AwacConfig, MePpoConfig
from async_mbrl.ros import qos
from async_mbrl.ros.convert import (
    SnapshotAssembler,
    metrics_from_message,
    transition_to_message,
    version_from_message,
)
from async_mbrl.ros.streams import TRANSITIONS, StreamPublisher

TIMEOUT_S = 60.0
NETWORK = {'hidden': [16, 16], 'activation': 'tanh', 'squash': 'clip'}
MODEL = {'members': 2, 'hidden': [16, 16], 'publish_interval_s': 0.1}
IMPROVEMENT = {'rollouts': 10, 'horizon': 5, 'value_hidden': [16]}
SECTIONS = {'model_learner': ('model',),
            'policy_learner': ('model', 'network', 'exploration', 'improvement')}


class Script:
    """Plays robot_interface and controller for learners that run as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task = learning_rig.make_task()
        self.plant = learning_rig.Plant(self.task)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = Node('script', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.kept: list[bytes] = []
        self.stream = StreamPublisher(
            self.node, TRANSITIONS, fetch=lambda first, count: self.kept[first:first + count])
        self.run_status = self.node.create_publisher(msg.RunStatus, 'run_status', qos.STATUS)
        self.statuses: dict[str, msg.LearnerStatus] = {}
        self.policies: list[snapshots.Snapshot] = []
        self.expect(PolicyNetworkConfig(tuple(NETWORK['hidden']), 'tanh', 'clip'))
        self.node.create_subscription(msg.LearnerStatus, 'learner_status', self._on_status,
                                      qos.STATUS)
        self.node.create_subscription(msg.ParameterSnapshot, 'policy_parameters', self._on_policy,
                                      qos.snapshots(4))
        self.processes: list[subprocess.Popen[str]] = []
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def expect(self, network: PolicyNetworkConfig) -> None:
        """Take policies of a network from now on."""
        self.assembler = SnapshotAssembler('policy', policy_architecture(network, self.task),
                                           PolicyLayout(self.task, network).size)

    def _on_status(self, message: msg.LearnerStatus) -> None:
        self.statuses[message.name] = message

    def _on_policy(self, message: msg.ParameterSnapshot) -> None:
        found = self.assembler.add(message)
        if found is not None:
            self.policies.append(found)

    def start(self, name: str, schedule: dict[str, Any] | None = None,
              sections: dict[str, Any] | None = None, **run: Any) -> subprocess.Popen[str]:
        parts = {'model': MODEL, 'network': NETWORK, 'exploration': {'initial_steps': 10},
                 'improvement': IMPROVEMENT, **(sections or {})}
        parameters = {
            'run': {'run_dir': str(self.folder), 'seed': 3, 'algorithm': 'me_ppo', **run},
            'robot': learning_rig.ROBOT, 'task': learning_rig.TASK,
            **{section: parts[section] for section in SECTIONS[name]},
            **({} if schedule is None else {'schedule': schedule})}
        file = self.folder / f'{name}.yaml'
        file.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
        process = subprocess.Popen(
            [sys.executable, '-m', f'async_mbrl.nodes.{name}', '--ros-args', '--params-file',
             str(file)], stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def collect(self, episodes: int, *, publish: bool = True) -> None:
        """Let transitions exist; those not published can only be asked for."""
        for transition in self.plant.explore(episodes):
            message = transition_to_message(transition, self.node.get_clock().now().to_msg())
            message.publish_time_ns = time.time_ns()
            self.kept.append(serialize_message(message))
            if publish:
                self.stream.publish(message)
            else:
                self.stream.next_number = message.number + 1

    def tell(self, phase: int, mode: str = 'learn', run_id: str = 'script') -> None:
        self.run_status.publish(msg.RunStatus(
            phase=phase, mode=mode, run_id=run_id, in_motion=phase == msg.RunStatus.LEARNING,
            next_transition=len(self.kept)))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            for process in self.processes:
                assert process.poll() in (None, 0, -signal.SIGKILL), process.stderr.read()
            assert time.monotonic() < end, f'{what}; statuses: {self.statuses}'
            time.sleep(0.02)

    def ask(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and give its answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(TIMEOUT_S), name
        future = client.call_async(request)
        self.until(future.done, f'{name} does not answer')
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stderr.close()
        self.executor.shutdown()
        self.thread.join(5.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def checkpoint_lines(process: subprocess.Popen[str], what: str) -> list[tuple[int, str]]:
    """Transitions and SHA-256 of the checkpoints that the log of an ended learner tells of."""
    assert process.stderr is not None
    found = re.findall(rf'checkpoint {what}: transitions=(\d+) sha256=([0-9a-f]{{64}})$',
                       process.stderr.read(), re.MULTILINE)
    return [(int(count), digest) for count, digest in found]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path)
    yield script
    script.close()


def test_learners_miss_nothing_and_end_with_the_run(script: Script) -> None:
    folder = RunFolder(script.folder)
    policy_learner = script.start('policy_learner')
    script.until(lambda: bool(script.policies), 'no first policy')
    first = script.policies[0]
    assert first.version == (1, 0)
    assert first.exploration_std == 1.0

    # The model learner is late: what was published before it came it must ask for.
    script.collect(3)
    model_learner = script.start('model_learner')
    script.tell(msg.RunStatus.LEARNING)
    for name in SECTIONS:
        script.until(lambda name=name: name in script.statuses
                     and script.statuses[name].next_transition == 45
                     and script.statuses[name].updates > 0, f'{name} does not learn')
    assert script.statuses['model_learner'].transitions_recovered > 0
    assert script.statuses['policy_learner'].model_version.incarnation == 1

    # A gap: 15 transitions that never were on the topic, 15 after them that were.
    script.collect(1, publish=False)
    script.collect(1)
    for name in SECTIONS:
        script.until(lambda name=name: script.statuses[name].next_transition == 75,
                     f'{name} misses transitions after a gap')

    # The very last ones get lost: only the status tells of them.
    script.collect(1, publish=False)
    script.tell(msg.RunStatus.FINISHING)
    for name in SECTIONS:
        script.until(lambda name=name: script.statuses[name].state == msg.LearnerStatus.FINISHED,
                     f'{name} does not finish')
        status = script.statuses[name]
        assert status.next_transition == 90
        assert status.updates_in_motion > 0
        assert 0 < status.transition_latency_p50_ms < 1000
        # The policy learner could use nothing before the late one had a model.
        assert 0 < status.first_use_latency_p50_ms < 1e3 * TIMEOUT_S
    newest = version_from_message(script.statuses['policy_learner'].version)
    script.until(lambda: script.policies[-1].version == newest, 'the last policy did not come')
    assert script.policies[-1].trained_on_transitions == 90
    assert script.policies[-1].exploration_std < 0.25

    # One that comes back now hands out what it had, once, and does not learn on.
    updates = script.statuses['policy_learner'].updates
    policy_learner.kill()
    policy_learner.wait()
    script.tell(msg.RunStatus.EVALUATING)
    policy_learner = script.start('policy_learner')
    script.until(lambda: script.statuses['policy_learner'].version.incarnation == 2
                 and script.statuses['policy_learner'].state == msg.LearnerStatus.FINISHED,
                 'does not finish again')
    newest = version_from_message(script.statuses['policy_learner'].version)
    assert newest == (2, 0) and script.statuses['policy_learner'].updates == updates

    script.tell(msg.RunStatus.DONE)
    assert model_learner.wait(30) == 0
    assert policy_learner.wait(30) == 0
    assert snapshots.decode(folder.policy.read_bytes()).version == newest
    assert snapshots.decode(folder.first_policy.read_bytes()).version == first.version


def test_learner_goes_on_after_a_signal_and_after_being_killed(script: Script) -> None:
    learner = script.start('model_learner')
    script.collect(3)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: 'model_learner' in script.statuses
                 and script.statuses['model_learner'].updates > 50, 'does not learn')
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0
    saved_as = checkpoint_lines(learner, 'saved')[-1]
    assert saved_as[0] == 45
    saved = script.statuses['model_learner']

    script.collect(1)
    script.tell(msg.RunStatus.LEARNING)
    learner = script.start('model_learner')
    script.until(lambda: script.statuses['model_learner'].version.incarnation == 2,
                 'did not start again')
    script.until(lambda: script.statuses['model_learner'].next_transition == 60
                 and script.statuses['model_learner'].state == msg.LearnerStatus.LEARNING,
                 'did not catch up')
    again = script.statuses['model_learner']
    assert again.updates >= saved.updates
    assert again.transitions_recovered == 15    # the others were in the checkpoint
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0
    assert checkpoint_lines(learner, 'restored') == [saved_as]

    # The journal was cut: numbers that the learner has would be given out again.
    script.kept = script.kept[:50]
    script.tell(msg.RunStatus.WAITING)
    index = RunFolder(script.folder).learner('model_learner')
    for _ in range(2):      # also once the ring is put aside
        refused = script.start('model_learner')
        assert refused.wait(60) == 2
        error = refused.stderr.read()
        assert 'has learned from 60 transitions' in error and 'holds only 50' in error
        assert 'Traceback' not in error
        script.processes.remove(refused)
        assert (index / 'transitions.ring.damaged').exists()

    # The remedy: it learns anew from what the journal has.
    (index / 'checkpoint.json').unlink()
    learner = script.start('model_learner')
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: script.statuses['model_learner'].version.incarnation == 5
                 and script.statuses['model_learner'].next_transition == 50
                 and script.statuses['model_learner'].updates > 0, 'does not learn anew')
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0

    file = next(index.glob('checkpoint-*.safetensors'))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    refused = script.start('model_learner')
    assert refused.wait(60) == 2
    error = refused.stderr.read()
    assert 'SHA-256' in error
    assert 'Traceback' not in error


def test_what_a_killed_learner_had_taken_is_on_disk_unless_the_journal_lost_it(
        script: Script) -> None:
    folder, copy = RunFolder(script.folder).learner('model_learner'), script.folder / 'copy'
    learner = script.start('model_learner')
    script.collect(2)
    script.tell(msg.RunStatus.LEARNING)
    script.until((folder / 'checkpoint.json').exists, 'saves nothing')
    change(script, 'model_learner', Lifecycle.TRANSITION_DEACTIVATE)    # no checkpoint from here on
    script.until(lambda: 'model_learner' in script.statuses
                 and script.statuses['model_learner'].state == msg.LearnerStatus.WAITING,
                 'does not pause')
    script.collect(1)
    script.until(lambda: script.statuses['model_learner'].next_transition == 45, 'takes nothing')
    learner.kill()
    learner.wait(30)
    shutil.copytree(folder, copy)

    script.tell(msg.RunStatus.LEARNING)
    learner = script.start('model_learner')
    script.until(lambda: script.statuses['model_learner'].version.incarnation == 2,
                 'does not start again')
    status = script.statuses['model_learner']
    assert (status.next_transition, status.transitions_recovered) == (45, 0)
    learner.kill()
    learner.wait(30)

    # No checkpoint has learned from the last five, which the journal has no more.
    shutil.rmtree(folder)
    copy.rename(folder)
    script.kept = script.kept[:40]
    script.tell(msg.RunStatus.WAITING)
    failed = script.start('model_learner')
    assert failed.wait(60) == 1
    assert 'has kept 45 transitions, but the journal of the run holds only 40' in (
        failed.stderr.read())
    assert (folder / 'transitions.ring.damaged').exists()
    script.processes.remove(failed)
    script.tell(msg.RunStatus.LEARNING)
    script.start('model_learner')
    script.until(lambda: script.statuses['model_learner'].version.incarnation == 3
                 and script.statuses['model_learner'].transitions_recovered == 40,
                 'does not ask again')
    assert script.statuses['model_learner'].next_transition == 40


def test_a_stop_before_the_run_is_heard_leaves_the_checkpoint_as_it_was(script: Script) -> None:
    folder = RunFolder(script.folder).learner('model_learner')
    before = ModelLearner(ModelConfig(members=2, hidden=(16, 16)), script.task, seed=0)
    before.restore(folder)
    before.take(script.plant.explore(2))
    assert before.step()
    before.save(folder)
    before.take(script.plant.explore(1))    # these the journal may have lost
    before.close()
    saved = recorded_hash(folder)
    learner = script.start('model_learner')
    script.until(lambda: 'model_learner' in script.statuses
                 and script.statuses['model_learner'].next_transition == 45, 'does not start')
    answer = script.ask(Trigger, 'model_learner/save', Trigger.Request())
    assert not answer.success and 'since the start' in answer.message
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0
    assert recorded_hash(folder) == saved and recorded_count(folder, 'next_transition') == 30


def test_learner_keeps_to_the_run_that_it_heard_first(script: Script) -> None:
    learner = script.start('model_learner')
    script.collect(2)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: 'model_learner' in script.statuses
                 and script.statuses['model_learner'].updates > 0, 'does not learn')
    script.tell(msg.RunStatus.LEARNING, run_id='another')
    assert learner.wait(60) == 2
    error = learner.stderr.read()
    assert "belongs to run 'script'" in error and "run 'another'" in error
    assert 'Traceback' not in error


def change(script: Script, name: str, transition: int) -> None:
    """Let a learner make a transition of its lifecycle."""
    assert script.ask(ChangeState, f'{name}/change_state',
                      ChangeState.Request(transition=Lifecycle(id=transition))).success


def test_paused_learner_receives_and_lives_but_does_not_learn(script: Script) -> None:
    learner = script.start('model_learner')
    script.collect(2)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: 'model_learner' in script.statuses
                 and script.statuses['model_learner'].updates > 20, 'does not learn')
    answer = script.ask(Trigger, 'model_learner/save', Trigger.Request())
    assert answer.success and answer.message.startswith('30 transitions, ')
    index = script.folder / 'model_learner' / 'checkpoint.json'
    assert index.exists()

    change(script, 'model_learner', Lifecycle.TRANSITION_DEACTIVATE)
    script.until(lambda: script.statuses['model_learner'].state == msg.LearnerStatus.WAITING,
                 'does not pause')
    updates = script.statuses['model_learner'].updates
    script.collect(1)
    script.until(lambda: script.statuses['model_learner'].next_transition == 45,
                 'does not receive while paused')
    assert script.statuses['model_learner'].updates == updates

    # The disk takes no checkpoint any more: it is told, and learning goes on.
    shutil.rmtree(index.parent)
    index.parent.write_text('in the way')
    change(script, 'model_learner', Lifecycle.TRANSITION_ACTIVATE)
    refused = script.ask(Trigger, 'model_learner/save', Trigger.Request())
    assert not refused.success and 'no checkpoint written' in refused.message
    script.until(lambda: 'no checkpoint written' in script.statuses['model_learner'].reason
                 and script.statuses['model_learner'].updates > updates + 20, 'stopped learning')
    script.tell(msg.RunStatus.FINISHING)
    script.until(lambda: script.statuses['model_learner'].state == msg.LearnerStatus.FINISHED,
                 'does not finish')
    index.parent.unlink()
    change(script, 'model_learner', Lifecycle.TRANSITION_DEACTIVATE)
    change(script, 'model_learner', Lifecycle.TRANSITION_CLEANUP)     # the last try
    assert index.exists()
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0


def test_policy_of_another_run_is_handed_out_verified(script: Script, tmp_path: Path) -> None:
    first = script.start('policy_learner')
    script.until(lambda: bool(script.policies), 'no policy')
    script.collect(1)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: 'policy_learner' in script.statuses
                 and script.statuses['policy_learner'].next_transition == 15, 'no data')
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 0
    learned = snapshots.decode(RunFolder(script.folder).policy.read_bytes())

    use = {'run_dir': str(tmp_path / 'use'), 'mode': 'use', 'policy_from': str(script.folder)}
    (tmp_path / 'use').mkdir()
    script.policies.clear()
    server = script.start('policy_learner', **use)
    script.until(lambda: bool(script.policies), 'hands out nothing')
    handed = script.policies[0]
    assert handed.version == (1, 0)
    assert handed.trained_on_transitions == learned.trained_on_transitions
    for name, value in learned.tensors.items():
        assert (handed.tensors[name] == value).all(), name
    script.tell(msg.RunStatus.EVALUATING, mode='use')
    updates = script.statuses['policy_learner'].updates
    script.until(lambda: script.statuses['policy_learner'].state == msg.LearnerStatus.WAITING,
                 'is not there to wait')
    assert script.statuses['policy_learner'].updates == updates
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0

    path = RunFolder(script.folder).policy
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused = script.start('policy_learner', **use)
    assert refused.wait(60) == 2
    assert 'run.policy_from' in (error := refused.stderr.read()) and 'damaged' in error
    assert 'Traceback' not in error


SYNC = {'name': 'sync', 'rollouts': 2, 'model_epochs': 300, 'policy_steps': 60}


def turns(status: msg.LearnerStatus) -> float:
    """Turns behind the policy that a status tells of."""
    return metrics_from_message(status).get(TURNS_METRIC, 0.0)


def test_one_process_learns_both_in_turns_and_goes_on_in_the_middle_of_one(script: Script) -> None:
    learner = script.start('policy_learner', SYNC)
    script.until(lambda: bool(script.policies), 'no first policy')
    script.collect(1)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: script.policies[-1].trained_on_transitions == 15
                 and 'policy_learner' in script.statuses, 'rollout not taken')
    assert script.statuses['policy_learner'].updates == 0
    before = script.policies[-1].version

    script.collect(1)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: script.statuses['policy_learner'].updates > 0, 'does not learn')
    learner.send_signal(signal.SIGINT)      # in the middle of the policy's part of the turn
    assert learner.wait(30) == 0
    saved = checkpoint_lines(learner, 'saved')[-1]
    assert saved[0] == 30
    half = script.statuses['policy_learner']
    assert version_from_message(half.version) == before and half.updates < 60

    learner = script.start('policy_learner', SYNC)
    script.until(lambda: script.policies[-1].version.incarnation == 2, 'does not start again')
    first_again = script.policies[-1]
    assert first_again.version == (2, 0) and first_again.updates == 0
    script.until(lambda: turns(script.statuses['policy_learner']) == 1.0, 'the turn is not over')
    status = script.statuses['policy_learner']
    assert status.updates == 60
    assert metrics_from_message(status)['model.epochs'] == pytest.approx(300.0, abs=8.0)
    newest = version_from_message(status.version)
    script.until(lambda: script.policies[-1].version == newest, 'the policy did not come')
    assert script.policies[-1].updates == 60 and newest > first_again.version

    # Nothing is due any more, and a rollout that is not followed by another changes nothing.
    script.collect(1)
    script.tell(msg.RunStatus.FINISHING)
    script.until(lambda: script.statuses['policy_learner'].state == msg.LearnerStatus.FINISHED,
                 'does not finish')
    assert script.statuses['policy_learner'].next_transition == 45
    assert script.statuses['policy_learner'].updates == 60
    script.tell(msg.RunStatus.DONE)
    assert learner.wait(30) == 0
    assert checkpoint_lines(learner, 'restored') == [saved]


def test_a_dataset_is_learned_from_besides_once_the_updates_before_are_made(
        script: Script) -> None:
    improvement = {'offline_updates': 5, 'batch': 16, 'critic_hidden': [8],
                   'minimum_transitions': 10}
    network = {**NETWORK, 'squash': 'tanh_mean', 'distribution': 'state_independent'}
    acting = PolicyNetworkConfig((16, 16), 'tanh', 'tanh_mean', 'state_independent')
    script.expect(acting)
    dataset = script.folder / 'dataset'
    with DatasetWriter(dataset, identity_of(script.task)) as writer:
        writer.append(columns_of(learning_rig.Plant(script.task, seed=8).explore(4),
                                 Source.SCRIPT))
    begin = functools.partial(
        script.start, 'policy_learner', algorithm='awac', dataset=str(dataset),
        sections={'improvement': improvement, 'network': network})

    process = begin()
    assert process.wait(TIMEOUT_S) == CONFIG_STATUS
    assert process.stderr is not None
    assert (f'0 of 5 updates of policy_learner from {dataset} have been made; first: async-mbrl '
            f'pretrain --run-dir {script.folder}') in process.stderr.read()
    script.processes.remove(process)
    process.stderr.close()

    learner = PolicyLearner(
        AwacConfig(offline_updates=5, batch=16, critic_hidden=(8,), minimum_transitions=10),
        ModelConfig(), acting,
        ExplorationConfig(initial_steps=10), script.task, seed=0)
    training = Pretraining(read_offline(script.task, dataset), learner,
                           folder=RunFolder(script.folder).learner)
    assert [progress.updates for progress in training.run(5, interval=5)] == [5]
    training.close()

    begin()
    script.collect(2)
    script.tell(msg.RunStatus.LEARNING)
    script.until(lambda: 'policy_learner' in script.statuses
                 and script.statuses['policy_learner'].updates > 3, 'it does not learn')
    script.until(lambda: metrics_from_message(script.statuses['policy_learner']).get(
        'offline_transitions') == 60, 'the dataset is not there')
    status = script.statuses['policy_learner']
    assert metrics_from_message(status)['offline_updates'] == 5
    assert status.next_transition == 30     # offline data count for nothing


def test_a_model_of_a_dataset_is_there_before_the_arm_moves(script: Script) -> None:
    dataset = script.folder / 'dataset'
    with DatasetWriter(dataset, identity_of(script.task)) as writer:
        writer.append(columns_of(learning_rig.Plant(script.task, seed=8).explore(4),
                                 Source.SCRIPT))
    begin = functools.partial(script.start, dataset=str(dataset), sections={
        'model': {**MODEL, 'offline_updates': 20},
        'improvement': {**IMPROVEMENT, 'offline_updates': 5}})
    process = begin('model_learner')
    assert process.wait(TIMEOUT_S) == CONFIG_STATUS
    assert process.stderr is not None
    assert (f'0 of 20 updates of model_learner from {dataset} have been made; first: async-mbrl '
            f'pretrain --run-dir {script.folder}') in process.stderr.read()
    script.processes.remove(process)
    process.stderr.close()

    model = ModelConfig(members=2, hidden=(16, 16))
    training = Pretraining(
        read_offline(script.task, dataset),
        PolicyLearner(MePpoConfig(rollouts=10, horizon=5, value_hidden=(16,)), model,
                      PolicyNetworkConfig((16, 16), 'tanh', 'clip'),
                      ExplorationConfig(initial_steps=10), script.task, seed=0),
        ModelLearner(model, script.task, seed=0), RunFolder(script.folder).learner)
    assert len(list(training.run(5, 20, interval=20))) == 2
    training.close()

    begin('policy_learner')
    script.until(lambda: bool(script.policies), 'no first policy')
    assert script.policies[0].model_version == (0, 20)
    assert script.policies[0].exploration_std < 0.3     # that of a policy that has learned
    begin('model_learner')
    script.tell(msg.RunStatus.WAITING)      # what comes before that may be of another run
    # The second start of the model learner; nobody has collected anything yet.
    script.until(lambda: set(script.statuses) == set(SECTIONS) and version_from_message(
        script.statuses['policy_learner'].model_version) == (2, 0), 'the model does not come')
    assert script.statuses['model_learner'].updates == 0
    script.collect(2)
    script.tell(msg.RunStatus.LEARNING)
    for name in SECTIONS:
        script.until(lambda name=name: script.statuses[name].updates > 0 and metrics_from_message(
            script.statuses[name]).get('offline_transitions') == 60, f'{name} does not learn')
        assert script.statuses[name].next_transition == 30


def test_a_learner_begins_with_what_another_run_has_learned(script: Script,
                                                            tmp_path: Path) -> None:
    other = PolicyLearner(
        MePpoConfig(rollouts=10, horizon=5, value_hidden=(16,)),
        ModelConfig(members=2, hidden=(16, 16)), PolicyNetworkConfig((16, 16), 'tanh', 'clip'),
        ExplorationConfig(), script.task, seed=9)
    other.save(RunFolder(tmp_path / 'other').learner('policy_learner'))
    script.start('policy_learner', init_from=str(tmp_path / 'other'))
    script.until(lambda: bool(script.policies), 'no first policy')
    found, wanted = script.policies[0], other.snapshot()
    assert found.version == (1, 0)
    for name, value in wanted.tensors.items():
        assert (found.tensors[name] == value).all(), name
    assert found.exploration_std < 0.3      # no longer that of one that knows nothing
