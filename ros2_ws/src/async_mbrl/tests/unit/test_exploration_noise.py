"""Correlated and coloured noise: its spectrum, its variance at each step, its exact density."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_mbrl.control.exploration import (
    COLOR_ORDER,
    COLOR_PERIOD,
    CorrelatedNoise,
    NoiseProcess,
    color_autocovariance,
    noise_process,
)
from async_mbrl.core.config import ConfigError, load
from async_mbrl.learning.config import ExplorationConfig

SIZE = 7
PINK = noise_process(0.0, 1.0)


def sequence(process: NoiseProcess, steps: int, *, seed: int = 1, std: float = 1.0,
             size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw an episode: values (steps, size), and the log density of each step."""
    noise = CorrelatedNoise(size)
    noise.restart(seed)
    drawn = [noise.draw(std, process) for _ in range(steps)]
    return np.array([value for value, _ in drawn]), np.array([density for _, density in drawn])


def autocovariance(process: NoiseProcess, steps: int) -> np.ndarray:
    """Autocovariance (steps,) of a process, by the equations of Yule and Walker."""
    found = [1.0]
    for lag in range(1, steps):
        order = min(lag, process.order)
        found.append(process.coefficients[order] @ found[-order:])
    return np.array(found)


def toeplitz(covariance: np.ndarray) -> np.ndarray:
    lag = np.arange(len(covariance))
    return covariance[np.abs(lag[:, None] - lag)]


def gaussian(values: np.ndarray, covariance: np.ndarray) -> float:
    """Log density of the columns of ``values``, each normal with mean 0."""
    _, log_det = np.linalg.slogdet(covariance)
    return -0.5 * float((values * np.linalg.solve(covariance, values)).sum()
                        + values.shape[1] * (log_det + len(values) * np.log(2.0 * np.pi)))


@pytest.mark.parametrize('correlation', [0.0, 0.7, 0.95])
def test_without_a_color_it_is_the_autoregression_bit_by_bit(correlation: float) -> None:
    values, densities = sequence(noise_process(correlation, 0.0), 200)
    rng, unit = np.random.default_rng(1), np.zeros(SIZE)
    for step, (value, density) in enumerate(zip(values, densities, strict=True)):
        fresh = rng.standard_normal(SIZE)
        share = np.sqrt(1.0 - correlation * correlation) if step else 1.0
        unit = correlation * unit + share * fresh if step else fresh
        assert np.array_equal(value, unit)
        assert density == pytest.approx(
            -0.5 * fresh @ fresh - SIZE * np.log(share * np.sqrt(2.0 * np.pi)), abs=1e-12)


@pytest.mark.parametrize(('correlation', 'color'), [(0.7, 0.0), (0.0, 1.0)])
def test_same_seed_same_noise(correlation: float, color: float) -> None:
    noise, process = CorrelatedNoise(SIZE), noise_process(correlation, color)
    episodes = []
    for seed in (7, 7, 8):
        noise.restart(seed)
        episodes.append([noise.draw(0.5, process) for _ in range(50)])
    for (one, density), (other, same_density) in zip(*episodes[:2], strict=True):
        assert np.array_equal(one, other)
        assert density == same_density
    assert not np.array_equal(episodes[0][0][0], episodes[2][0][0])


@pytest.mark.parametrize('color', [0.5, 1.0, 1.5, 2.0])
def test_the_spectrum_falls_as_it_shall(color: float) -> None:
    """Slope of the mean periodogram, from four periods within a window to the fastest one."""
    steps, size = 512, 256
    values, _ = sequence(noise_process(0.0, color), steps, size=size)
    window = np.hanning(steps)[:, None]     # red noise would leak into all frequencies
    power = (np.abs(np.fft.rfft(values * window, axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(steps)
    among = slice(4, -1)
    slope, _ = np.polyfit(np.log(frequency[among]), np.log(power[among]), 1)
    assert slope == pytest.approx(-color, abs=0.05)


@pytest.mark.parametrize('color', [0.5, 1.0, 2.0])
def test_it_has_the_autocovariance_of_the_color(color: float) -> None:
    process = noise_process(0.0, color)
    np.testing.assert_allclose(autocovariance(process, COLOR_ORDER + 1),
                               color_autocovariance(color)[:COLOR_ORDER + 1], atol=1e-10)
    assert process.order == COLOR_ORDER
    # What is drawn a whole period at once has a power of 1 / f^color at each of its frequencies.
    power = np.fft.rfft(color_autocovariance(color)).real
    frequency = np.fft.rfftfreq(COLOR_PERIOD)
    np.testing.assert_allclose(power[1:] / power[1], (frequency[1:] / frequency[1]) ** -color,
                               rtol=1e-6)


@pytest.mark.parametrize('color', [1.0, 2.0])
def test_each_step_has_the_same_variance(color: float) -> None:
    size = 20_000
    values, _ = sequence(noise_process(0.0, color), 80, std=0.3, size=size)
    # Standard error of a standard deviation: 0.3 / sqrt(2 size).
    np.testing.assert_allclose(values.std(1), 0.3, atol=5.0 * 0.3 / np.sqrt(2.0 * size))


@settings(deadline=None)
@given(color=st.floats(0.05, 2.0), std=st.floats(0.01, 1.0), seed=st.integers(0, 2**64 - 1),
       steps=st.integers(1, 60))
def test_the_densities_of_the_steps_are_that_of_the_sequence(color: float, std: float, seed: int,
                                                             steps: int) -> None:
    process = noise_process(0.0, color)
    values, densities = sequence(process, steps, seed=seed, std=std, size=2)
    covariance = toeplitz(autocovariance(process, steps))
    expected = gaussian(values / std, covariance) - values.size * np.log(std)
    assert densities.sum() == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_no_scale_no_noise_and_no_density() -> None:
    values, densities = sequence(PINK, 3, std=0.0)
    assert not values.any()
    assert not densities.any()


def test_the_scale_may_change_in_the_middle() -> None:
    """The process goes on where it was; each step has the scale of its policy."""
    noise = CorrelatedNoise(SIZE)
    noise.restart(1)
    scales = np.concatenate([np.full(5, 0.5), np.zeros(3), np.full(5, 0.1)])
    values = np.array([noise.draw(scale, PINK)[0] for scale in scales])
    unit, _ = sequence(PINK, len(scales))
    np.testing.assert_allclose(values, scales[:, None] * unit, rtol=1e-12)
    noise.restart(1)
    each = np.linspace(0.1, 0.7, SIZE)
    value, density = noise.draw_each(each, PINK)
    np.testing.assert_array_equal(value, each * unit[0])
    assert density == pytest.approx(gaussian(value[None] / each, np.eye(1)) - np.log(each).sum())


def test_a_new_process_goes_on_from_the_newest_value() -> None:
    """It is as if its first value had been that one: variance and density stay exact."""
    before, after = noise_process(0.9, 0.0), PINK
    size, steps, change = 40_000, 12, 4
    noise = CorrelatedNoise(size)
    noise.restart(3)
    drawn = [noise.draw(1.0, before if step < change else after) for step in range(steps)]
    values = np.array([value for value, _ in drawn])
    np.testing.assert_allclose(values.std(1), 1.0, atol=5.0 / np.sqrt(2.0 * size))
    covariance = toeplitz(autocovariance(after, steps - change + 1))
    np.testing.assert_allclose(values[change - 1:] @ values[change - 1:].T / size, covariance,
                               atol=5.0 * np.sqrt(2.0 / size))
    given_newest = (gaussian(values[change - 1:], covariance)
                    - gaussian(values[change - 1:change], np.eye(1)))
    assert sum(density for _, density in drawn[change:]) == pytest.approx(given_newest, rel=1e-9)


def test_correlation_and_color_exclude_each_other() -> None:
    mapping = {'correlation': 0.7, 'color': 1.0}
    with pytest.raises(ConfigError, match=r'exploration\.color: 1\.0, but correlation is 0\.7'):
        load(ExplorationConfig, mapping, 'exploration')
    assert load(ExplorationConfig, {**mapping, 'correlation': 0.0}, 'exploration').color == 1.0
    with pytest.raises(ConfigError, match='above the maximum 2'):
        load(ExplorationConfig, {'correlation': 0.0, 'color': 2.5}, 'exploration')
