"""Clips of other voices lie apart from the direction of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.data.voice_speakers import FEWEST, MOST, distances, odd_ones, open_encoder, voice_of
from tunesmith.errors import UserError


def voices(count: int, spread: float, seed: int, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(width)
    rows = (
        centre / np.linalg.norm(centre) + spread * rng.standard_normal((count, width)) / width**0.5
    )
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("spread", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("strangers", [1, 4, 10])
def test_a_tenth_of_others_is_found_whatever_the_spread(spread: float, strangers: int):
    mine = voices(9 * strangers, spread, 0)
    others = np.concatenate([voices(1, spread, seed) for seed in range(1, strangers + 1)])
    figures = odd_ones([*mine, *others])
    assert all(one is None for one in figures[: len(mine)])
    assert all(one is not None and one > MOST for one in figures[len(mine) :])


def test_one_voice_has_no_odd_ones():
    assert odd_ones(list(voices(60, 0.5, 3))) == [None] * 60
    same = np.repeat(voices(1, 0.1, 4), 10, axis=0)
    assert odd_ones(list(same)) == [None] * 10
    assert np.allclose(distances(same), 0.0, atol=1e-9)


def test_of_a_few_clips_nobody_can_tell():
    few = [*voices(FEWEST - 2, 0.2, 0), *voices(1, 0.2, 1)]
    assert odd_ones(few) == [None] * len(few)


def test_a_clips_voice_is_the_mean_of_its_rows():
    rows = np.array([[2.0, 0.0], [0.0, 5.0]])
    assert voice_of(rows) == pytest.approx(np.full(2, 0.5**0.5))
    assert not voice_of(np.zeros((2, 3))).any()


def test_only_what_hears_speech_tells_voices_apart():
    with pytest.raises(UserError, match="not made for speech"):
        open_encoder("pocket")
    assert (found := open_encoder(None)) is None or found.dimension
