"""The arm stands still while the learners have their turn, on a clock that the test moves."""

from __future__ import annotations

import dataclasses

import collection_rig as rig
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector
from async_mbrl.collection.course import ControllerView, LearnerView, Phase, Surroundings
from async_mbrl.collection.phases import RunSequence
from async_mbrl.core.clock import FakeClock
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import EpisodeCommand


class Run:
    """A sequence under a schedule, with a collector; episodes of 4 steps of 0.1 s."""

    def __init__(self, schedule: ScheduleConfig, **config: object) -> None:
        self.config = CollectionConfig(**{
            'motion_time_s': 1.6, 'learners': ('policy_learner',), **config})
        self.clock = FakeClock(1000.0)
        self.collector = Collector(rig.task(), self.config, seed=0)
        self.sequence = RunSequence(self.config, self.collector, 20.0, schedule)
        self.acting = rig.VERSION
        self.learner = LearnerView(False, rig.VERSION)

    def advance(self) -> EpisodeCommand | None:
        seen = Surroundings(
            controller=ControllerView('holding', '', self.acting, '', self.clock.now()),
            learners={'policy_learner': self.learner})
        command = self.sequence.advance(seen, self.clock.now(), 0)
        if command is not None:
            self.collector.commanded(command, self.clock.now())
        return command

    def episode(self, **how: object) -> None:
        command = self.advance()
        assert command is not None, self.sequence.reason
        for event in rig.episode(rig.task(), command, **how):
            self.sequence.took(self.collector.take(event, self.clock.now()), self.clock.now())
            self.clock.time_s += 0.1

    def waits(self) -> bool:
        return self.advance() is None and 'learners compute' in self.sequence.reason

    def learn(self, turns: int) -> None:
        """The learners complete a turn, and the controller hears of it a moment later."""
        self.learner = LearnerView(False, Version(1, 10 + turns), turns=turns)
        assert self.waits(), 'the policy is not in the controller yet'
        self.acting = self.learner.version


SYNC = ScheduleConfig('sync', rollouts=2)


def test_after_the_rollouts_of_a_turn_the_arm_waits_for_the_policy_learned_from_them() -> None:
    run = Run(SYNC)
    run.episode()
    run.episode()
    assert run.waits() and run.sequence.phase == Phase.LEARNING
    before = run.collector.wall_time_s(run.clock.now())
    run.clock.time_s += 300.0       # no limit of time applies, and the time counts
    assert run.waits()
    assert run.collector.wall_time_s(run.clock.now()) == pytest.approx(before + 300.0)
    run.learn(1)
    run.episode()
    run.learner = dataclasses.replace(run.learner, version=Version(1, 99))
    run.episode()       # a policy that is handed out in between is not waited for
    assert run.waits()
    run.learn(2)
    assert run.advance() is None and run.sequence.phase == Phase.FINISHING


def test_an_episode_that_was_cut_short_is_a_rollout_once_it_has_data() -> None:
    run = Run(SYNC)
    run.episode()
    run.episode(abort_at=-1)        # nothing came of it
    run.clock.time_s += 1.1
    assert run.collector.rollouts == 1
    run.episode(abort_at=2)
    assert run.collector.rollouts == 2
    run.clock.time_s += 1.1
    assert run.waits()


def test_policy_between_rollouts_holds_after_each() -> None:
    run = Run(ScheduleConfig('interleaved', rollouts=2, interleave='data_policy'))
    for turn in (1, 2, 3):
        run.episode()
        assert run.waits()
        run.learn(turn)


def test_side_by_side_nobody_waits() -> None:
    run = Run(ScheduleConfig())
    for _ in range(4):
        run.episode()
    assert run.advance() is None and run.sequence.phase == Phase.FINISHING


@pytest.mark.parametrize('schedule', [ScheduleConfig(), SYNC])
def test_learning_ends_at_the_wall_time_also_while_the_learners_compute(
        schedule: ScheduleConfig) -> None:
    run = Run(schedule, motion_time_s=100.0, wall_time_s=30.0)
    run.episode()
    run.episode()
    run.clock.time_s += 28.0
    assert run.sequence.phase == Phase.LEARNING
    if not schedule.sequential:
        run.episode()       # the one that is going on comes to its end
    run.clock.time_s += 2.0
    assert run.advance() is None and run.sequence.phase == Phase.FINISHING
