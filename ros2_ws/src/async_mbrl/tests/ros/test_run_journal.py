"""What a resumed run knows again from its journal: counts, times, lag, figures under load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arm7
import collection_rig as rig
import pytest
from async_mbrl_interfaces import msg
from builtin_interfaces.msg import Time

from async_mbrl.collection.account import Account
from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.collection.journal import RecordKind
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import Version
from async_mbrl.ros.convert import (
    command_to_message,
    step_to_message,
    transition_to_message,
    version_to_message,
)
from async_mbrl.ros.run_journal import RunJournal, note_action

RESET_S = 2.0
PERIOD_S = 0.1


class Node:
    """Stands in for the node: its clock is moved by the test."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=round(self.time_s * 1e9)))

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=print)


def episode(node: Node, journal: RunJournal, collector: Collector, begin_s: float) -> None:
    """Append an episode as robot_interface does."""
    command = collector.learning_command(collector.attempts)
    node.time_s = begin_s
    journal.append(RecordKind.EPISODE_COMMAND, command_to_message(command, 1, Time()))
    collector.commanded(command, begin_s)
    for number, event in enumerate(rig.episode(rig.task(), command)):
        node.time_s = begin_s + RESET_S + event.step * PERIOD_S
        journal.append(RecordKind.CONTROL_STEP, step_to_message(event, number, 1))
        for transition in collector.take(event, node.time_s).transitions:
            journal.append(RecordKind.TRANSITION, transition_to_message(transition, Time()))


def learner_status(counter: int) -> msg.LearnerStatus:
    return msg.LearnerStatus(name='policy_learner', session='a', updates_in_motion=5,
                             version=version_to_message(Version(1, counter)))


def reopened(node: Node, folder: RunFolder) -> tuple[RunJournal, Collector, Account]:
    journal = RunJournal(node, folder, arm7.robot(), rig.task())
    collector, account = Collector(rig.task(), CollectionConfig(), 3), Account()
    journal.restore(collector, account)
    return journal, collector, account


def test_steps_of_a_person_have_no_policy_lag() -> None:
    collector, account = Collector(rig.task(), CollectionConfig(), 3), Account()
    account.heard_learner(learner_status(rig.VERSION.counter), 0.0)
    command = collector.learning_command(0)
    collector.commanded(command, 0.1)
    for event in rig.episode(rig.task(), command):
        step = event if event.step == 0 else dataclasses.replace(
            event, takeover=True, policy_version=Version(1, 0))
        collector.take(step, 0.1)
        note_action(account, collector, step, 0.1)
    account.heard_learner(learner_status(rig.VERSION.counter), 1.0)
    assert account.lag.percentile(1.0) == 0 == account.lag.last


def test_a_run_resumed_again_and_again_knows_what_it_knew(tmp_path: Path) -> None:
    node, folder = Node(), RunFolder(tmp_path)
    journal, collector, account = reopened(node, folder)
    journal.begin_session()   # before the first /clock: time 0
    collector.begin_session()
    node.time_s = 1000.0
    journal.append(RecordKind.RUN_STATUS, msg.RunStatus(phase=msg.RunStatus.LEARNING))
    journal.append(RecordKind.LEARNER_STATUS, learner_status(rig.VERSION.counter + 3))
    episode(node, journal, collector, 1000.0)
    journal.append(RecordKind.CONTROLLER_STATUS, msg.ControllerStatus(ticks=50, jitter_max_ms=0.5))
    node.time_s += 1.0
    journal.append(RecordKind.LEARNER_STATUS, learner_status(rig.VERSION.counter + 3))
    journal.close()

    for again in (False, True):   # the first time nothing happens
        node.time_s = 0.0
        journal, collector, account = reopened(node, folder)
        journal.begin_session()
        collector.begin_session()
        first_s = collector.wall_time_s(9e9)
        assert first_s == pytest.approx(4 * PERIOD_S)
        if not again:
            journal.close()
    episode(node, journal, collector, 7000.0)
    wall_s = collector.wall_time_s(node.time_s + 1.0)
    assert wall_s == pytest.approx(first_s + RESET_S + 4 * PERIOD_S + 1.0)
    journal.append(RecordKind.RUN_STATUS, msg.RunStatus(
        phase=msg.RunStatus.EVALUATING, wall_time_s=wall_s))
    journal.append(RecordKind.CONTROLLER_STATUS, msg.ControllerStatus(ticks=90, jitter_max_ms=9.0))
    journal.close()

    journal, collector, account = reopened(node, folder)
    journal.close()
    assert collector.transitions == 8 and journal.numbers_missing == 0
    assert collector.wall_time_s(9e9) == pytest.approx(wall_s)
    assert account.lag.percentile(0.5) == 3
    assert account.controller_under_load.jitter_max_ms == 0.5
    assert account.totals_under_load['ticks'].value == 50 and account.totals['ticks'].value == 90
    assert account.learner_total('policy_learner', 'updates_in_motion') == 5
