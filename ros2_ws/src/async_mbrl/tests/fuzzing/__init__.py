"""Fuzzing: inputs that a seed decides, what takes them, and who says independently what is right.

A target makes an input, has the code under test take it, and judges what was taken by rules of its
own. An input is wrong in itself when the code raises something else than what it documents
(a crash), takes what the rules refuse, or refuses what they take.
"""

from __future__ import annotations

import collections
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: of the target.
        make: gives an input and says how it was made.
        take: gives what the code under test makes of it, or raises one of ``refusals``.
        judge: says what is wrong with what was taken, given the input; empty if nothing is.
        acceptable: whether the input must be taken; None where the rules do not say.
        refusals: exceptions that are documented.
    """

    name: str
    make: Callable[[random.Random], tuple[Any, str]]
    take: Callable[[Any], Any]
    judge: Callable[[Any, Any], str]
    refusals: tuple[type[Exception], ...]
    acceptable: Callable[[Any], bool | None] = lambda _given: None


@dataclass
class Score:
    """What came of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    crashes: list[str] = field(default_factory=list)
    accepted_wrongly: list[str] = field(default_factory=list)
    refused_wrongly: list[str] = field(default_factory=list)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def flawless(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.crashes or self.accepted_wrongly or self.refused_wrongly)


def fuzz(target: Target, seed: int, first: int, count: int) -> Score:
    """Try the inputs numbered from ``first`` on; each depends on seed, target and number alone."""
    score = Score()
    for number in range(first, first + count):
        rng = random.Random(f'{seed} {target.name} {number}')
        given, kind = target.make(rng)
        score.inputs += 1
        score.kinds[kind] += 1
        where = f'{target.name} {number} ({kind})'
        try:
            taken = target.take(given)
        except target.refusals as refusal:
            if target.acceptable(given):
                score.refused_wrongly.append(f'{where}: {refusal}')
            continue
        except Exception:
            score.crashes.append(f'{where}: {traceback.format_exc(limit=-4)}')
            continue
        score.accepted += 1
        flaw = target.judge(given, taken)
        if flaw:
            score.accepted_wrongly.append(f'{where}: {flaw}')
    return score


def damage(rng: random.Random, data: bytes, other: bytes = b'') -> tuple[bytes, str]:
    """Change bytes in one of the ways in which bytes change on the way."""
    kind = rng.choice(('nothing', 'flips', 'flips', 'truncated', 'extended', 'spliced', 'inserted',
                       'zeroed', 'word', 'word', 'nonsense'))
    changed = bytearray(data)
    at = rng.randrange(len(data)) if data else 0
    if kind == 'flips':
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 'truncated':
        del changed[at:]
    elif kind == 'extended':
        changed += rng.randbytes(rng.choice((1, 4, 100)))
    elif kind == 'spliced':
        source = other or data[::-1]
        changed[at:] = source[min(at, len(source)):]
    elif kind == 'inserted':
        changed[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 'zeroed':
        end = min(len(changed), at + rng.randrange(1, 64))
        changed[at:end] = bytes(end - at)
    elif kind == 'word':    # where counts stand, or versions, or numbers
        at -= at % 4
        word = rng.choice((0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fc00000, 0x7f800000,
                           1 << 20, rng.getrandbits(32)))
        changed[at:at + 4] = word.to_bytes(4, 'little')[:max(0, len(changed) - at)]
    elif kind == 'nonsense':
        changed[:] = rng.randbytes(rng.randrange(0, 300))
    return bytes(changed), kind
