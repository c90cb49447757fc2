"""What `async-mbrl up` does around the nodes: trouble with files, and what a session came to."""

from __future__ import annotations

import dataclasses
import errno
import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from async_mbrl.bringup import up
from async_mbrl.bringup.aftermath import written
from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.folder import OpenRun
from async_mbrl.bringup.graph import NodeDescription, describe
from async_mbrl.bringup.processes import Launcher
from async_mbrl.bringup.supervisor import State, Supervisor
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder


@pytest.fixture
def composition(package_root: Path, tmp_path: Path) -> Composition:
    return compose(RunRequest(), package_root, tmp_path)


def summary(folder: RunFolder, **content: Any) -> None:
    write_atomically(folder.summary, json.dumps(content))


def test_what_robot_interface_says_goes_before_what_was_seen_of_it(
        tmp_path: Path, composition: Composition) -> None:
    folder = RunFolder(tmp_path)
    summary(folder, phase='done', respawns={'model_learner': 1})
    before = written(folder)
    summary(folder, phase='failed', reason='the controller is silent', safety={'faults': ['a']},
            respawns={'model_learner': 1})
    came = up.conclude(folder, composition, 1, 'robot_interface ended with status 1',
                       {'model_learner': 0, 'policy_learner': 2}, before)
    assert came == (1, 'the controller is silent')
    found = json.loads(folder.summary.read_text())
    assert found['outcome'] == {'status': 1, 'reason': 'the controller is silent'}
    assert found['safety']['faults'] == ['a', 'robot_interface ended with status 1']
    assert found['respawns'] == {'model_learner': 1, 'policy_learner': 2}


@pytest.mark.parametrize(('status', 'expected', 'phase'), [
    (1, 1, 'failed'), (0, 1, 'failed'), (130, 130, 'waiting')])
def test_an_older_summary_is_not_taken_for_that_of_this_session(
        tmp_path: Path, composition: Composition, status: int, expected: int, phase: str) -> None:
    folder = RunFolder(tmp_path)
    summary(folder, phase='done', transitions={'collected': 600})
    before = written(folder)
    reason = '' if status == 0 else 'robot_interface was ended by SIGKILL'
    found_status, reason = up.conclude(folder, composition, status, reason, {}, before)
    found = json.loads(folder.summary.read_text())
    assert (found_status, found['phase']) == (expected, phase)
    assert found['outcome']['reason'] == found['reason'] == reason != ''
    assert found['transitions']['collected'] == 0   # there is no journal
    assert {'data_time_ratio', 'latency_ms', 'learning_curve', 'waiting_share'} < set(found)


@pytest.mark.parametrize(('mode', 'seen', 'expected'), [
    ('learn', 0, (130, 'stopped')), ('learn', 143, (143, 'interrupted')),
    ('use', 0, (0, 'stopped')), ('use', 130, (0, 'interrupted')), ('use', 1, (1, 'guard died'))])
def test_an_end_in_order_is_no_failure(tmp_path: Path, composition: Composition, mode: str,
                                       seen: int, expected: tuple[int, str]) -> None:
    folder = RunFolder(tmp_path)
    before = written(folder)
    summary(folder, phase='learning', reason='interrupted')
    composition = dataclasses.replace(composition, run=dataclasses.replace(
        composition.run, mode=mode))
    reason = {0: '', 1: 'guard died'}.get(seen, 'interrupted')
    assert up.conclude(folder, composition, seen, reason, {}, before) == expected
    status, reason = expected
    assert json.loads(folder.summary.read_text())['outcome'] == {
        'status': status, 'reason': reason}


@pytest.mark.parametrize(('mode', 'where', 'dry_run', 'hint'), [
    ('learn', 'sim', False, 'resume it with --run-dir {}'),
    ('learn', 'real', True, 'resume it with --run-dir {}'),
    ('learn', 'real', False, 'resume it with --run-dir {} --no-dry-run'),
    ('use', 'real', False, '')])
def test_how_to_go_on_is_said(tmp_path: Path, composition: Composition,
                              capsys: pytest.CaptureFixture[str], mode: str, where: str,
                              dry_run: bool, hint: str) -> None:
    folder = RunFolder(tmp_path)
    before = written(folder)
    summary(folder, phase='failed', reason='a fault')
    composition = dataclasses.replace(composition, where=where, run=dataclasses.replace(
        composition.run, mode=mode, dry_run=dry_run))
    supervisor = Supervisor(describe(composition), lambda _: Obedient(), lambda _line: None)
    supervisor.status = 1
    with open(tmp_path / 'lock', 'w') as lock:
        run = OpenRun(composition, folder, False, lock)
        assert up._finish(run, up.UpOptions(), supervisor, before) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith('error: run ended: a fault; ')
    assert said.endswith('; ' + hint.format(tmp_path) if hint else str(tmp_path))


def test_a_summary_made_up_says_what_kind_of_run_it_was(tmp_path: Path,
                                                        composition: Composition) -> None:
    folder = RunFolder(tmp_path)
    composition = dataclasses.replace(composition, run=dataclasses.replace(
        composition.run, mode='use', dry_run=True))
    up.conclude(folder, composition, 1, 'robot_interface was ended by SIGKILL', {},
                written(folder))
    found = json.loads(folder.summary.read_text())
    assert (found['mode'], found['dry_run']) == ('use', True)


def test_a_journal_that_cannot_be_read_is_said(tmp_path: Path, composition: Composition) -> None:
    folder = RunFolder(tmp_path)
    summary(folder, phase='done', seed=0)
    before = written(folder)
    folder.journal.mkdir()
    (folder.journal / 'meta.json').write_text('{')
    up.conclude(folder, composition, 1, 'robot_interface was ended by SIGKILL', {}, before)
    found = json.loads(folder.summary.read_text())
    assert found['phase'] == 'failed' and 'meta.json' in found['reason'] and found['seed'] == 0


class Silent:
    """Stands in for monitor, view and scalars."""

    def __init__(self, fails: str = '') -> None:
        self.fails = fails

    def drain(self) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        def act(*_arguments: object) -> None:
            if name == self.fails:
                raise OSError(errno.ENOSPC, 'No space left on device')
        return act


class Obedient:
    """A process that ends when asked."""

    def __init__(self) -> None:
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def send(self, _number: object) -> None:
        self.status = 0

    def last_lines(self) -> list[str]:
        return []


@pytest.mark.parametrize('failing', ['follow', 'refresh', 'start', 'spawn'])
def test_a_full_disk_ends_the_nodes_in_order(composition: Composition, failing: str) -> None:
    started: list[str] = []

    def spawn(description: NodeDescription) -> Obedient:
        if failing == 'spawn' and started:
            raise OSError(errno.ENOSPC, 'No space left on device')
        started.append(description.name)
        return Obedient()

    supervisor = Supervisor(describe(composition), spawn, lambda _line: None)
    up.look_after(supervisor, Silent(), Silent(), Silent(failing), Silent(failing),  # type: ignore
                  [], up.Trouble())
    assert started and (supervisor.state, supervisor.status) == (State.ENDED, 1)
    assert supervisor.reason.endswith(': No space left on device')


def test_a_node_that_cannot_be_registered_does_not_run(
        tmp_path: Path, composition: Composition, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def full(_path: Path, data: str) -> None:
        pids.extend(json.loads(data).values())
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('async_mbrl.bringup.processes.write_atomically', full)
    guard = describe(composition)[1]
    launcher = Launcher({guard.name: tmp_path / 'p.yaml'}, tmp_path / 'log', tmp_path / 'p.json')
    with pytest.raises(OSError, match='No space'):
        launcher(guard)
    assert len(pids) == 1 and not Path(f'/proc/{pids[0]}').exists()


def test_a_spare_becomes_the_node_at_its_next_start(tmp_path: Path,
                                                    composition: Composition) -> None:
    learner = next(item for item in describe(composition) if item.respawn)
    launcher = Launcher({learner.name: tmp_path / 'none.yaml'}, tmp_path / 'log',
                        tmp_path / 'p.json')
    with closing(launcher):
        first = launcher(learner)
        waiting = launcher.spares[learner.name]
        first.send(signal.SIGKILL)
        second = launcher(learner)
        assert second.pid == waiting != first.pid
        assert launcher.spares[learner.name] not in (waiting, first.pid)
        left = launcher.spares[learner.name]
        second.send(signal.SIGKILL)
    assert not Path(f'/proc/{left}').exists()
