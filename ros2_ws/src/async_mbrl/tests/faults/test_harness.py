"""The instruments of the fault suite, on made-up records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faults import namespaces
from faults.judge import Command, driving, hold_ms
from faults.ledger import Ledger, NotSurvived, Outcome, Trial, generator, summarise
from faults.suite import Kind, end_run, try_on

SCALE = np.array([5.0, 1.0])
POLICY, SPEED = np.array([2.0, -0.5]), np.array([0.4, -0.3])
FAULT_NS = 10_000_000


def record(*efforts: np.ndarray, velocity: np.ndarray = SPEED) -> list[Command]:
    """Commands 2 ms apart; the fault lies between the fifth and the sixth."""
    return [Command(1_000_000 + 2_000_000 * i, effort, velocity)
            for i, effort in enumerate(efforts)]


def held_ms(commands: list[Command]) -> float | None:
    return hold_ms(commands, FAULT_NS, driving(commands, SCALE))


@pytest.mark.parametrize('safe', [np.zeros(2), -POLICY, np.array([0.1, 0.05])])
def test_the_time_to_the_first_safe_command_counts(safe: np.ndarray) -> None:
    commands = record(*[POLICY] * 8, *[safe] * 20)
    assert held_ms(commands) == pytest.approx((commands[8].received_ns - FAULT_NS) * 1e-6)


def test_an_arm_that_is_driven_to_the_last_is_not_held() -> None:
    assert held_ms(record(*[POLICY] * 5, *[np.zeros(2)] * 5, POLICY)) is None
    assert held_ms([]) is None


def test_a_relapse_counts_from_the_fault() -> None:
    commands = record(*[POLICY] * 6, *[np.zeros(2)] * 10, POLICY, *[np.zeros(2)] * 10)
    assert held_ms(commands) == pytest.approx((commands[17].received_ns - FAULT_NS) * 1e-6)


def test_what_was_safe_before_the_fault_needs_no_time() -> None:
    assert held_ms(record(*[np.zeros(2)] * 20)) == 0.0


def test_a_brake_that_acts_late_is_no_drive_but_one_that_never_brakes_is() -> None:
    brake = np.array([-2.0, 0.5])
    turned = record(*[brake] * 5) + [
        Command(12_000_000 + 2_000_000 * i, brake, -SPEED) for i in range(5)]
    assert not any(driving(turned, SCALE))
    assert all(driving(record(*[brake] * 5, velocity=-SPEED), SCALE))
    assert all(driving(record(*[brake] * 5, velocity=np.zeros(2)), SCALE))


def test_a_ledger_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / 'trials.jsonl'
    ledger = Ledger(path, resume=False)
    ledger.add(Trial('a', 0, True, outcome=Outcome(hold_ms=12.0, facts={'back_s': 3.0})))
    ledger.add(Trial('a', 3, False, 'why', outcome=Outcome(hold_ms=120.0, violations=2),
                     repeats=2))
    with open(path, 'a') as file:
        file.write('{"kind": "a", "ind')
    resumed = Ledger(path, resume=True)
    assert resumed.done('a') == {0, 3}
    result = summarise(resumed.trials)
    assert result['limit_violations_sent'] == 2 and result['transitions_lost'] == 0
    row = result['faults']['a']
    assert (row['trials'], row['survived'], row['worst_hold_ms']) == (2, 1, 120.0)
    assert row['repeats'] == 2
    assert row['worst_back_s'] == 3.0 and row['not_survived'] == ['3: why']
    assert Ledger(path, resume=False).trials == []


def test_a_run_is_written_down_and_the_trials_that_it_allowed_of(tmp_path: Path) -> None:
    def cut(run: float, rng: np.random.Generator) -> Outcome:
        if run < 0.0:
            raise NotSurvived('it broke')
        return Outcome(facts={'drawn': rng.random()})

    kind, ledger = Kind(cut, 'hosts', 3, 3, 1.0), Ledger(tmp_path / 'trials.jsonl', resume=False)
    todo = [(kind, 2), (kind, 3)]
    ledger.add(try_on(1.0, kind, 0, seed=5))
    ledger.add(try_on(-1.0, kind, 1, seed=5))
    lost = Outcome(lost=4)
    end_run(ledger, Trial('run', 7, False, '4 lost', 9.0, outcome=lost), 2, todo)
    assert len(todo) == 2, 'there will be another run to try them on'
    end_run(ledger, Trial('run', 8, False, 'no start', 1.0), 0, todo)
    assert todo == []
    assert ledger.refresh() == [] and [t.survived for t in ledger.trials] == [True] + 5 * [False]
    drawn = ledger.trials[0].outcome.facts['drawn']
    assert drawn == generator(5, 'cut', 0).random()
    result = summarise(ledger.trials)
    assert result['transitions_lost'] == 4
    assert result['faults']['cut']['not_survived'] == [
        '1: NotSurvived: it broke', '2: no run to try it on: no start',
        '3: no run to try it on: no start']
    assert result['faults']['run']['not_survived'] == ['7: 4 lost', '8: no start']


UDP = 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); '


@pytest.mark.skipif(bool(namespaces.missing()), reason=namespaces.missing() or 'possible')
@pytest.mark.parametrize('delay_s', [0.0, 0.05])
def test_two_hosts_hear_each_other_through_a_wire_that_loses_and_can_be_cut(
        delay_s: float) -> None:
    with namespaces.Hosts(delay_s) as hosts:
        def heard(count: int) -> int:
            # It listens until the sender has ended, however long that takes to start.
            receiver = hosts.start('learner', [sys.executable, '-c', UDP + (
                'import select, sys, time\n'
                's.bind(("", 9)); s.settimeout(0.05); print("ready", flush=True)\n'
                'n, end = 0, None\n'
                'while end is None or time.monotonic() < end:\n'
                '    try:\n        n += len(s.recv(99))\n    except TimeoutError:\n        pass\n'
                '    if end is None and select.select([sys.stdin], [], [], 0)[0]:\n'
                '        end = time.monotonic() + 0.5\n'
                'print(n)')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert receiver.stdout is not None
            receiver.stdout.readline()
            hosts.start('robot', [sys.executable, '-c', UDP + (
                f'import time\nfor _ in range({count}):\n'
                f'    s.sendto(b"x", ("{namespaces.ADDRESSES["learner"]}", 9)); '
                'time.sleep(0.001)')], stderr=subprocess.DEVNULL).wait(10.0)
            return int(receiver.communicate(timeout=10.0)[0])

        assert heard(20) == 20
        hosts.set_loss(0.5)
        # The address is asked for again only after minutes: nothing but these frames is lost.
        assert 60 < heard(200) < 140
        assert hosts.frames('learner')[1] > 50
        hosts.set_loss(0.0)
        hosts.cut()
        assert heard(5) == 0
        hosts.join()
        assert heard(20) == 20
