"""What lies under speech: each measure moves with what it measures."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tunesmith.analysis import speech_quality
from tunesmith.analysis.speech_quality import (
    at_16_khz,
    background_mos,
    decay_s,
    steady_tones,
)
from tunesmith.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from voices import RATE_HZ, pause, phrases


@pytest.mark.skipif(find_spec("speechmos") is None, reason="speechmos is not installed")
def test_noise_lowers_the_background_mos_as_the_package_has_it():
    clean = phrases([2.0, 2.5])
    noisy = clean + pause(len(clean) / RATE_HZ, floor=0.02)[: len(clean)]
    assert background_mos(clean) > 3.0 > background_mos(noisy)
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    nine_s = np.resize(clean, 144_160)  # one window, so that both hear the same
    wanted = dnsmos.run(nine_s, 16_000)["bak_mos"]
    assert background_mos(nine_s) == pytest.approx(float(wanted), abs=1e-3)


def test_notes_are_steady_and_speech_is_not():
    speech = phrases([2.0, 2.0])
    time_s = np.arange(len(speech)) / RATE_HZ
    chord = sum(0.02 * np.sin(2 * np.pi * hz * time_s) for hz in (523.3, 659.3, 784.0))
    assert steady_tones(speech) < 0.05
    assert steady_tones((speech + chord).astype(np.float32)) > 1.0
    assert steady_tones(pause(3.0, floor=0.1)) < 0.05
    assert steady_tones(np.zeros(100, np.float32)) == 0.0


@pytest.mark.parametrize("reverberation_s", [0.8, 1.2])
def test_a_room_makes_words_ring_on(reverberation_s: float):
    dry = phrases([0.4] * 8, gap_s=0.3)
    rng = np.random.default_rng(1)
    tail = rng.standard_normal(round(reverberation_s * RATE_HZ))
    tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
    tail *= 1 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = np.convolve(dry, tail).astype(np.float32)
    before, after = decay_s(dry), decay_s(wet)
    assert before is not None and after is not None
    assert before < 0.25 and after > 0.45


def test_nothing_to_tell_by_is_none():
    assert decay_s(np.zeros(16_000, np.float32)) is None
    assert decay_s(np.zeros(50, np.float32)) is None


def test_channels_and_rate():
    stereo = np.stack([np.ones(4800), -np.ones(4800)], axis=1).astype(np.float32)
    assert at_16_khz(stereo, 48_000).shape == (1600,)
    assert not at_16_khz(stereo, 48_000).any()


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speech_quality, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="speechmos, which is not installed") as caught:
        speech_quality.require()
    assert "tunesmith[voice]" in str(caught.value)
