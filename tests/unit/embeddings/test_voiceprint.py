"""The embedded voice encoder: rows of length 1, the same every time, of any sound."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from tunesmith.embeddings import open_embedder, voiceprint
from tunesmith.errors import UserError
from tunesmith.types import Audio


def voice(seed: int, duration_s: float, rate_hz: int = 16_000) -> Audio:
    """Buzzes with formants of their own, whose pitch glides: a voice of a kind."""
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    pitch_hz = draw.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * draw.uniform(0.5, 2) * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    tilt = draw.uniform(0.6, 1.6)
    sound = sum(np.sin(k * phase) / k**tilt for k in range(1, 25))
    return Audio((0.05 * sound)[None].astype(np.float32), rate_hz)


@pytest.fixture(scope="module")
def ear() -> voiceprint.Voiceprint:
    return voiceprint.load()


def test_it_opens_by_name_without_a_download(ear: voiceprint.Voiceprint):
    opened = open_embedder("voiceprint")
    assert voiceprint.available()
    assert (opened.key, opened.label) == (ear.key, ear.label)
    assert ear.dimension == voiceprint.SPEC["dimension"] == 256 and ear.small
    with pytest.raises(UserError, match="takes no model"):
        open_embedder("voiceprint:owner/model")


@pytest.mark.parametrize(
    ("duration_s", "rows"), [(0.01, 1), (0.4, 1), (3.0, 1), (14.9, 1), (21, 2)]
)
def test_rows_of_length_one_for_each_ten_seconds(
    ear: voiceprint.Voiceprint, duration_s: float, rows: int
):
    made = ear.embed(voice(0, duration_s))
    assert made.shape == (rows, 256) and made.dtype == np.float64
    assert np.linalg.norm(made, axis=1) == pytest.approx(1.0)
    assert np.array_equal(made, ear.embed(voice(0, duration_s)))


def test_level_rate_and_channels_hardly_matter(ear: voiceprint.Voiceprint):
    one = voice(1, 3.0)
    row = ear.embed(one)[0]
    louder = Audio(4 * one.samples, 16_000)
    stereo = Audio(np.repeat(one.samples, 2, axis=0), 16_000)
    faster = Audio(soxr.resample(one.samples[0], 16_000, 44_100)[None], 44_100)
    assert ear.embed(stereo)[0] == pytest.approx(row)
    assert ear.embed(louder)[0] @ row > 0.999
    assert ear.embed(faster)[0] @ row > 0.98


def test_what_cannot_be_heard_is_refused(ear: voiceprint.Voiceprint):
    assert np.isfinite(ear.embed(Audio(np.zeros((1, 16_000), np.float32), 16_000))).all()
    for samples in (np.zeros((1, 0), np.float32), np.full((1, 16_000), np.nan, np.float32)):
        with pytest.raises(UserError, match="no samples, or NaN"):
            ear.embed(Audio(samples, 16_000))
