"""What the supervisor does when nodes die, hang or are to stop, without processes or waiting."""

from __future__ import annotations

import signal

import pytest

from async_mbrl.bringup.graph import NodeDescription
from async_mbrl.bringup.supervisor import State, Supervisor

STAGES = {'sim_bridge': 3, 'guard': 2, 'controller': 1, 'robot_interface': 0, 'model_learner': 0,
          'policy_learner': 0}


class FakeProcess:
    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.status: int | None = None
        self.obeys = True

    def poll(self) -> int | None:
        return self.status

    def send(self, number: signal.Signals) -> None:
        self.world.signals.append((self.name, number.name, self.world.now))
        if number == signal.SIGKILL:
            self.status = -9
        elif self.obeys:
            self.status = 0

    def last_lines(self) -> list[str]:
        return [f'{self.name} said why']


class World:
    """A supervisor, its processes, and a clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.signals: list[tuple[str, str, float]] = []
        self.said: list[str] = []
        self.started: list[tuple[str, float]] = []
        self.processes: dict[str, FakeProcess] = {}
        descriptions = [NodeDescription(name, name, {}, required=not name.endswith('learner'),
                                        respawn=name.endswith('learner'), stop_stage=stage)
                        for name, stage in STAGES.items()]
        self.supervisor = Supervisor(descriptions, self.spawn, self.said.append)
        self.supervisor.start(self.now)

    def spawn(self, description: NodeDescription) -> FakeProcess:
        self.started.append((description.name, self.now))
        self.processes[description.name] = FakeProcess(description.name, self)
        return self.processes[description.name]

    def run(self, seconds: float, beating: bool = True) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            if beating:
                for name in ('model_learner', 'policy_learner'):
                    self.supervisor.heartbeat(name, self.now)
            self.supervisor.step(self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_a_dead_learner_is_started_again_at_once(world: World) -> None:
    world.run(5.0)
    world.processes['model_learner'].status = -9
    died = world.now
    world.run(2.0)
    name, when = world.started[-1]
    assert name == 'model_learner' and when - died < 0.3
    assert world.supervisor.respawns == {'model_learner': 1}
    assert world.supervisor.state is State.RUNNING
    assert any('model_learner was ended by SIGKILL' in line for line in world.said)
    assert any('model_learner said why' in line for line in world.said)


def test_a_silent_learner_is_killed_after_ten_seconds_and_started_again(world: World) -> None:
    world.run(2.0)
    silent = world.now
    world.run(9.5, beating=False)
    assert not world.signals
    world.run(1.5, beating=False)
    assert [(name, what) for name, what, _ in world.signals] == [
        ('model_learner', 'SIGKILL'), ('policy_learner', 'SIGKILL')]
    assert 10.0 < world.signals[0][2] - silent < 10.5
    assert world.supervisor.respawns == {'model_learner': 1, 'policy_learner': 1}


def test_a_starting_learner_gets_a_minute(world: World) -> None:
    world.run(59.0, beating=False)
    assert not world.signals
    world.run(2.0, beating=False)
    assert ('policy_learner', 'SIGKILL') in {signal_[:2] for signal_ in world.signals}


def test_a_learner_that_never_speaks_ends_the_run(world: World) -> None:
    for _ in range(5):
        world.processes['model_learner'].status = 1
        world.run(0.7, beating=False)
    assert world.supervisor.status == 1
    assert 'model_learner ended with status 1 5 times in a row' in world.supervisor.reason


def test_a_node_without_heartbeats_lives_on_and_is_started_again(world: World) -> None:
    world.supervisor = Supervisor(
        [NodeDescription('teleop', 'teleop', {}, False, True, 0, heartbeats=False)], world.spawn,
        world.said.append)
    world.supervisor.start(world.now)
    for _ in range(6):
        world.run(70.0, beating=False)
        assert not world.signals and world.supervisor.running() == ['teleop']
        world.processes['teleop'].status = -9
        world.run(0.3)
    assert world.supervisor.respawns == {'teleop': 6}
    for _ in range(5):
        world.processes['teleop'].status = 1
        world.run(0.7)
    assert world.supervisor.status == 1


def test_a_refused_configuration_is_not_tried_again(world: World) -> None:
    world.processes['policy_learner'].status = 2
    world.run(0.5)
    assert (world.supervisor.state, world.supervisor.status) == (State.ENDED, 2)


@pytest.mark.parametrize('name', ['sim_bridge', 'controller', 'guard', 'robot_interface'])
def test_the_death_of_a_required_node_ends_the_run_with_the_reason(world: World,
                                                                   name: str) -> None:
    world.run(1.0)
    world.processes[name].status = -11
    world.run(1.0)
    assert (world.supervisor.state, world.supervisor.status) == (State.ENDED, 1)
    assert world.supervisor.reason == f'{name} was ended by SIGSEGV'
    assert f'  | {name} said why' in world.said


def test_the_arm_is_held_to_the_end(world: World) -> None:
    world.run(1.0)
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(1.0)
    assert [name for name, _, _ in world.signals] == [
        'robot_interface', 'model_learner', 'policy_learner', 'controller', 'guard', 'sim_bridge']
    assert {what for _, what, _ in world.signals} == {'SIGINT'}
    assert (world.supervisor.state, world.supervisor.status) == (State.ENDED, 130)
    assert not world.supervisor.respawns


def test_what_does_not_end_is_killed_in_time_and_named(world: World) -> None:
    for name in ('model_learner', 'controller'):
        world.processes[name].obeys = False
    begun = world.now
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(4.5)
    assert world.supervisor.state is State.ENDED
    asked = {name: when - begun for name, what, when in world.signals if what == 'SIGINT'}
    assert asked['controller'] < asked['guard'] <= asked['sim_bridge'] < 4.5
    killed = {name: when - begun for name, what, when in world.signals if what == 'SIGKILL'}
    assert set(killed) == {'model_learner', 'controller'}
    assert killed['controller'] < 4.0
    assert asked['guard'] - killed['controller'] >= 0.3 - 1e-6
    assert any('controller, model_learner did not end within 4 s: killed' in line
               for line in world.said)


def test_a_learner_is_not_started_again_once_the_run_is_over(world: World) -> None:
    world.supervisor.over = True
    world.processes['model_learner'].status = 0
    world.run(2.0)
    assert not world.supervisor.respawns and world.supervisor.state is State.RUNNING


def test_guard_outlives_a_controller_that_is_killed(world: World) -> None:
    for process in world.processes.values():
        process.obeys = False
    begun = world.now
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(1.0)
    assert world.supervisor.state is State.STOPPING
    again = world.now
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(0.6)
    assert world.supervisor.state is State.ENDED
    killed = {name: when for name, what, when in world.signals if what == 'SIGKILL'}
    assert killed['controller'] == killed['robot_interface'] == again
    assert again + 0.3 <= killed['guard'] + 1e-6 and killed['guard'] == killed['sim_bridge']
    assert killed['sim_bridge'] - begun < 1.6


def test_signals_of_one_ctrl_c_do_not_count_as_a_second_one(world: World) -> None:
    for process in world.processes.values():
        process.obeys = False
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(0.2)
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(0.2)
    assert not [name for name, what, _ in world.signals if what == 'SIGKILL']


def test_nothing_runs_longer_than_five_seconds_after_the_request(world: World) -> None:
    for process in world.processes.values():
        process.obeys = False
    world.supervisor.stop('interrupted', 130, world.now)
    world.run(4.8)
    assert world.supervisor.state is State.ENDED


def test_guard_goes_on_for_a_moment_after_the_controller_died(world: World) -> None:
    world.run(1.0)
    world.processes['controller'].status = -9
    died = world.now
    world.run(2.0)
    asked = {name: when - died for name, what, when in world.signals if what == 'SIGINT'}
    assert asked['robot_interface'] < 0.1 and asked['guard'] >= 0.3 - 1e-6
    assert (world.supervisor.state, world.supervisor.status) == (State.ENDED, 1)


def test_a_learner_that_has_finished_is_not_started_again(world: World) -> None:
    world.supervisor.heartbeat('policy_learner', world.now, finished=True)
    world.supervisor.heartbeat('policy_learner', world.now)
    world.processes['policy_learner'].status = -9
    world.run(2.0, beating=False)
    assert world.supervisor.state is State.RUNNING
    assert not world.supervisor.respawns
    assert [name for name, _ in world.started].count('policy_learner') == 1
    assert any('had nothing left to do' in line for line in world.said)


def test_a_complete_run_ends_with_status_0(world: World) -> None:
    world.run(1.0)
    for name in ('model_learner', 'policy_learner'):
        world.supervisor.heartbeat(name, world.now, finished=True)
        world.processes[name].status = 0
    world.supervisor.step(world.now)
    assert world.supervisor.state is State.RUNNING
    world.processes['robot_interface'].status = 0
    world.run(1.0)
    assert (world.supervisor.state, world.supervisor.status) == (State.ENDED, 0)
    assert world.supervisor.reason == ''
    assert not world.supervisor.respawns
