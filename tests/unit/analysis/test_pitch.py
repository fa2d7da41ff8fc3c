"""Pitch against sounds whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.analysis import pitch
from tunesmith.types import Audio


def buzz(hz: np.ndarray, rate_hz: int = 16_000) -> Audio:
    """A voice-like sound: twelve harmonics, each weaker than the one before."""
    phase = 2 * np.pi * np.cumsum(hz) / rate_hz
    sound = sum(np.sin(n * phase) / n for n in range(1, 13))
    return Audio((0.1 * np.asarray(sound)).astype(np.float32)[None], rate_hz)


@pytest.mark.parametrize("hz", [82.0, 120.0, 233.0, 410.0])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050])
def test_a_steady_tone(hz: float, rate_hz: int):
    found = pitch.of_sounds([buzz(np.full(rate_hz, hz), rate_hz)])
    assert found is not None
    assert found.median_hz == pytest.approx(hz, rel=0.005)
    assert found.range_semitones < 0.2


def test_a_glide_has_a_range():
    found = pitch.of_sounds([buzz(np.geomspace(100, 200, 32_000))])
    assert found is not None
    assert found.median_hz == pytest.approx(141.4, rel=0.03)
    assert found.range_semitones == pytest.approx(0.8 * 12, abs=0.4)


def test_noise_and_silence_have_none():
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 16_000)).astype(np.float32)
    assert pitch.of_sounds([Audio(noise, 16_000)]) is None
    assert pitch.of_sounds([Audio(np.zeros((1, 16_000), np.float32), 16_000)]) is None
    assert pitch.of_sounds([Audio(np.zeros((1, 10), np.float32), 16_000)]) is None
    assert pitch.of_sounds([]) is None


def test_an_octave_is_twelve_semitones():
    assert pitch.semitones(110, 220) == pytest.approx(12)
    assert pitch.semitones(220, 110) == pytest.approx(-12)
