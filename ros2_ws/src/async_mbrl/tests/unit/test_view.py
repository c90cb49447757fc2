"""The view of a running graph: from statuses to rows, lines and pictures."""

from __future__ import annotations

import io

from rich.console import Console

from async_mbrl.core.snapshot import Version
from async_mbrl.reporting.state import (
    BridgeHealth,
    ControllerHealth,
    GuardHealth,
    LearnerHealth,
    RunProgress,
    ViewState,
)
from async_mbrl.reporting.view import TerminalView, plain_line, render, sparkline


def progress(**changes: object) -> RunProgress:
    return RunProgress(**{
        'phase': 'learning', 'run_id': 'r1', 'task': 'reach', 'robot': 'arm7',
        'algorithm': 'me_ppo', 'motion_time_s': 6.0, 'motion_time_limit_s': 60.0,
        'robot_time_s': 14.0, 'wall_time_s': 14.2, 'episodes': 2, 'recent_return': -3.0,
        'recent_success_rate': 0.5, 'last_distance_m': 0.034, 'transitions': 60, **changes})


def known(now: float = 0.0) -> ViewState:
    state = ViewState()
    state.take(progress(), now)
    state.take(ControllerHealth('running', scheduler='SCHED_FIFO:50', ticks=1000,
                                policy_version=Version(1, 12), policy_age_s=0.4), now)
    state.take(LearnerHealth('model_learner', 'learning', version=Version(1, 3), updates=500,
                             metrics={'validation_loss': 0.25}), now)
    state.take(BridgeHealth(commands_received=10), now)
    state.take(GuardHealth('armed'), now)
    return state


def drawn(state: ViewState, now: float) -> str:
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    console.print(render(state, now))
    return console.file.getvalue()   # type: ignore[attr-defined]


def test_nothing_known_is_said() -> None:
    assert 'waiting for the graph' in plain_line(ViewState())
    assert 'waiting for the graph' in drawn(ViewState(), 0.0)


def test_rates_come_from_counters_and_silence_is_alarming() -> None:
    state = known(10.0)
    state.take(ControllerHealth('running', ticks=1250), 10.5)
    rows = {row.name: row for row in state.nodes(10.5)}
    assert list(rows) == ['sim_bridge', 'controller', 'guard', 'robot_interface', 'model_learner']
    assert rows['controller'].rate == '500 ticks/s'
    assert not any(row.alarming for row in rows.values())
    later = {row.name: row for row in state.nodes(13.4)}
    assert later['sim_bridge'].state == 'silent' and later['sim_bridge'].alarming
    assert later['controller'].state == 'running'
    state.take(progress(phase='done'), 20.0)
    assert not any(row.alarming for row in state.nodes(60.0))


def test_episodes_make_the_history() -> None:
    state = known()
    state.take(progress(), 0.5)
    state.take(progress(episodes=3, last_distance_m=0.02), 1.0)
    assert state.distances_m == [0.034, 0.02]
    assert sparkline([0.0, 1.0, float('nan'), 0.5]) == '▁█▅'
    assert sparkline([]) == '' and sparkline([2.0, 2.0]) == '▁▁'


def test_what_happens_is_told_once() -> None:
    state = known()
    state.take(ControllerHealth('fault', fault='three non-finite actions', policies_rejected=1,
                                last_rejection='damaged'), 1.0)
    state.take(ControllerHealth('fault', fault='three non-finite actions', policies_rejected=1,
                                last_rejection='damaged'), 1.5)
    state.take(LearnerHealth('model_learner', 'learning', version=Version(2, 0),
                             transitions_recovered=40), 2.0)
    state.take(GuardHealth('acting', 'no heartbeat for 90 ms'), 2.5)
    told = list(state.messages)
    assert told == ['controller: fault, three non-finite actions',
                    'controller: policy refused, damaged',
                    'model_learner: back, incarnation 2, 40 transitions asked for again',
                    'guard: acting, no heartbeat for 90 ms']


def test_view_and_line_show_what_counts() -> None:
    state = known()
    for text in ('learning', '6.0 / 60 s', '3.4 cm', '50% of the last 2', '1.12', 'SCHED_FIFO:50',
                 'validation loss'):
        assert text in drawn(state, 0.1), text
    line = plain_line(state)
    assert 'motion 6/60 s' in line and 'policy 1.12' in line and '\n' not in line


def test_without_a_terminal_a_line_comes_every_five_seconds() -> None:
    stream = io.StringIO()
    view = TerminalView(known(), stream=stream)
    view.start()
    for tick in range(200):
        view.refresh(tick * 0.05)
    view.say('model_learner was ended by SIGKILL; starting it again')
    view.stop(10.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and lines[-1].startswith('model_learner was ended')
