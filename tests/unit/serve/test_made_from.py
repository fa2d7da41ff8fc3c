"""Engines make of a sound what the tasks make of it, in whatever company."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tunesmith.errors import UserError
from tunesmith.families.musicgen import tiny as tiny_musicgen
from tunesmith.registry import plugin
from tunesmith.serve.batch_engine import BatchEngine
from tunesmith.serve.request import MadeFrom, Request
from tunesmith.serve.token_engine import TokenEngine
from tunesmith.tasks.edit import edit
from tunesmith.tasks.generate import generate
from tunesmith.tasks.inpaint import inpaint
from tunesmith.types import Audio, GenerationSettings

QUICK = GenerationSettings(steps=2)


class Ear:
    """A sink that waits for one whole sound."""

    def __init__(self) -> None:
        self.parts: list[Audio] = []
        self.error: Exception | None = None
        self._over = threading.Event()

    def progress(self, share: float) -> None: ...

    def part(self, audio: Audio) -> None:
        self.parts.append(audio)

    def finished(self) -> None:
        self._over.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self._over.set()

    def cancelled(self) -> None:
        self._over.set()

    @property
    def sound(self) -> np.ndarray:
        assert self._over.wait(120)
        assert self.error is None, self.error
        return np.concatenate([one.samples for one in self.parts], axis=1)


def recording(path: Path, rate_hz: int, seconds: float, channels: int = 1) -> Audio:
    """Written as it is read again: float samples at any rate."""
    draw = np.random.default_rng(1)
    samples = draw.uniform(-0.4, 0.4, (channels, round(seconds * rate_hz))).astype(np.float32)
    soundfile.write(path, samples.T, rate_hz, format="WAV", subtype="FLOAT")
    return Audio(samples, rate_hz)


def asked(engine: Any, *requests: Request) -> list[Ear]:
    ears = [Ear() for _ in requests]
    for request, ear in zip(requests, ears, strict=True):
        engine.submit(request, ear)
    return ears


@pytest.mark.parametrize("channels", [1, 2])
def test_tokens_go_on_from_a_sound_as_the_family_does(tmp_path: Path, channels: int) -> None:
    plain = tiny_musicgen(0, channels=channels)
    file = tmp_path / "one.sound"
    audio = recording(file, plain.sample_rate_hz, 0.3, plain.channels)
    source = MadeFrom("continue", "a" * 32, file=str(file))
    settings = GenerationSettings(guidance=2.0, temperature=0.9, top_k=20)
    requests = [
        Request("0", "a waltz", 0.4, 5, settings),
        Request("1", "slow blues", 0.7, 3, settings, made_from=source),
        Request("2", "", 0.6, 4, settings, made_from=source, streamed=True),
        Request("3", "slow blues", 0.7, 3, settings),
    ]
    engine = TokenEngine(tiny_musicgen(0, channels=channels), slots=2, chunk_s=0.1)
    engine.start()
    try:
        sounds = [ear.sound for ear in asked(engine, *requests)]
    finally:
        engine.stop()
    for request, sound in zip(requests, sounds, strict=True):
        (take,) = generate(
            plain,
            [request.prompt],
            duration_s=request.duration_s,
            seed=request.seed,
            settings=settings,
            continued=audio if request.made_from else None,
        )
        np.testing.assert_allclose(sound, take.audio.samples, atol=1e-5)
    assert np.abs(sounds[1] - sounds[3]).max() > 1e-4


@pytest.mark.parametrize("family", ["stable_audio", "stable_audio_3", "ace_step"])
def test_batches_make_of_a_sound_what_the_tasks_make(tmp_path: Path, family: str) -> None:
    tiny = plugin("families", family).load().tiny
    plain, engine = tiny(0), BatchEngine(tiny(0), slots=4, window_s=0.0)
    rate_hz, file, own = plain.sample_rate_hz, tmp_path / "own.sound", tmp_path / "other.sound"
    audio = recording(file, rate_hz, 0.5, plain.channels)
    around = recording(own, 22_050, 0.75)  # its own rate and channels stay
    spans, seconds = ((0.2, 0.35),), 0.8
    wishes = [
        (seconds, MadeFrom("continue", "a" * 32, file=str(file))),
        (0.75, MadeFrom("inpaint", "b" * 32, spans, file=str(own))),
        (0.5, MadeFrom("edit", "a" * 32, strength=0.7, file=str(file))),
    ]
    requests = [
        Request(str(n), "slow blues", length, n, QUICK, made_from=one)
        for n, (length, one) in enumerate(wishes)
    ]
    engine.start()
    try:
        (alone,) = asked(engine, Request("x", "slow blues", seconds, 0, QUICK))
        sounds = [ear.sound for ear in asked(engine, *requests)]
        assert np.abs(sounds[0] - alone.sound).max() > 1e-4
    finally:
        engine.stop()
    takes = [
        *generate(
            plain, ["slow blues"], duration_s=seconds, seed=0, settings=QUICK, continued=audio
        ),
        *inpaint(plain, "slow blues", around, spans, seed=1, settings=QUICK),
        *edit(plain, ["slow blues"], audio, 0.7, seed=2, settings=QUICK),
    ]
    for sound, take in zip(sounds, takes, strict=True):
        np.testing.assert_allclose(sound, take.audio.samples, atol=1e-5)
    assert sounds[1].shape == around.samples.shape
    assert np.array_equal(
        sounds[1][:, : round(0.18 * 22_050)], around.samples[:, : round(0.18 * 22_050)]
    )


def test_a_sound_that_is_gone_fails_that_request_alone(tmp_path: Path) -> None:
    lost = MadeFrom("continue", "a" * 32, file=str(tmp_path / "gone.sound"))
    engine = TokenEngine(tiny_musicgen(0), slots=2)
    engine.start()
    try:
        gone, other = asked(
            engine,
            Request("0", "a", 0.3, 0, made_from=lost),
            Request("1", "b", 0.3, 0),
        )
        assert other.sound.size
    finally:
        engine.stop()
    assert isinstance(gone.error, UserError)
    assert str(tmp_path) not in str(gone.error) and "a" * 32 in str(gone.error)
