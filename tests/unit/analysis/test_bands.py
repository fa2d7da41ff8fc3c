"""A band and the rest add up to the recording, and each holds what it says."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.analysis.bands import drawn, split

RATE = 16_000


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)[None].astype(np.float32)


def level(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x[:, 2000:-2000].astype(float) ** 2)))


def test_both_parts_add_up():
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE)).astype(np.float32)
    inside, outside = split(sound, RATE, 500, 2000)
    np.testing.assert_allclose(inside + outside, sound, atol=1e-6)


@pytest.mark.parametrize(
    ("hz", "band", "within"),
    [
        (1000, (500, 2000), True),
        (100, (500, 2000), False),
        (6000, (500, 2000), False),
        (7900, (4000, 8000), True),
        (1000, (4000, 9000), False),
        (60, (0, 300), True),
        (3000, (0, 300), False),
    ],
)
def test_tones_fall_where_they_belong(hz: float, band: tuple[float, float], within: bool):
    inside, outside = split(tone(hz), RATE, *band)
    kept, left = (inside, outside) if within else (outside, inside)
    assert level(left) < 0.02 * level(tone(hz))
    assert level(kept) == pytest.approx(level(tone(hz)), rel=0.02)


def test_nothing_is_shifted_in_time():
    click = np.zeros((1, RATE), np.float32)
    click[0, 8000] = 1
    inside, _ = split(click, RATE, 500, 4000)
    assert int(np.abs(inside[0]).argmax()) == 8000


def test_the_whole_spectrum_is_all_inside():
    sound = tone(440)
    inside, outside = split(sound, RATE, 0, RATE)
    np.testing.assert_array_equal(inside, sound)
    assert not outside.any()


@pytest.mark.parametrize("samples", [2, 30, 100])
def test_a_very_short_sound(samples: int):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, samples)).astype(np.float32)
    inside, outside = split(sound, RATE, 500, 2000)
    assert inside.shape == sound.shape
    np.testing.assert_allclose(inside + outside, sound, atol=1e-6)


@pytest.mark.parametrize("rate", [1600, 16_000, 44_100])
def test_drawn_bands_lie_in_the_spectrum_and_differ(rate: int):
    found = [drawn(seed, rate) for seed in range(200)]
    for low, high in found:
        assert 0 < low < high <= rate / 2 + 1e-6
        assert 0.9 < np.log2(high / low) <= 3.01
    assert len({round(low) for low, _ in found}) > 50
    assert drawn(3, rate) == drawn(3, rate)
