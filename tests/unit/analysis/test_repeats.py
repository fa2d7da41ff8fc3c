"""What is missing of a sound, found where the same sound says it again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.analysis.repeats import BANDS, repeated, sources, spectra
from tunesmith.types import Audio

RATE, FRAMES_HZ = 16_000, 50.0


def bar(seconds: float, seed: int) -> np.ndarray:
    """Eight notes of a bar, each of another pitch and loudness."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE / 8)) / RATE
    notes = [
        draw.uniform(0.1, 1)
        * np.sin(2 * np.pi * draw.uniform(100, 4000) * time)
        * np.exp(-6 * time)
        for _ in range(8)
    ]
    return np.concatenate(notes)


def looped(seconds: float = 6.0, period_s: float = 1.2) -> Audio:
    """One bar over and over, with a little noise."""
    once = bar(period_s, 1)
    whole = np.tile(once, round(seconds / period_s) + 1)[: round(seconds * RATE)]
    whole = whole + 1e-3 * np.random.default_rng(0).standard_normal(len(whole))
    return Audio(whole[None].astype(np.float32), RATE)


def with_hole(frames: int, *holes: tuple[int, int]) -> torch.Tensor:
    given = torch.ones(frames, dtype=torch.bool)
    for begin, end in holes:
        given[begin:end] = False
    return given


def heard(audio: Audio, frames: int) -> torch.Tensor:
    return torch.from_numpy(spectra(audio, FRAMES_HZ, frames))


def test_a_spectrum_has_a_tone_in_its_band_and_a_click_at_its_time():
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    found = spectra(Audio(tone[None], RATE), FRAMES_HZ, 120)
    assert found.shape == (BANDS, 120)
    assert found.dtype == np.float32
    band = int(np.log(1000 / 60) / np.log(8000 / 60) * BANDS)
    assert set(found[:, 10:90].argmax(axis=0)) == {band}
    np.testing.assert_allclose(found[:, 105:], -3, atol=1e-5)  # silence after the end
    click = np.zeros((2, RATE), np.float32)
    click[:, 8000] = 1
    assert spectra(Audio(click, RATE), FRAMES_HZ, 50).sum(axis=0).argmax() == 25


@pytest.mark.parametrize("hole", [(20, 90), (130, 180), (200, 270), (0, 60), (240, 300)])
def test_a_hole_in_a_loop_is_found_one_bar_away(hole: tuple[int, int]):
    begin, end = hole
    found = sources(heard(looped(), 300), with_hole(300, hole), FRAMES_HZ)
    assert (found[:begin] == -1).all()
    assert (found[end:] == -1).all()
    away = found[begin:end] - torch.arange(begin, end)
    assert len(set(away.tolist())) == 1
    assert abs(int(away[0])) % 60 == 0  # bars of 1.2 s
    assert abs(int(away[0])) >= end - begin or abs(int(away[0])) >= 50


def test_a_long_end_goes_on_in_bars():
    """Longer than what is given: what was put there is repeated in its turn."""
    found = sources(heard(looped(), 300), with_hole(300, (100, 300)), FRAMES_HZ)
    assert bool((found[:100] == -1).all())
    assert bool(((found[100:] >= 0) & (found[100:] < 100)).all())
    assert ((found[100:] - torch.arange(100, 300)) % 60 == 0).all()


def test_every_hole_of_several_is_filled_from_what_is_given():
    given = with_hole(300, (40, 100), (150, 200), (230, 260))
    found = sources(heard(looped(), 300), given, FRAMES_HZ)
    assert bool(given[found[~given]].all())
    assert ((found[~given] - torch.arange(300)[~given]) % 60 == 0).all()


def test_what_was_in_the_hole_is_not_listened_to():
    given, bright = with_hole(300, (130, 180)), heard(looped(), 300)
    other = bright.clone()
    other[:, 128:182] = torch.randn(BANDS, 54, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sources(bright, given, FRAMES_HZ), sources(other, given, FRAMES_HZ))


def test_where_nothing_or_next_to_nothing_is_given_nothing_stands_in():
    bright = heard(looped(), 300)
    assert (sources(bright, with_hole(300, (0, 300)), FRAMES_HZ) == -1).all()
    assert (sources(bright, with_hole(300, (5, 300)), FRAMES_HZ) == -1).all()
    assert (sources(bright, with_hole(300), FRAMES_HZ) == -1).all()


def test_latents_of_the_stretch_and_zero_elsewhere():
    latents = torch.arange(12.0).view(2, 6)
    found = repeated(latents, torch.tensor([-1, 0, 5, -1, 3, -1]))
    assert found.tolist() == [[0, 0, 5, 0, 3, 0], [0, 6, 11, 0, 9, 0]]
