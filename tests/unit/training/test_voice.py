"""A voice judged: sounds joined to three seconds, similarity and intelligibility of a model's takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tunesmith.errors import UserError
from tunesmith.families import speecht5
from tunesmith.metrics.speaker import sounding_s
from tunesmith.training.voice import Judge, joined, likeness
from tunesmith.types import Audio, Clip

RATE = 16_000


def tone(hz: float, seconds: float) -> Audio:
    time = np.arange(round(seconds * RATE)) / RATE
    return Audio((0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None], RATE)


class Ear:
    """Hears pitch: a direction in a plane."""

    label, key, window_s, dimension, small = "pitch", "pitch", 10.0, 2, True

    def embed(self, audio: Audio) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(audio.samples[0]))
        hz = spectrum.argmax() * RATE / audio.samples.shape[1]
        return np.array([[np.cos(hz / 1000), np.sin(hz / 1000)]])


class Letters:
    """Says one phone for each half second."""

    label = "clock"

    def __init__(self, phone: str = "a") -> None:
        self.phone = phone

    def phones(self, audio: Audio) -> list[str]:
        return [self.phone] * (audio.samples.shape[1] * 2 // RATE)


def test_short_sounds_are_heard_together():
    together = joined([tone(200, 1.0)] * 7)
    assert len(together) == 2
    assert all(sounding_s(one) >= 3.0 for one in together)
    assert sum(sounding_s(one) for one in together) == pytest.approx(7.0, abs=0.2)


def test_one_that_is_too_short_is_still_heard():
    (one,) = joined([tone(200, 1.0)])
    assert one.samples.shape[1] == RATE


def test_different_rates_are_refused():
    with pytest.raises(UserError, match="sample rates"):
        joined([tone(200, 1.0), Audio(np.zeros((1, 100), np.float32), 8000)])


def test_likeness_is_the_cosine_of_the_voices():
    found = likeness(Ear(), [tone(1000, 4.0)] * 2, [tone(2000, 4.0)] * 2, [tone(3000, 4.0)])
    assert found.value == pytest.approx(np.cos(1.0), abs=1e-3)
    assert found.details["same_speaker"] == pytest.approx(1.0)
    assert found.details["different_speakers"] == pytest.approx(np.cos(2.0), abs=1e-3)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    made = []
    for index in range(3):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, tone(200, 1.5).samples[0], RATE)
        made.append(Clip(path, "abc ab", "valid", str(index), 0.0, 1.5, str(index)))
    return made


def test_a_judge_hears_the_same_twice_and_multiplies(clips: list[Clip]):
    bundle = speecht5.tiny()
    judge = Judge(bundle, clips, Ear(), Letters())
    found = judge()
    assert found == judge()
    assert 0 <= found["intelligibility"] <= 1
    assert found["score"] == pytest.approx(
        max(0.0, found["similarity"]) * max(found["intelligibility"], 0.1)
    )


def test_a_judge_of_the_recordings_themselves_is_content(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
):
    """Takes that are the recordings: the same voice, and every phone is right."""
    bundle = speecht5.tiny()
    monkeypatch.setattr(bundle, "generate", lambda *_, **__: [tone(200, 1.5)] * 3)
    found = Judge(bundle, clips, Ear(), Letters())()
    assert found["similarity"] == pytest.approx(1.0)
    assert found["intelligibility"] == 1.0


def test_a_judge_needs_speech_that_was_kept_aside(clips: list[Clip]):
    bundle = speecht5.tiny()
    for some in ([], clips):
        with pytest.raises(UserError, match="cannot be judged"):
            Judge(bundle, some, Ear(), Letters("") if not some else _Deaf())


class _Deaf:
    label = "deaf"

    def phones(self, audio: Audio) -> list[str]:
        return []
