"""Learning on another device than the CPU: on a GPU where there is one, and on a stand-in."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import device_rig
import pytest
import stand_in
import torch

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
