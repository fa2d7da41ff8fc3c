"""Speaker similarity against a double loop, and its interval against the truth of simulated voices."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import speaker
from tunesmith.types import Audio


def voice(count: int, seed: int, spread: float = 0.7, who: int = 0) -> list[np.ndarray]:
    """Clips of one voice: a direction of its own and what varies from clip to clip."""
    middle = np.random.default_rng(10_000 + who).standard_normal(16)
    rng = np.random.default_rng(seed)
    return [middle + spread * rng.standard_normal((1 + i % 2, 16)) for i in range(count)]


def naive(a: np.ndarray, b: np.ndarray) -> float:
    def one(rows: np.ndarray) -> np.ndarray:
        return np.mean([row / np.linalg.norm(row) for row in rows], axis=0)

    x, y = one(a), one(b)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_against_a_double_loop() -> None:
    target, takes, others = voice(5, 0), voice(7, 1), voice(4, 2, who=1)
    made = speaker.compute(target, takes, others=others)
    assert made.value == pytest.approx(fmean(naive(a, b) for a in takes for b in target))
    same = fmean(naive(a, b) for i, a in enumerate(target) for b in target[:i])
    assert made.details["same_speaker"] == pytest.approx(same)
    different = fmean(naive(a, b) for a in target for b in others)
    assert made.details["different_speakers"] == pytest.approx(different)
    assert (made.n_reference, made.n_candidate, made.dimension) == (5, 7, 16)
    assert made.details["different_speakers"] < made.value


def test_the_interval_covers_the_truth_over_takes_and_recordings() -> None:
    """Both are samples: other recordings of the voice would have moved the number, too."""
    truth = fmean(speaker.compute(voice(300, 2 * s), voice(300, 2 * s + 1)).value for s in range(5))
    for recordings, takes in ((12, 32), (40, 12)):
        hits = 0
        for seed in range(500):
            made = speaker.compute(
                voice(recordings, 5000 + 2 * seed), voice(takes, 5001 + 2 * seed)
            )
            assert made.interval is not None
            hits += made.interval[0] <= truth <= made.interval[1]
        assert 0.92 <= hits / 500 <= 0.98


def test_few() -> None:
    one = speaker.compute(voice(1, 0), voice(9, 1))
    assert one.interval is not None and "same_speaker" not in one.details
    assert any("one recording" in warning for warning in one.warnings)
    assert speaker.compute(voice(1, 0), voice(1, 1)).interval is None
    same = voice(1, 0) * 3
    made = speaker.compute(same, same)
    assert made.value == pytest.approx(1.0) and made.interval == pytest.approx((1.0, 1.0))


def test_short_takes_are_named() -> None:
    made = speaker.compute(voice(3, 0), voice(3, 1), speech_s=[2.9, 3.0, 8.0])
    assert "1 of 3 takes have less than 3 s of speech" in made.warnings[0]
    assert not speaker.compute(voice(3, 0), voice(2, 1), speech_s=[3.0, 8.0]).warnings


def test_pauses_are_not_speech() -> None:
    time_s = np.arange(16_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 200 * time_s)
    sound = np.concatenate([tone, 1e-4 * tone, tone, 0 * tone]).astype(np.float32)
    assert speaker.sounding_s(Audio(sound[None], 16_000)) == pytest.approx(2.0, abs=0.05)
    assert speaker.sounding_s(Audio(np.zeros((1, 16_000), np.float32), 16_000)) == 0
    assert speaker.sounding_s(Audio(np.zeros((1, 3), np.float32), 16_000)) == 0


def test_mistakes() -> None:
    with pytest.raises(UserError, match="0 recordings"):
        speaker.compute([], voice(2, 0))
    with pytest.raises(UserError, match="wide"):
        speaker.compute(voice(2, 0), [row[:, :8] for row in voice(2, 0)])
    with pytest.raises(UserError, match="point nowhere"):
        speaker.compute(voice(2, 0), [np.zeros((1, 16))])
