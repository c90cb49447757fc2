"""A process that fills the file of a buffer is killed; ``benchmarks/replay_kills.py`` does more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_rig import Judgement, kill_once


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Fork without threads of torch at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_kills_neither_lose_nor_tear_a_transition(one_thread: None, tmp_path: Path) -> None:
    rng, judgement = np.random.default_rng(1), Judgement()
    for _ in range(12):
        kill_once(tmp_path, rng, judgement)
    assert judgement.transitions > 0 and judgement.kills == 12
    assert judgement.harmed == 0, judgement
