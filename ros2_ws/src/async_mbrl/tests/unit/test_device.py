"""Learning on another device than the CPU: on a GPU where there is one, and on a stand-in."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import device_rig
import pytest
import stand_in
import torch

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.checks import check_beginning
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
from async_mbrl.cli import main
from async_mbrl.core.config import ConfigError
from async_mbrl.learning import checkpoint
from async_mbrl.learning.device import CPU, find_device, find_device_again

Run = Callable[..., Any]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


@pytest.fixture(scope='module')
def elsewhere() -> Iterator[Run]:
    """Runs a check on the stand-in, which stays registered: in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), stand_in.register) as process:
        yield lambda check, *arguments: process.submit(check, *arguments).result()


@pytest.fixture(params=['stand-in', pytest.param('cuda', marks=GPU)])
def on_device(request: pytest.FixtureRequest) -> Run:
    """Runs a check with a device as its last argument."""
    if request.param == 'cuda':
        return lambda check, *arguments: check(*arguments, torch.device('cuda', 0))
    run: Run = request.getfixturevalue('elsewhere')
    return lambda check, *arguments: run(check, *arguments, stand_in.DEVICE)


every_case = pytest.mark.parametrize('name', device_rig.CASES)


@every_case
def test_all_is_learned_there_and_published_as_ever(on_device: Run, name: str) -> None:
    on_device(device_rig.learns, name)


@every_case
def test_the_same_draws_lead_to_what_the_cpu_learns(elsewhere: Run, name: str) -> None:
    """A GPU draws other numbers, so that this can only be seen on the stand-in."""
    elsewhere(device_rig.learns_the_same, name, stand_in.DEVICE)


@every_case
def test_a_run_goes_on_on_another_device_and_back(on_device: Run, name: str,
                                                  tmp_path: Path) -> None:
    on_device(device_rig.moves, name, tmp_path)


@every_case
def test_a_restart_there_changes_nothing(on_device: Run, name: str, tmp_path: Path) -> None:
    on_device(device_rig.resumes, name, tmp_path)


def test_members_stop_early_there(on_device: Run) -> None:
    on_device(device_rig.stops_members)


@pytest.mark.parametrize('name', ['pets', 'pets_mppi'])
def test_plans_are_made_there(on_device: Run, name: str) -> None:
    on_device(device_rig.plans, name)


def test_products_and_numbers_are_those_of_the_device(on_device: Run) -> None:
    on_device(device_rig.chooses)


def test_the_stand_in_refuses_what_a_gpu_refuses(elsewhere: Run) -> None:
    elsewhere(device_rig.refuses_to_be_mixed, stand_in.DEVICE)


@pytest.mark.parametrize('word', ['gpu', 'cuda:', 'cuda:-1', 'cuda:x', 'CUDA', 'mps', ''])
def test_a_word_that_is_no_device_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"run.device: no device '{word}'; expected cpu, cuda or"):
        compose(RunRequest(device=word), share_folder(), tmp_path)


def test_the_pc_of_the_robot_needs_no_torch_to_take_the_argument() -> None:
    script = """
import sys
sys.modules['torch'] = None     # as where it is not installed
from pathlib import Path
from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.resources import share_folder
print(compose(RunRequest(device='cuda:1'), share_folder(), Path()).run.device)
"""
    ended = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                           check=False)
    assert (ended.stdout.strip(), ended.stderr) == ('cuda:1', '')


@pytest.mark.parametrize(('built', 'why'), [
    (False, "built without CUDA; install one that has it, or use 'cpu'"),
    (True, "finds no GPU that it can use; see nvidia-smi, or use 'cpu'")])
def test_a_device_that_is_not_there_is_refused_before_anything_starts(
        built: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.cuda, 'is_built', lambda: built)
    composition = compose(RunRequest(device='cuda:1'), share_folder(), tmp_path)
    with pytest.raises(ConfigError, match=f"device: 'cuda:1' is not there for torch .*{why}"):
        check_beginning(composition)
    assert main(['emulate', '--device', 'cuda:1', '--samples', '1']) == 2
    printed = capsys.readouterr()
    assert why in printed.err
    assert printed.out == ''
    check_beginning(compose(RunRequest(device='cpu'), share_folder(), tmp_path))


def test_a_gpu_is_found_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert find_device('cpu') == CPU
    assert find_device('cuda') == torch.device('cuda', 0)
    assert find_device('cuda:1') == torch.device('cuda', 1)
    with pytest.raises(ConfigError, match="'cuda:2' is not there: torch finds 2, cuda:0 to cuda:1"):
        find_device('cuda:2')


def test_a_gpu_that_is_lost_while_a_run_goes_on_may_come_back(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ConfigError, match="'cuda' is not there"):
        find_device_again('cuda', tmp_path)
    checkpoint.write(tmp_path, {}, {}, {'next_transition': 0})
    with pytest.raises(ConfigError, match="'cuda' is not there"):
        find_device_again('cuda', tmp_path)
    checkpoint.write(tmp_path, {}, {}, {'next_transition': 3})
    with pytest.raises(RuntimeError, match="'cuda' is not there"):
        find_device_again('cuda', tmp_path)
    assert find_device_again('cpu', tmp_path) == CPU


def test_a_product_that_a_gpu_has_not_is_refused_before_anything_starts(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    composition = compose(RunRequest(device='cuda', set=('model.product=onednn',)),
                          share_folder(), tmp_path)
    with pytest.raises(ConfigError, match="model.product: 'onednn' is a product of the CPU"):
        check_beginning(composition)
