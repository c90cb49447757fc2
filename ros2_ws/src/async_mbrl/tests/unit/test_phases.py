"""The course of a run on a clock that the test moves: every way on, and every way to fail."""

from __future__ import annotations

import dataclasses

import collection_rig as rig
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.collection.course import ControllerView, LearnerView, Phase, Surroundings
from async_mbrl.collection.phases import RunSequence
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.snapshot import NO_VERSION, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode

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
    assert run.advance() is None and run.sequence.phase == Phase.FAILED


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
    assert run.advance() is None and run.sequence.phase == Phase.FAILED
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


def test_pause_holds_the_arm_and_lets_no_time_limit_run() -> None:
    run = Run()
    command = run.advance()
    assert command is not None
    run.sequence.ask_pause('operator', 'paused; go on with start')
    held = run.advance()
    assert held is not None and held.kind == CommandKind.HOLD and not run.collector.open
    assert run.sequence.paused and run.sequence.reason == 'paused; go on with start'
    run.execute(command, abort_at=2)    # the controller ends it: no longer of interest
    run.clock.time_s += 1000.0
    assert run.advance() is None and run.sequence.phase == Phase.LEARNING
    assert run.sequence.release('operator') and not run.sequence.release('operator')
    following = run.advance()
    assert following is not None and following.episode == 1 and not run.sequence.paused
    assert run.sequence.reason == ''


def test_two_who_ask_to_pause_must_both_release() -> None:
    run = Run()
    run.advance()
    run.sequence.ask_pause('operator', 'by service')
    run.sequence.ask_pause('lifecycle', 'the node is inactive')
    run.advance()
    run.sequence.release('operator')
    assert run.advance() is None and run.sequence.reason == 'the node is inactive'
    run.sequence.release('lifecycle')
    assert run.advance() is not None


def test_paused_before_the_run_begins_orders_nothing_and_does_not_time_out() -> None:
    run = Run()
    run.controller = None
    run.sequence.ask_pause('lifecycle', 'the node is inactive')
    assert run.advance() is None
    run.clock.time_s += 1000.0
    assert run.advance() is None and run.sequence.phase == Phase.WAITING
    run.sequence.release('lifecycle')
    run.clock.time_s += 59.0
    assert run.advance() is None and 'controller (no controller_status)' in run.sequence.reason


@pytest.mark.parametrize(('blocked', 'words'), [
    ({'state': 'estop', 'fault': 'emergency_stop', 'causes': ('emergency_stop: pressed',)},
     ('emergency stop', 'still there: emergency_stop: pressed', 'controller/clear_fault')),
    ({'state': 'fault', 'fault': 'joint states jump'}, ('in fault', 'controller/clear_fault')),
])
def test_arm_that_must_not_move_pauses_the_run_and_its_abort_does_not_count(
        blocked: dict[str, object], words: tuple[str, ...]) -> None:
    run = Run(fault_patience_s=900.0, maximum_aborts=1)
    well = run.controller
    command = run.advance()
    assert command is not None
    run.execute(command, abort_at=2)     # is heard before the status that explains it
    run.controller = dataclasses.replace(run.controller, **blocked)
    held = run.advance()
    assert held is not None and held.kind == CommandKind.HOLD and run.sequence.paused
    for word in words:
        assert word in run.sequence.reason
    run.clock.time_s += 800.0
    assert run.advance() is None and run.sequence.phase == Phase.LEARNING
    run.controller = well
    following = run.advance()
    assert following is not None and following.episode == 1 and not run.sequence.paused


def test_fault_that_is_not_cleared_in_time_ends_the_run() -> None:
    run = Run(fault_patience_s=30.0)
    well = run.controller
    run.advance()
    for begin_s in (0.0, 100.0):     # cleared once, and then not
        run.clock.sleep_until(1000.0 + begin_s)
        run.controller = dataclasses.replace(well, state='fault', fault='jump')
        run.advance()
        run.clock.time_s += 29.0
        run.advance()
        assert run.sequence.phase == Phase.LEARNING
        if not begin_s:
            run.controller = well
            assert run.advance() is not None
    run.clock.time_s += 2.0
    run.advance()
    assert (run.sequence.phase, run.sequence.reason) == (Phase.FAILED, 'controller: jump')


def test_silent_controller_ends_a_paused_run_too() -> None:
    run = Run()
    run.advance()
    run.controller = dataclasses.replace(run.controller, state='estop')
    run.advance()
    run.silent_since = run.clock.now()
    run.clock.time_s += 11.0
    run.advance()
    assert run.sequence.reason == 'the controller has been silent for 11 s'


def test_abort_counts_only_once_the_controller_has_been_heard_after_it() -> None:
    run = Run(maximum_aborts=1)
    command = run.advance()
    assert command is not None
    run.silent_since = run.clock.now()
    run.clock.time_s += 0.1
    run.execute(command, abort_at=-1)
    run.clock.time_s += 2.0
    assert run.advance() is None and run.sequence.phase == Phase.LEARNING
    run.silent_since = None
    run.advance()
    assert run.sequence.phase == Phase.FAILED


def test_evaluation_in_between_takes_the_newest_policy_and_learning_goes_on() -> None:
    run = Run(motion_time_s=60.0)
    command = run.advance()
    assert command is not None
    assert run.sequence.evaluate() == ''
    assert 'going on already' in run.sequence.evaluate()
    assert run.advance() is None          # not before the episode is over
    run.execute(command)
    wall_s = run.collector.wall_time_s(run.clock.now())
    for version in (Version(1, 7), Version(1, 8)):
        judged = run.advance()
        assert judged is not None and judged.mode == Mode.EVALUATION
        assert judged.policy_version == NO_VERSION and run.sequence.phase == Phase.LEARNING
        assert 'evaluating in between' in run.sequence.reason
        run.clock.time_s += 5.0
        run.execute(judged, version=version, at_goal=True)
    assert run.collector.wall_time_s(run.clock.now()) == wall_s
    following = run.advance()
    assert following is not None and following.mode == Mode.LEARNING
    check, = run.sequence.checks
    assert str(check).startswith('2 of 2 episodes successful') and '1.7 to 1.8' in str(check)
    assert check.to_mapping()['success_rate'] == 1.0
    assert run.sequence.evaluation == [] and run.sequence.reason == ''


def test_evaluation_is_refused_where_nothing_is_learned() -> None:
    assert 'waiting, not learning' in Run().sequence.evaluate()
    run = Run(live_evaluation_episodes=0)
    run.advance()
    assert 'live_evaluation_episodes is 0' in run.sequence.evaluate()


def test_collision_ahead_breaks_the_episode_off_and_counts() -> None:
    run = Run(maximum_aborts=2)
    for attempt in range(2):
        command = run.advance()
        assert command is not None and command.episode == attempt
        held = run.sequence.broke_off('hand and floor are 5 mm apart', run.clock.now(), 9)
        assert held is not None and held.kind == CommandKind.HOLD
        run.collector.commanded(held, run.clock.now())
        assert run.sequence.broke_off('again', run.clock.now(), 10) is None
        run.clock.time_s += 1.1
    run.advance()
    assert run.sequence.reason == ('2 episodes in a row were aborted: '
                                   'hand and floor are 5 mm apart')


def test_controller_that_takes_no_orders_is_asked_again_until_it_does() -> None:
    run = Run(maximum_aborts=1)
    for attempt in range(20):
        command = run.advance()
        assert command is not None and command.episode == attempt
        abort = dataclasses.replace(rig.episode(rig.task(), command, abort_at=-1)[0],
                                    reason='not now: the controller is not active')
        run.sequence.took(run.collector.take(abort, run.clock.now()), run.clock.now())
        assert run.advance() is None and run.sequence.paused
        assert run.sequence.reason == ('the controller takes no orders: '
                                       'the controller is not active')
        run.clock.time_s += 1.1
    command = run.advance()
    assert command is not None and run.sequence.paused      # not known yet
    run.sequence.acted()
    assert run.advance() is None and not run.sequence.paused and run.sequence.reason == ''
    assert run.sequence.phase == Phase.LEARNING
