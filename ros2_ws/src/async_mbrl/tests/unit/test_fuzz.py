"""Damaged and forged inputs: a few of each kind; ``benchmarks/fuzz.py`` tries the rest."""

from __future__ import annotations

import functools

import pytest
from fuzzing import Target, files, fuzz, parameters, wire

COUNTS = {'snapshots': 400, 'snapshot_parts': 150, 'transitions': 400, 'control_steps': 400,
          'episode_commands': 400, 'joint_states': 400, 'takeovers': 400, 'joysticks': 400,
          'configs': 80, 'journal': 100, 'checkpoints': 100}


@functools.cache
def targets() -> dict[str, Target]:
    return {target.name: target for module in (parameters, wire, files)
            for target in module.targets()}


@pytest.mark.parametrize('name', COUNTS)
def test_no_input_crashes_or_is_taken_wrongly(name: str) -> None:
    score = fuzz(targets()[name], 1, 0, COUNTS[name])
    assert score.flawless, [*score.crashes, *score.accepted_wrongly, *score.refused_wrongly][:5]
    # Some of both, or the inputs are none that tell anything.
    assert 0 < score.accepted < score.inputs


def test_what_is_found_is_reported() -> None:
    """A way in that takes everything, and one that falls over."""
    careless = Target('careless', lambda rng: (rng.randrange(3), 'any'), lambda given: given,
                      lambda given, _taken: 'odd' if given == 1 else '', (ValueError,))
    assert fuzz(careless, 0, 0, 50).accepted_wrongly

    def fall(given: int) -> int:
        return 1 // given

    falling = Target('falling', lambda rng: (rng.randrange(3), 'any'), fall,
                     lambda _given, _taken: '', (ValueError,))
    assert fuzz(falling, 0, 0, 50).crashes
