"""Configuration: what fits survives a round trip, what does not fit is refused by its key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError, leaves, load, nest, param, read_yaml, to_mapping


@dataclass(frozen=True)
class Inner:
    gains: tuple[float, ...] = param('gains, N m/rad', minimum=0.0, maximum=1e6)
    labels: tuple[str, ...] = param('names', ('a', 'b'))


@dataclass(frozen=True)
class Outer:
    rate_hz: float = param('rate, Hz', minimum=1.0, maximum=1000.0)
    mode: str = param('what to do', choices=('fast', 'slow'))
    inner: Inner = param('the inner part')
    count: int = param('how many', 3, minimum=1)
    enabled: bool = param('whether at all', True)


GOOD: dict[str, Any] = {'rate_hz': 10.0, 'mode': 'fast', 'inner': {'gains': [1.0, 2.0]}}

outers = st.builds(
    Outer, rate_hz=st.floats(1.0, 1000.0), mode=st.sampled_from(['fast', 'slow']),
    inner=st.builds(Inner, gains=st.lists(st.floats(0.0, 1e6)).map(tuple),
                    labels=st.lists(st.text()).map(tuple)),
    count=st.integers(1, 2**40), enabled=st.booleans())


@given(outers)
def test_a_configuration_survives_the_round_trip(config: Outer) -> None:
    assert load(Outer, to_mapping(config)) == config


@given(outers)
def test_dotted_names_lead_to_the_same_configuration(config: Outer) -> None:
    flat = {}
    for leaf in leaves(Outer):
        value: Any = to_mapping(config)
        for part in leaf.name.split('.'):
            value = value[part]
        flat[leaf.name] = value
    assert load(Outer, nest(flat)) == config


def test_defaults_fill_in_and_whole_numbers_pass_for_decimals() -> None:
    config = load(Outer, GOOD | {'rate_hz': 10})
    assert (config.count, config.enabled, config.inner.labels) == (3, True, ('a', 'b'))
    assert type(config.rate_hz) is float


@pytest.mark.parametrize(('change', 'key', 'says'), [
    ({'rat_hz': 1.0}, 'rat_hz', 'unknown key'),
    ({'inner': {'gains': [1.0], 'gain': 1.0}}, 'inner.gain', 'unknown key'),
    ({'rate_hz': '10'}, 'rate_hz', 'expected float'),
    ({'rate_hz': True}, 'rate_hz', 'expected float'),
    ({'count': 2.0}, 'count', 'expected int'),
    ({'count': True}, 'count', 'expected int'),
    ({'enabled': 1}, 'enabled', 'expected bool'),
    ({'inner': {'gains': 1.0}}, 'inner.gains', 'expected a list of float'),
    ({'inner': {'gains': [1.0, 'x']}}, 'inner.gains[1]', 'expected float'),
    ({'inner': [1.0]}, 'inner', 'expected a mapping'),
    ({'inner': {}}, 'inner.gains', 'missing'),
    ({'rate_hz': 0.5}, 'rate_hz', 'below the minimum 1.0'),
    ({'rate_hz': 1001.0}, 'rate_hz', 'above the maximum 1000.0'),
    ({'rate_hz': float('nan')}, 'rate_hz', 'not a finite number'),
    ({'rate_hz': float('inf')}, 'rate_hz', 'not a finite number'),
    ({'inner': {'gains': [1.0, float('-inf')]}}, 'inner.gains[1]', 'not a finite number'),
    ({'inner': {'gains': [-1.0]}}, 'inner.gains[0]', 'below the minimum'),
    ({'mode': 'medium'}, 'mode', "'medium' is not one of fast, slow"),
])
def test_what_does_not_fit_is_refused_by_its_key(change: dict[str, Any], key: str,
                                                 says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(Outer, GOOD | change)
    assert str(refused.value).startswith(f'{key}: ')
    assert says in str(refused.value)


@pytest.mark.parametrize('key', ['rate_hz', 'mode', 'inner'])
def test_what_has_no_default_must_be_given(key: str) -> None:
    with pytest.raises(ConfigError, match=rf'^{key}.*missing'):
        load(Outer, {name: value for name, value in GOOD.items() if name != key})


def test_leaves_carry_what_parameters_are_described_by() -> None:
    found = {leaf.name: leaf for leaf in leaves(Outer)}
    assert list(found) == ['rate_hz', 'mode', 'inner.gains', 'inner.labels', 'count', 'enabled']
    assert found['mode'].choices == ('fast', 'slow')
    assert (found['rate_hz'].minimum, found['rate_hz'].maximum) == (1.0, 1000.0)
    assert found['inner.gains'].required
    assert found['inner.labels'].default == ('a', 'b')


@pytest.mark.parametrize(('text', 'says'), [
    (None, 'no such file'), ('a: [1', 'not valid YAML'), ('- 1', 'expected a mapping')])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / 'robot.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf'robot\.yaml: {says}'):
        read_yaml(path)
