"""Episodes, moves and holding, tick by tick."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from control_rig import (
    JOINTS,
    NETWORK,
    InertiaPlant,
    episode,
    make_reach,
    make_robot,
    make_snapshot,
)
from filter_rig import Checks, SimpleArm

from async_mbrl.control.core import ControlCore
from async_mbrl.control.impedance import MOST_ERROR_RAD
from async_mbrl.control.move import PEAK_SPEED, SETTLE_SHARE, MinimumJerkMove
from async_mbrl.control.policy import PolicyLayout, PolicyParameters
from async_mbrl.core.config import ConfigError
from async_mbrl.core.snapshot import SnapshotError, Version
from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode, StepKind

PERIOD_S = 0.002
TICKS_PER_STEP = 50


class Bench:
    """A core on a plant, in lockstep."""

    def __init__(self, **changes):
        self.robot = make_robot(**changes)
        self.task = make_reach(self.robot)
        self.core = ControlCore(self.robot, self.task, NETWORK)
        self.plant = InertiaPlant(self.robot)
        self.ticks = 0
        self.events = []
        self.sent = []
        self.state_time_s = None

    def policy(self, **fields) -> None:
        self.core.set_policy(PolicyParameters.from_snapshot(make_snapshot(self.task, **fields)))

    def order(self, number: int = 0, **fields) -> None:
        self.core.command(episode(self.robot, number, **fields))

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            time_s = self.ticks * PERIOD_S
            state_time_s = time_s if self.state_time_s is None else self.state_time_s
            sent = self.core.tick(time_s, self.plant.position, self.plant.velocity, state_time_s)
            self.sent.append(None if sent is None else sent.copy())
            self.plant.step(sent if self.robot.command_interface == 'effort' else None, PERIOD_S)
            self.events += self.core.drain()
            self.ticks += 1

    def until(self, kind: StepKind, most: int = 5000):
        for _ in range(most):
            if self.events and self.events[-1].kind == kind:
                return self.events[-1]
            self.tick()
        raise AssertionError(f'no {kind.name} within {most} ticks; {self.events}')

    def kinds(self):
        return [event.kind for event in self.events]


def under_way(interface: str, scale: float) -> Bench:
    """Give a bench at the first step of an episode whose policy always asks for much."""
    bench = Bench(command_interface=interface, action_scale=(scale,) * JOINTS)
    bench.policy(bias=0.9)
    bench.order(steps=100)
    bench.until(StepKind.STEP)
    return bench


def test_idle_sends_nothing_until_asked():
    bench = Bench()
    bench.policy()
    bench.tick(10)
    assert bench.sent == [None] * 10
    assert bench.core.state == 'idle'


def test_episode_has_exact_times_and_applied_actions():
    bench = Bench()
    bench.policy(bias=0.25)
    bench.order()
    end = bench.until(StepKind.END)
    done, *steps, _ = bench.events
    assert bench.kinds() == [StepKind.MOVE_DONE, *3 * [StepKind.STEP], StepKind.END]
    assert done.time_s == pytest.approx(0.5, abs=1e-9)
    first = steps[0]
    for number, step in enumerate([*steps, end]):
        assert step.time_s - first.time_s == pytest.approx(0.1 * number, abs=1e-9)
        assert step.step == number
        assert step.observation.dtype == np.float32
        assert step.observation.shape == (bench.task.observation_size,)
        assert np.array_equal(step.observation[bench.task.previous_action],
                              step.previous_action_applied)
    for step in steps:
        assert step.action_requested == pytest.approx(np.full(JOINTS, 0.25))
        assert step.log_probability == 0.0
    for step in [*steps[1:], end]:
        assert step.previous_action_applied == pytest.approx(np.full(JOINTS, 0.25), abs=1e-6)
        assert not step.previous_intervened
    assert bench.core.state == 'holding'
    assert not end.action_requested.size


def test_applied_action_is_the_mean_of_what_was_sent():
    bench = Bench()
    bench.policy(bias=1.0)
    bench.order(steps=15)
    bench.until(StepKind.END)
    steps = [event for event in bench.events if event.kind in (StepKind.STEP, StepKind.END)]
    changed = [event for event in steps if event.previous_intervened]
    assert changed, 'pushing for 1.5 s must reach the speed limits'
    for event in changed:
        tick = round(event.time_s / PERIOD_S)
        mean = np.mean(bench.sent[tick - TICKS_PER_STEP:tick], 0) / bench.robot.action_scale
        assert event.previous_action_applied == pytest.approx(mean, abs=1e-5)


def test_learning_explores_and_evaluation_does_not():
    bench = Bench()
    bench.policy(std=0.3, correlation=0.5)
    bench.order(mode=Mode.LEARNING)
    bench.until(StepKind.END)
    learned = [event.action_requested for event in bench.events if event.kind == StepKind.STEP]
    assert np.std(learned) > 0.1
    assert all(event.exploration_std == 0.3 for event in bench.events
               if event.kind == StepKind.STEP)
    bench.events.clear()
    bench.order(1, mode=Mode.EVALUATION)
    bench.until(StepKind.END)
    assert not np.any([event.action_requested for event in bench.events
                       if event.kind == StepKind.STEP])


def test_policy_is_swapped_between_ticks_but_never_during_an_evaluation():
    bench = Bench()
    bench.policy(version=Version(1, 0))
    bench.order(mode=Mode.LEARNING, steps=4)
    bench.until(StepKind.STEP)
    bench.policy(version=Version(1, 1))
    bench.until(StepKind.END)
    versions = [event.policy_version.counter for event in bench.events
                if event.kind == StepKind.STEP]
    assert versions == [0, 1, 1, 1]
    bench.events.clear()
    bench.order(1, mode=Mode.EVALUATION, policy_version=Version(1, 1))
    bench.tick(10)
    bench.policy(version=Version(1, 2))
    bench.until(StepKind.END)
    assert {event.policy_version for event in bench.events} == {Version(1, 1)}
    bench.tick()
    assert bench.core.policy_version == Version(1, 2)


def test_evaluation_of_another_version_is_aborted():
    bench = Bench()
    bench.policy(version=Version(1, 3))
    bench.order(mode=Mode.EVALUATION, policy_version=Version(1, 4))
    aborted = bench.until(StepKind.ABORTED)
    assert '1.4' in aborted.reason
    assert '1.3' in aborted.reason
    assert StepKind.STEP not in bench.kinds()


@pytest.mark.parametrize(('fields', 'word'), [
    ({'start_pose': np.zeros(3)}, 'start_pose'),
    ({'start_pose': np.full(JOINTS, 9.0)}, 'position limits'),
    ({'start_pose': np.full(JOINTS, np.nan)}, 'start_pose'),
    ({'goal': np.zeros(2, np.float32)}, 'goal'),
    ({'steps': 0}, 'no steps'),
    ({'move_duration_s': -1.0}, 'move_duration_s'),
])
def test_orders_that_make_no_sense_are_refused_and_move_nothing(fields, word):
    bench = Bench()
    bench.policy()
    bench.order(**fields)
    bench.tick(3)
    assert bench.kinds() == [StepKind.ABORTED]
    assert word in bench.events[0].reason
    assert bench.sent == [None] * 3


def test_nothing_moves_without_a_policy():
    bench = Bench()
    bench.order()
    bench.tick(3)
    assert bench.kinds() == [StepKind.ABORTED]
    assert bench.sent == [None] * 3


def test_stale_joint_states_stop_the_arm():
    bench = Bench()
    bench.policy(bias=0.2)
    bench.order(steps=100)
    bench.until(StepKind.STEP)
    bench.tick(20)
    bench.state_time_s = lost_s = bench.ticks * PERIOD_S
    bench.tick(round(bench.robot.state_timeout_s / PERIOD_S) + 2)
    event = bench.events[-1]
    assert event.kind == StepKind.ABORTED
    assert 'stale' in event.reason
    assert event.time_s - lost_s <= bench.robot.state_timeout_s + 2 * PERIOD_S
    assert not bench.sent[-1].any()
    assert bench.core.state == 'holding'
    assert bench.core.stale_holds == 1
    # Back again, the arm is held where it is by then.
    bench.state_time_s = None
    bench.plant.velocity[:] = 0.0
    bench.tick()
    assert np.abs(bench.sent[-1]).max() < 1e-9
    bench.order(1)
    bench.until(StepKind.END)


@pytest.mark.parametrize('interface', ['velocity', 'position'])
def test_other_interfaces_run_episodes_and_stop_on_stale_states(interface):
    bench = Bench(command_interface=interface)
    bench.policy(bias=0.02)
    bench.order()
    bench.until(StepKind.END)
    for event in bench.events[2:]:
        # The plant stands still here; what is asked is reached as fast as the limits allow, and
        # what the ramp took away is in the applied action.
        assert event.previous_action_applied == pytest.approx(np.full(JOINTS, 0.02), rel=0.35)
        assert not event.previous_intervened
    bench.state_time_s = 0.0
    bench.tick()
    assert bench.events[-1].kind == StepKind.END, 'the arm was held by then'
    bench.tick(100)
    assert bench.core.stale_holds == 1
    assert bench.core.safe
    if interface == 'velocity':
        assert not bench.sent[-1].any()
    assert np.array_equal(bench.sent[-1], bench.sent[-2])


def test_an_action_that_is_not_finite_ends_the_episode_and_the_third_is_a_fault():
    bench = Bench()
    # Each parameter is finite, yet the features overflow, and no weight makes that good.
    bench.policy(state_std=np.full(bench.task.state_size, 1e-40, np.float32))
    for number in range(3):
        assert bench.core.state != 'fault'
        bench.events.clear()
        bench.order(number)
        with np.errstate(over='ignore', invalid='ignore'):
            bench.until(StepKind.ABORTED)
        assert bench.kinds() == [StepKind.MOVE_DONE, StepKind.ABORTED]
        assert 'not finite' in bench.events[-1].reason
    assert bench.core.state == 'fault'
    assert 'in a row' in bench.core.fault
    assert bench.core.fault_causes == ()
    assert all(np.isfinite(sent).all() for sent in bench.sent if sent is not None)
    bench.events.clear()
    bench.order(3)
    bench.tick(5)
    assert bench.kinds() == [StepKind.ABORTED]
    assert 'fault' in bench.events[0].reason
    assert bench.core.clear() == ''
    assert bench.core.state == 'holding'
    bench.policy(version=Version(1, 1))
    bench.order(4)
    bench.until(StepKind.END)


@pytest.mark.parametrize('interface', ['effort', 'velocity', 'position'])
def test_a_cause_brakes_a_moving_arm_within_the_limits(interface):
    bench = Bench(command_interface=interface)
    arm = SimpleArm(bench.robot, np.array(bench.robot.home), np.zeros(JOINTS))
    bench.plant.position, bench.plant.velocity = arm.position, arm.velocity
    bench.policy(bias=0.3 if interface == 'effort' else 0.05)
    bench.order(steps=100, start_pose=np.zeros(0))
    checks = Checks(bench.robot)
    checks.begin(arm.position if interface == 'position' else np.zeros(JOINTS))

    def tick(count: int) -> None:
        for _ in range(count):
            bench.tick()
            checks.take(bench.sent[-1])
            arm.step(bench.sent[-1])
            bench.plant.position, bench.plant.velocity = arm.position, arm.velocity

    tick(150)
    before = np.abs(arm.velocity).max()
    assert before > 0.02
    bench.core.set_cause('emergency_stop', True, 'button')
    tick(500)
    assert bench.core.state == 'estop'
    assert bench.events[-1].reason == 'button'
    assert np.abs(arm.velocity).max() < 0.2 * before
    bench.core.set_cause('emergency_stop', False)
    assert bench.core.clear() == ''
    tick(100)
    assert bench.core.state == 'holding'
    assert not checks.counts


def test_an_episode_without_a_start_pose_begins_where_the_arm_is():
    bench = Bench()
    bench.plant.position = bench.plant.position + 0.1
    bench.policy()
    bench.tick(5)
    bench.order(start_pose=np.zeros(0), move_duration_s=0.0)
    bench.tick()
    assert bench.kinds() == [StepKind.MOVE_DONE, StepKind.STEP]
    assert bench.events[-1].observation[:JOINTS] == pytest.approx(
        bench.plant.position, abs=1e-3)
    bench.until(StepKind.END)


def test_a_dry_run_arrives_in_time_and_has_applied_nothing():
    bench = Bench()
    bench.core = ControlCore(bench.robot, bench.task, NETWORK, dry_run=True)
    bench.policy(bias=0.5)
    bench.plant.inertia = np.full(JOINTS, 1e12)     # nothing reaches the arm
    bench.order(start_pose=np.array(bench.robot.home) + 0.3)
    end = bench.until(StepKind.END)
    assert bench.events[0].kind == StepKind.MOVE_DONE
    assert end.time_s - bench.events[1].time_s == pytest.approx(0.3)
    for event in bench.events[1:]:
        assert not event.previous_action_applied.any()
    assert np.abs(bench.sent[-60]).max() > 0.1


def test_a_new_policy_takes_over_little_by_little():
    bench = Bench(policy_blend_s=0.4)
    bench.policy(version=Version(1, 0), bias=0.0)
    bench.order(steps=8)
    bench.until(StepKind.STEP)
    bench.policy(version=Version(1, 1), bias=0.4)
    bench.tick(TICKS_PER_STEP)
    bench.policy(version=Version(1, 2), bias=0.4)     # waits until the other has taken over
    bench.until(StepKind.END)
    steps = [event for event in bench.events if event.kind == StepKind.STEP]
    assert [float(step.action_requested[0]) for step in steps] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4], abs=0.003)
    versions = [step.policy_version.counter for step in steps]
    assert versions == [0, 1, 1, 1, 1, 2, 2, 2]
    # An episode begins with the newest alone.
    bench.policy(version=Version(1, 3), bias=-0.2)
    bench.events.clear()
    bench.order(1, mode=Mode.EVALUATION, start_pose=np.zeros(0))
    bench.until(StepKind.END)
    assert bench.events[1].action_requested == pytest.approx(np.full(JOINTS, -0.2))


def test_a_released_arm_is_sent_nothing_until_the_next_order():
    bench = Bench()
    bench.policy()
    bench.order()
    bench.until(StepKind.END)
    bench.core.release()
    bench.tick()
    assert bench.sent[-1] is not None, 'the arm is ours while the core is enabled'
    bench.core.enable(False)
    bench.core.release()
    bench.tick(3)
    assert bench.sent[-3:] == [None] * 3
    bench.core.enable(True)
    bench.tick()
    assert bench.sent[-1] is None
    bench.order(1)
    bench.tick()
    assert bench.sent[-1] is not None


def test_a_move_takes_exactly_its_time_unless_the_speed_limit_forbids():
    start, target = np.zeros(2), np.array([1.0, -0.5])
    limit = np.array([1.5, 1.5])
    move = MinimumJerkMove(start, target, 4.0, limit, 500.0)
    assert move.ticks == 2000
    speeds = np.array([move.at(k / 500.0)[1] for k in range(2001)])
    places = np.array([move.at(k / 500.0)[0] for k in range(2001)])
    assert np.array_equal(places[0], start)
    assert np.array_equal(places[round((1 - SETTLE_SHARE) * 2000)], target)
    assert np.gradient(places[:, 0], 0.002) == pytest.approx(speeds[:, 0], abs=0.01)
    fast = MinimumJerkMove(start, target, 0.5, limit, 500.0)
    peak = max(np.abs(fast.at(k / 500.0)[1]).max() for k in range(fast.ticks))
    assert peak == pytest.approx(1.5, rel=1e-3)
    assert fast.ticks == round((PEAK_SPEED / 1.5 + SETTLE_SHARE * 0.5) * 500)


def test_a_move_that_is_blocked_is_given_up():
    bench = Bench()
    bench.policy()
    bench.plant.inertia = np.full(JOINTS, 1e9)
    bench.order(start_pose=np.array(bench.robot.home) + 0.3, move_duration_s=1.0)
    aborted = bench.until(StepKind.ABORTED)
    assert 'start pose' in aborted.reason
    assert aborted.time_s == pytest.approx(1.5, abs=0.01)
    assert bench.core.state == 'holding'


@pytest.mark.parametrize('interface', ['effort', 'velocity', 'position'])
def test_a_blocked_move_is_not_pushed_ever_harder(interface):
    bench = Bench(command_interface=interface)
    bench.policy()
    bench.plant.inertia = np.full(JOINTS, 1e9)
    bench.order(start_pose=np.array(bench.robot.home) + 0.9, move_duration_s=2.0)
    bench.until(StepKind.ABORTED)
    gains = bench.robot.move
    most = {'effort': MOST_ERROR_RAD * np.array(gains.stiffness),
            'velocity': MOST_ERROR_RAD * np.array(gains.stiffness) / gains.damping,
            'position': np.full(JOINTS, MOST_ERROR_RAD)}[interface]
    if interface == 'position':
        assert (np.array(bench.sent) - bench.plant.position <= most + 1e-9).all()
    # Standing at the target the arm is pulled by the error alone.
    last = bench.sent[-2] - (bench.plant.position if interface == 'position' else 0.0)
    assert (last > 0.0).all()
    assert (last <= most + 1e-6).all()


def test_a_move_that_was_held_up_is_given_up_instead_of_jumping_ahead():
    bench = Bench()
    bench.policy()
    bench.ticks = 10_000      # the first tick ever is no hold-up
    bench.order(start_pose=np.array(bench.robot.home) + 0.5, move_duration_s=4.0)
    bench.tick(500)
    bench.ticks += 100
    bench.tick(100)
    assert bench.core.state == 'moving'
    bench.ticks += 130
    bench.tick()
    assert 'held up' in bench.events[-1].reason
    assert bench.core.state == 'holding'
    anchor = bench.plant.position.copy()
    bench.tick(500)
    assert bench.plant.position == pytest.approx(anchor, abs=0.1)
    assert bench.plant.velocity == pytest.approx(np.zeros(JOINTS), abs=0.1)


@pytest.mark.parametrize(('interface', 'scale'), [('effort', 4.0), ('velocity', 0.5)])
def test_after_a_stall_what_is_sent_begins_anew(interface, scale):
    """Guard has meanwhile sent the safe command, so that the last one is none to go on from."""
    bench = under_way(interface, scale)
    bench.tick(200)
    before = bench.sent[-1]
    assert np.abs(before).max() > 0.2 * scale
    bench.plant.velocity[:] = 0.0       # as guard has left it
    bench.ticks += 40
    bench.tick()
    limits, period_s = bench.robot.limits, PERIOD_S
    most = np.array(limits.effort_rate if interface == 'effort' else limits.acceleration)
    assert (np.abs(bench.sent[-1]) <= most * period_s + 1e-9).all()


def test_after_a_stall_positions_begin_where_the_arm_is():
    bench = under_way('position', 0.2)
    bench.tick(100)
    assert np.abs(bench.sent[-1] - bench.plant.position).max() > 0.01
    bench.ticks += 40
    bench.tick()
    assert bench.sent[-1] == pytest.approx(bench.plant.position, abs=1e-3)


def test_halted_an_episode_ends_and_the_arm_is_braked():
    bench = Bench()
    bench.policy(bias=0.5)
    bench.order(steps=100)
    bench.until(StepKind.STEP)
    bench.tick(200)
    assert np.abs(bench.plant.velocity).max() > 0.2
    bench.core.halt('enough')
    bench.tick(1000)
    assert bench.events[-1].kind == StepKind.ABORTED
    assert bench.events[-1].reason == 'enough'
    assert np.abs(bench.plant.velocity).max() < 0.05
    assert bench.core.state == 'holding'


def test_hold_stops_an_episode():
    bench = Bench()
    bench.policy()
    bench.order(steps=100)
    bench.until(StepKind.STEP)
    bench.core.command(EpisodeCommand(CommandKind.HOLD, number=1))
    aborted = bench.until(StepKind.ABORTED)
    assert aborted.command_number == 0
    assert bench.core.state == 'holding'


def test_missed_ticks_do_not_shift_steps_and_a_long_gap_ends_the_episode():
    bench = Bench()
    bench.policy()
    bench.order(steps=10)
    bench.until(StepKind.STEP)
    start_s = bench.events[-1].time_s
    bench.ticks += 53          # over the next step, by 4 ticks
    bench.tick()
    late = bench.events[-1]
    assert late.step == 1
    assert late.time_s > start_s + 0.1
    bench.tick(60)
    assert bench.events[-1].time_s == pytest.approx(start_s + 0.2, abs=1e-9)
    bench.ticks += 100
    bench.tick()
    assert bench.events[-1].kind == StepKind.ABORTED
    assert 'held up' in bench.events[-1].reason


def test_rates_that_do_not_divide_are_refused():
    robot = make_robot(control_rate_hz=505.0)
    with pytest.raises(ConfigError, match='policy_rate_hz'):
        ControlCore(robot, make_reach(robot), NETWORK)


def test_policy_survives_its_layout():
    task = make_reach(make_robot())
    rng = np.random.default_rng(0)
    snapshot = make_snapshot(task, Version(3, 9), std=0.2, correlation=0.4)
    tensors = {name: rng.normal(size=tensor.shape).astype(np.float32)
               for name, tensor in snapshot.tensors.items()}
    tensors['state_std'] = np.abs(tensors['state_std']) + 0.1
    parameters = PolicyParameters.from_snapshot(dataclasses.replace(
        snapshot, tensors=tensors, exploration_color=1.5, parameter_noise_std=0.03), 123)
    layout = PolicyLayout(task, NETWORK)
    block = layout.pack(parameters)
    assert len(block) == layout.size
    again = layout.unpack(block)
    assert (again.version, again.exploration_std, again.exploration_correlation,
            again.exploration_color, again.parameter_noise_std,
            again.publish_time_ns) == (Version(3, 9), 0.2, 0.4, 1.5, 0.03, 123)
    for one, other in zip(parameters.weights + parameters.biases, again.weights + again.biases,
                          strict=True):
        assert np.array_equal(one, other)


def test_a_policy_with_wrong_tensors_is_refused():
    task = make_reach(make_robot())
    for broken in ({'layer0.bias': np.zeros(3, np.float32)},
                   {'state_std': np.zeros(task.state_size, np.float32)},
                   {'layer1.weight': np.zeros((16, 16))}):
        with pytest.raises(SnapshotError):
            PolicyParameters.from_snapshot(make_snapshot(task, **broken))


def test_an_arm_that_was_moved_while_stopped_is_not_pulled_back():
    bench = Bench(command_interface='position', action_scale=[0.05] * JOINTS)
    bench.policy(bias=0.05)
    bench.order(steps=100, start_pose=np.zeros(0))
    bench.tick(100)
    bench.core.set_cause('emergency_stop', True, 'button')
    bench.tick(500)
    bench.plant.position = bench.plant.position + 0.8     # by hand; the driver does not follow
    bench.core.set_cause('emergency_stop', False)
    bench.tick(10)
    bench.sent.clear()
    assert bench.core.clear() == ''
    bench.tick(10)
    assert np.abs(np.array(bench.sent) - bench.plant.position).max() < 0.05


def test_a_fault_is_not_cleared_before_it_is_known_where_the_arm_is():
    bench = Bench(command_interface='position', action_scale=[0.05] * JOINTS)
    bench.policy(bias=0.05)
    bench.order(steps=100, start_pose=np.zeros(0))
    bench.tick(100)
    bench.core.set_cause('emergency_stop', True, 'button')
    bench.tick(500)
    bench.core.set_cause('emergency_stop', False)
    bench.state_time_s = bench.ticks * PERIOD_S
    bench.tick(100)
    bench.plant.position = bench.plant.position + 0.8     # by hand, and nobody has seen it
    assert bench.core.fault_causes[0].startswith('stale')
    assert 'stale' in bench.core.clear()
    assert bench.core.state == 'estop'
    bench.state_time_s = None
    bench.sent.clear()
    bench.tick()
    assert bench.core.clear() == ''
    bench.tick(10)
    assert bench.core.state == 'holding'
    assert np.abs(np.array(bench.sent) - bench.plant.position).max() < 0.05


@pytest.mark.parametrize(('interface', 'scale'), [
    ('effort', 4.0), ('velocity', 0.5), ('position', 0.2)])
def test_where_commands_did_not_arrive_what_is_sent_begins_anew(interface, scale):
    """Only the way to the arm was held up: the core itself went on, and guard has stopped it."""
    bench = under_way(interface, scale)
    bench.tick(200)
    bench.state_time_s = bench.ticks * PERIOD_S
    bench.tick(42)              # no joint states either: from here on it brakes, unheard
    bench.plant.velocity[:] = 0.0       # as guard has left it
    bench.core.restart()
    bench.tick()
    halted = bench.sent[-1]
    assert halted is None if interface == 'position' else not halted.any()
    bench.state_time_s = None
    bench.tick()
    limits = bench.robot.limits
    if interface == 'position':
        assert bench.sent[-1] == pytest.approx(bench.plant.position, abs=1e-3)
    else:
        most = limits.effort_rate if interface == 'effort' else limits.acceleration
        assert (np.abs(bench.sent[-1]) <= np.array(most) * PERIOD_S + 1e-9).all()
    bench.tick(50)
    assert bench.core.state == 'holding' and bench.sent[-1] is not None


def test_a_policy_whose_actions_have_no_probability_is_refused():
    network = dataclasses.replace(NETWORK, squash='tanh', distribution='state_independent')
    robot = make_robot()
    task = make_reach(robot)
    core = ControlCore(robot, task, network)
    core.set_policy(PolicyParameters.from_snapshot(make_snapshot(
        task, network=network, bias=1e38, log_std=np.zeros(JOINTS, np.float32))))
    core.command(episode(robot, 0, steps=10, start_pose=np.zeros(0)))
    plant, events = InertiaPlant(robot), []
    for tick in range(20):
        core.tick(tick * PERIOD_S, plant.position, plant.velocity, tick * PERIOD_S)
        events += core.drain()
    assert events[-1].kind == StepKind.ABORTED
    assert 'no probability' in events[-1].reason
