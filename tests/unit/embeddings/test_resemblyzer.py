"""Resemblyzer's encoder from the weights of its package, without the package's code."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tunesmith.embeddings import open_embedder, resemblyzer
from tunesmith.errors import UserError
from tunesmith.types import Audio

TOP = [189, 136, 215]
VALUES = [0.302166, 0.253604, 0.174779]
needs_weights = pytest.mark.skipif(
    not resemblyzer.available(), reason="resemblyzer's weights are not installed"
)


def tones(seconds: float, hz: float = 150.0) -> Audio:
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    sound = sum(np.sin(2 * np.pi * k * hz * time_s + k) / k for k in range(1, 30))
    return Audio(0.05 * sound[None].astype(np.float32), 16_000)


@needs_weights
@pytest.mark.parametrize(("seconds", "rows"), [(0.01, 1), (1.0, 1), (1.6, 1), (2.5, 2), (8.0, 9)])
def test_a_row_of_length_1_every_0_8_s(seconds: float, rows: int):
    ear = open_embedder("resemblyzer", "cpu")
    found = ear.embed(tones(seconds))
    assert found.shape == (rows, 256) and found.dtype == np.float64
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(rows), abs=1e-6)
    assert (found >= 0).all()  # rectified
    assert np.array_equal(found, ear.embed(tones(seconds)))
    assert "resemblyzer" not in sys.modules  # ours is tunesmith.embeddings.resemblyzer


@needs_weights
def test_numbers_of_the_package():
    """Measured once with the package's own ``VoiceEncoder`` 0.1.4 on this sound, at -30 dBFS or louder."""
    found = open_embedder("resemblyzer", "cpu").embed(tones(1.6))[0]
    top = np.argsort(-found)[:3]
    assert top.tolist() == TOP
    assert found[top] == pytest.approx(VALUES, abs=2e-5)


def test_mels_of_a_tone_lie_in_its_band():
    time_s = torch.arange(16_000) / 16_000
    mels = resemblyzer.mel_powers(torch.sin(2 * torch.pi * 1000 * time_s))
    assert mels.shape == (101, 40)
    # 1 kHz is mel 15 of 45.25 on Slaney's scale: the filter whose peak lies nearest to it.
    assert int(mels[50].argmax()) == round(15 / (15 + 27 * np.log(8) / np.log(6.4)) * 41) - 1


def test_what_is_missing_or_other_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path):
    with pytest.raises(UserError, match="takes no model"):
        open_embedder("resemblyzer:x", "cpu")
    monkeypatch.setattr(resemblyzer, "weights", lambda: None)
    assert not resemblyzer.available()
    with pytest.raises(UserError, match="pip install --no-deps resemblyzer"):
        open_embedder("resemblyzer", "cpu")
    other = tmp_path / "pretrained.pt"
    other.write_bytes(b"other")
    monkeypatch.setattr(resemblyzer, "weights", lambda: other)
    with pytest.raises(UserError, match="other weights"):
        open_embedder("resemblyzer", "cpu")
