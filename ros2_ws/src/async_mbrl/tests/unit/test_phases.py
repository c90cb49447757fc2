"""The course of a run on a clock that the test moves: every way on, and every way to fail."""

from __future__ import annotations

import dataclasses

import collection_rig as rig
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.collection.phases import (
    ControllerView,
    LearnerView,
    Phase,
    RunSequence,
    Surroundings,
)
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import EpisodeCommand, Mode

LEARNERS = ('model_learner', 'policy_learner')


class Run:
    """A run sequence with its collector and everyone it hears of, all well at first."""

    def __init__(self, **config: object) -> None:
        self.config = CollectionConfig(**{
            'motion_time_s': 0.8, 'live_evaluation_episodes': 2, **config})
        self.clock = FakeClock(1000.0)
        self.collector = Collector(rig.task(), self.config, seed=0)
        self.sequence = RunSequence(self.config, self.collector, progress_timeout_s=20.0)
        self.controller = ControllerView('holding', '', rig.VERSION, '', 0.0)
        self.seen = Surroundings(
            learners={name: LearnerView(False, rig.VERSION) for name in LEARNERS})
        self.commands: list[EpisodeCommand] = []
        self.silent_since: float | None = None

    def see(self, **changes: object) -> None:
        self.seen = dataclasses.replace(self.seen, **changes)

    def advance(self) -> EpisodeCommand | None:
        heard_s = self.clock.now() if self.silent_since is None else self.silent_since
        seen = self.seen if self.controller is None else dataclasses.replace(
            self.seen, controller=dataclasses.replace(self.controller, heard_s=heard_s))
        command = self.sequence.advance(seen, self.clock.now(), len(self.commands))
        if command is not None:
            self.commands.append(command)
            self.collector.commanded(command, self.clock.now())
        return command

    def execute(self, command: EpisodeCommand, **how: object) -> None:
        for event in rig.episode(rig.task(), command, **how):
            self.sequence.took(self.collector.take(event, self.clock.now()), self.clock.now())

    def learn(self) -> None:
        while (command := self.advance()) is not None:
            self.execute(command)
        assert self.sequence.phase == Phase.FINISHING

    def finish(self, version: Version) -> None:
        self.see(learners={name: LearnerView(True, version) for name in LEARNERS})


def test_whole_course() -> None:
    run = Run()
    run.learn()
    assert [command.mode for command in run.commands] == [Mode.LEARNING] * 2
    assert 'model_learner to save' in run.sequence.reason and not run.sequence.trained
    last = Version(1, 9)
    run.finish(last)
    assert run.advance() is None and run.sequence.trained
    assert 'the controller to take the last policy, 1.9, in place of 1.4' in run.sequence.reason
    run.controller = dataclasses.replace(run.controller, policy_version=last)
    for _ in range(2):
        command = run.advance()
        assert command is not None and run.sequence.phase == Phase.EVALUATING
        assert (command.mode, command.policy_version) == (Mode.EVALUATION, last)
        run.execute(command, version=last, at_goal=True)
    assert run.advance() is None and run.sequence.complete
    assert [result.success for result in run.sequence.evaluation] == [True, True]
    run.sequence.written()
    assert run.sequence.phase == Phase.DONE


def test_evaluation_begins_anew_when_a_restarted_learner_hands_out_its_policy_again() -> None:
    run = Run()
    run.learn()
    run.finish(rig.VERSION)
    command = run.advance()
    assert command is not None
    run.execute(command)
    command = run.advance()
    assert command is not None
    again = Version(rig.VERSION.incarnation + 1, 0)
    run.see(learners={**run.seen.learners, 'policy_learner': LearnerView(False, again)})
    run.execute(command, abort_at=-1)   # the controller has the pinned version no more
    assert run.sequence.evaluation_aborted == 1
    run.controller = dataclasses.replace(run.controller, policy_version=again)
    assert run.advance() is None and run.sequence.phase == Phase.FINISHING
    run.finish(again)
    run.clock.time_s += 1.1
    for _ in range(2):
        command = run.advance()
        assert command is not None and command.policy_version == again
        run.execute(command, version=again)
    assert run.advance() is None and run.sequence.complete
    assert [result.policy_version for result in run.sequence.evaluation] == [again] * 2
    assert run.sequence.evaluation_aborted == 0 and run.sequence.phase == Phase.EVALUATING


def test_policy_that_never_stays_the_same_ends_the_evaluation() -> None:
    run = Run()
    run.learn()
    for counter in range(5):
        version = Version(3, counter)
        run.finish(version)
        run.controller = dataclasses.replace(run.controller, policy_version=version)
        command = run.advance()
        assert command is not None and command.policy_version == version
        run.execute(command, abort_at=-1)
        run.clock.time_s += 1.1
    assert run.sequence.phase == Phase.FAILED


def test_next_command_comes_at_once_when_an_episode_ends() -> None:
    run = Run()
    first = run.advance()
    assert first is not None and run.advance() is None
    run.execute(first)
    assert run.advance() is not None


@pytest.mark.parametrize(('change', 'reason'), [
    ({'joint_states_missing': 'joint states on joint_states (none come)'}, 'joint states on'),
    ({'learners': {'policy_learner': LearnerView(False, rig.VERSION)}},
     'model_learner (no learner_status)'),
    ({'control_steps_missing': True}, 'control steps of before'),
])
def test_waits_and_then_fails_naming_what_is_missing(change: dict[str, object],
                                                     reason: str) -> None:
    run = Run()
    run.see(**change)
    assert run.advance() is None
    assert run.sequence.phase == Phase.WAITING and reason in run.sequence.reason
    run.clock.sleep_until(1061.0)
    assert run.advance() is None
    assert run.sequence.phase == Phase.FAILED and reason in run.sequence.reason
    assert 'not there after 60 s' in run.sequence.reason


def test_waits_for_a_controller_that_stands_still_with_a_policy() -> None:
    run = Run()
    ready = run.controller
    for controller, reason in (
            (None, 'controller (no controller_status)'),
            (dataclasses.replace(ready, policy_version=NO_VERSION, last_rejection='too old'),
             'a policy in the controller (last refused: too old)'),
            (dataclasses.replace(ready, state='waiting'), 'joint states in the controller'),
            (dataclasses.replace(ready, state='running'), 'to end the episode')):
        run.controller = controller
        assert run.advance() is None and reason in run.sequence.reason
    run.controller = ready
    assert run.advance() is not None


def test_aborted_episodes_are_tried_again_and_then_given_up() -> None:
    run = Run()
    for attempt in range(5):
        command = run.advance()
        assert command is not None and command.episode == attempt
        run.execute(command, abort_at=-1)
        assert run.advance() is None
        run.clock.time_s += 0.9
        assert run.advance() is None
        run.clock.time_s += 0.2
    assert run.sequence.phase == Phase.FAILED
    assert '5 episodes in a row were aborted: the arm is stuck' in run.sequence.reason


def test_one_good_episode_forgives_aborted_ones() -> None:
    run = Run(motion_time_s=60.0)
    for abort_at in (-1, -1, -1, -1, None) * 2:
        command = run.advance()
        assert command is not None
        run.execute(command, abort_at=abort_at)
        run.clock.time_s += 1.1
    assert run.sequence.phase == Phase.LEARNING


def test_controller_fault_silence_and_standstill_end_the_run() -> None:
    run = Run()
    run.advance()
    run.controller = dataclasses.replace(run.controller, state='fault', fault='three in a row')
    run.advance()
    assert run.sequence.reason == 'controller: three in a row'

    run = Run()
    run.advance()
    run.silent_since = run.clock.now()
    run.clock.time_s += 11.0
    run.advance()
    assert run.sequence.reason == 'the controller has been silent for 11 s'

    run = Run()
    run.advance()
    run.clock.time_s += 21.0
    run.advance()
    assert run.sequence.reason.endswith('no control step has come for 21 s')
    assert run.sequence.phase == Phase.FAILED


def test_learner_that_does_not_finish_ends_the_run() -> None:
    run = Run()
    run.learn()
    run.clock.time_s += 61.0
    assert run.advance() is None
    assert run.sequence.phase == Phase.FAILED and 'policy_learner to save' in run.sequence.reason


def test_new_controller_is_waited_for_and_its_predecessors_episode_given_up() -> None:
    run = Run()
    run.advance()
    run.sequence.controller_restarted(run.clock.now())
    run.controller = dataclasses.replace(run.controller, state='moving')
    assert run.advance() is None and run.sequence.phase == Phase.WAITING
    run.controller = dataclasses.replace(run.controller, state='idle')
    command = run.advance()
    assert command is not None and command.episode == 1


def test_resumed_run_waits_for_the_end_of_the_episode_of_before() -> None:
    run = Run()
    command = run.advance()
    assert command is not None
    run.sequence = RunSequence(run.config, run.collector, 20.0)
    run.controller = dataclasses.replace(run.controller, state='running')
    assert run.advance() is None
    run.controller = dataclasses.replace(run.controller, state='holding')
    run.clock.time_s += 0.5
    assert run.advance() is None   # the last events may still be on their way
    run.execute(command)
    following = run.advance()
    assert following is not None and following.episode == 1

    lost = RunSequence(run.config, run.collector, 20.0)   # nothing more comes of this one
    run.sequence = lost
    assert run.advance() is None
    run.clock.time_s += 1.1
    assert run.advance() is not None and lost.phase == Phase.LEARNING


def test_motion_time_used_up_before_goes_straight_to_finishing() -> None:
    run = Run()
    run.learn()
    again = RunSequence(run.config, run.collector, 20.0)
    run.sequence = again
    assert run.advance() is None and again.phase == Phase.FINISHING


def test_interrupted_run_commands_nothing_more_and_is_not_done() -> None:
    run = Run()
    command = run.advance()
    assert command is not None
    run.execute(command)
    run.sequence.interrupt()
    assert run.advance() is None
    run.sequence.written()
    assert (run.sequence.phase, run.sequence.reason) == (Phase.LEARNING, 'interrupted')
