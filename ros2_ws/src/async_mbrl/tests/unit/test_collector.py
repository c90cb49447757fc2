"""Transitions from control steps, what is counted, and what a resumed run repeats."""

from __future__ import annotations

import dataclasses

import collection_rig as rig
import numpy as np
import pytest

from async_mbrl.collection.collector import CollectionConfig, Collector, EpisodeResult
from async_mbrl.core.transition import StepKind, Transition

STEPS = 4
PERIOD_S = 0.1


def make(motion_time_s: float = 60.0, seed: int = 3) -> Collector:
    return Collector(rig.task(), CollectionConfig(motion_time_s=motion_time_s), seed)


def run(collector: Collector, *, begin_s: float = 0.0, number: int = 0, at_goal: bool = False,
        abort_at: int | None = None) -> tuple[list[Transition], EpisodeResult | None]:
    """One learning episode whose reset and steps take exactly as long as configured."""
    command = collector.learning_command(number)
    collector.commanded(command, begin_s)
    now_s = begin_s + rig.task().config.reset_s
    transitions, result = [], None
    for event in rig.episode(rig.task(), command, at_goal=at_goal, abort_at=abort_at):
        taken = collector.take(event, now_s + event.step * PERIOD_S)
        transitions += taken.transitions
        result = taken.result or result
    return transitions, result


def test_transition_holds_what_was_seen_asked_done_and_seen_next() -> None:
    task, collector = rig.task(), make()
    transitions, result = run(collector)
    command = collector.learning_command(0)
    assert [item.number for item in transitions] == [0, 1, 2, 3]
    second = transitions[1]
    np.testing.assert_array_equal(second.observation[:2], np.float32(0.001))
    np.testing.assert_array_equal(second.next_observation[:2], np.float32(0.002))
    np.testing.assert_allclose(second.action_requested, 0.1)
    np.testing.assert_allclose(second.action_applied, 0.15)
    assert second.reward == pytest.approx(
        task.reward(np, second.next_observation.astype(float), second.action_applied.astype(float)))
    assert (second.policy_version, second.log_probability) == (rig.VERSION, -0.5)
    assert [item.intervened for item in transitions] == [False, True, False, False]
    assert [item.truncated for item in transitions] == [False, False, False, True]
    assert not any(item.terminated for item in transitions)
    assert result is not None and result.ret == pytest.approx(sum(t.reward for t in transitions))
    assert result.distance_m == pytest.approx(0.1 * 3**0.5, rel=1e-5) and not result.success
    assert command.episode == 1


def test_steps_taken_over_are_marked_and_counted() -> None:
    task, collector = rig.task(), make()
    for number, taken in enumerate(((1, 2), (), (0, 1, 2, 3))):
        command = collector.learning_command(number)
        collector.commanded(command, 0.0)
        transitions: list[Transition] = []
        for event in rig.episode(task, command, abort_at=3 if number == 2 else None):
            here = event.kind == StepKind.STEP and event.step in taken
            transitions += collector.take(dataclasses.replace(event, takeover=here),
                                          1.0).transitions
        assert [item.takeover for item in transitions] == [
            step in taken for step in range(len(transitions))]
    assert (collector.taken_over, collector.transitions) == (5, 11)
    assert [rate for _, rate in collector.takeover_curve] == [0.5, 0.0, 1.0]


def test_what_a_person_did_is_no_success_of_the_policy() -> None:
    task, collector = rig.task(), make()
    for number, taken in enumerate(((), (1,), (0, 1, 2, 3), ())):
        command = collector.learning_command(number)
        collector.commanded(command, 0.0)
        for event in rig.episode(task, command, at_goal=bool(taken)):
            here = event.kind == StepKind.STEP and event.step in taken
            result = collector.take(dataclasses.replace(event, takeover=here), 1.0).result
        assert result is not None and result.success == bool(taken), 'of the episode, as it was'
    assert collector.episodes == 4 and [item.episode for item in collector.results] == [0, 3]
    assert [row[2] for row in collector.learning_curve] == [0.0, 0.0]
    assert [row[0] for row in collector.learning_curve] == [
        collector.takeover_curve[index][0] for index in (0, 3)]


def test_data_time_counts_resets_between_first_and_last_transition_only() -> None:
    collector, reset_s = make(), rig.task().config.reset_s
    begin_s, episode_s = 50.0, STEPS * PERIOD_S
    for episode in range(3):
        run(collector, begin_s=begin_s + episode * (reset_s + episode_s))
    assert collector.motion_time_s == pytest.approx(3 * episode_s)
    assert collector.robot_time_s == pytest.approx(3 * episode_s + 2 * reset_s)
    # A robot that keeps to its configured times has a wall time equal to its data time.
    assert collector.collection_time_s == pytest.approx(collector.robot_time_s)
    # A move that is broken off, here by a resumed run that orders another one, is no reset.
    collector.commanded(collector.learning_command(9), 1e3)
    collector.abandon()
    run(collector, begin_s=1e3 + reset_s)
    assert collector.robot_time_s == pytest.approx(4 * episode_s + 3 * reset_s)


def test_learning_curve_averages_the_last_five_whole_episodes() -> None:
    collector = make()
    returns = []
    for episode in range(7):
        _, result = run(collector, at_goal=episode >= 4)
        assert result is not None
        returns.append(result.ret)
    assert [row[2] for row in collector.learning_curve] == pytest.approx(
        [0, 0, 0, 0, 0.2, 0.4, 0.6])
    assert collector.learning_curve[-1][1] == pytest.approx(np.mean(returns[-5:]))
    assert collector.learning_curve[-1][0] == pytest.approx(collector.robot_time_s)


def test_last_episode_is_as_short_as_the_motion_time_left() -> None:
    collector = make(motion_time_s=0.6)
    run(collector)
    assert not collector.used_up and collector.learning_command(0).steps == 2
    run(collector)
    assert collector.used_up and collector.motion_time_s == pytest.approx(0.6)
    assert collector.episodes == 2 and len(collector.learning_curve) == 1


@pytest.mark.parametrize(('abort_at', 'kept'), [(-1, 0), (0, 0), (3, 3)])
def test_aborted_episode_keeps_its_steps_as_truncated(abort_at: int, kept: int) -> None:
    collector = make()
    transitions, result = run(collector, abort_at=abort_at)
    assert result is None and not collector.open
    assert [item.truncated for item in transitions] == [False] * (kept - 1) + [True] * min(kept, 1)
    assert collector.motion_time_s == pytest.approx(kept * PERIOD_S)
    assert collector.episodes == 0 and collector.learning_command(1).episode == 1


def test_abort_without_an_observation_leaves_its_last_step_out() -> None:
    collector = make()
    command = collector.learning_command(0)
    collector.commanded(command, 0.0)
    *steps, _ = rig.episode(rig.task(), command, abort_at=2)
    stuck, = rig.episode(rig.task(), command, abort_at=-1)
    taken = [collector.take(event, 0.0) for event in (*steps, stuck)]
    assert [len(item.transitions) for item in taken] == [0, 0, 1, 0]
    assert taken[-1].aborted == 'the arm is stuck'


def test_events_of_other_episodes_change_nothing() -> None:
    collector = make()
    old = collector.learning_command(0)
    collector.commanded(old, 0.0)
    stale = rig.episode(rig.task(), old)
    collector.take(stale[1], 0.0)
    collector.commanded(collector.evaluation_command(1, rig.VERSION), 1.0)
    assert not any(collector.take(event, 1.0).transitions for event in stale)
    assert collector.open and collector.transitions == 0


def test_evaluation_is_judged_by_true_positions_and_is_no_data() -> None:
    collector = make()
    command = collector.evaluation_command(0, rig.VERSION)
    collector.commanded(command, 0.0)
    for event in rig.episode(rig.task(), command):
        taken = collector.take(event, 0.0, tool=command.goal)
        assert not taken.transitions
    assert taken.result is not None and taken.result.success
    assert taken.result.distance_m == pytest.approx(0.0)
    assert taken.result.policy_version == rig.VERSION
    assert collector.robot_time_s == 0.0 and not collector.learning_curve


def test_episodes_follow_from_seed_and_number() -> None:
    first, second, other = make(), make(), make(seed=4)
    goals = set()
    for _ in range(6):
        command, twin = first.learning_command(0), second.learning_command(7)
        np.testing.assert_array_equal(command.goal, twin.goal)
        np.testing.assert_array_equal(command.start_pose, twin.start_pose)
        assert command.seed == twin.seed
        assert not np.array_equal(command.goal, other.learning_command(0).goal)
        run(first)
        run(second)
        evaluation = first.evaluation_command(0, rig.VERSION)
        first.commanded(evaluation, 0.0)
        goals |= {command.goal.tobytes(), evaluation.goal.tobytes()}
    assert len(goals) == 12


def test_doing_the_same_again_gives_the_same_collector() -> None:
    """What a resumed run relies on, with a process that died in the middle of an episode."""
    live, again = make(), make()
    reset_s, log = rig.task().config.reset_s, []

    def do(name: str, *arguments: object) -> None:
        log.append((name, arguments))
        getattr(live, name)(*arguments)

    do('begin_session')
    for number, abort_at in enumerate((None, 2, None)):
        command = live.learning_command(number)
        do('commanded', command, 20.0 * number)
        for event in rig.episode(rig.task(), command, abort_at=abort_at):
            do('take', event, 20.0 * number + reset_s + event.step * PERIOD_S)
    command = live.learning_command(3)
    do('commanded', command, 60.0)
    events = rig.episode(rig.task(), command)
    for event in events[:3]:
        do('take', event, 64.0)
    for name, arguments in log:
        getattr(again, name)(*arguments)
    again.begin_session()
    assert again.transitions == live.transitions == 4 + 2 + 4 + 1
    assert again.learning_curve == live.learning_curve and again.resets == live.resets == 3
    # Nobody collected from 64 on until the first step that is heard again.
    assert again.wall_time_s(1000.0) == pytest.approx(live.wall_time_s(64.0))
    assert [item.number for event in events[3:]
            for item in again.take(event, 1001.0).transitions] == [11, 12, 13]
    assert again.wall_time_s(1002.0) == pytest.approx(live.wall_time_s(64.0) + 1.0)


def test_wall_time_leaves_out_what_is_not_training() -> None:
    collector, reset_s = make(), rig.task().config.reset_s
    collector.begin_session()
    run(collector, begin_s=100.0)
    first = collector.wall_time_s(100.0 + reset_s + STEPS * PERIOD_S)
    assert first == pytest.approx(STEPS * PERIOD_S)
    # Resumed twice; the first of the two got no further than to start.
    collector.begin_session()
    collector.begin_session()
    assert collector.wall_time_s(5000.0) == pytest.approx(first)
    run(collector, begin_s=5050.0)
    whole = first + reset_s + STEPS * PERIOD_S
    assert collector.wall_time_s(5050.0 + reset_s + STEPS * PERIOD_S) == pytest.approx(whole)
    assert collector.collection_time_s == pytest.approx(whole)
    collector.end_training(whole + 2.0)   # the learners took 2 s to save
    collector.commanded(collector.evaluation_command(7, rig.VERSION), 5100.0)
    assert collector.wall_time_s(5200.0) == pytest.approx(whole + 2.0)
    collector.begin_session()
    run(collector, begin_s=10.0)          # the motion time was extended
    assert collector.wall_time_s(11.0) == pytest.approx(whole + 3.0)
