"""The tagger on sounds made here: shapes, repeatability, and that it hears more noise as more."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tunesmith.errors import UserError
from tunesmith.metrics import fad, kad, tagger
from tunesmith.types import Audio


@pytest.fixture(scope="module")
def model() -> tagger.Tagger:
    return tagger.load()


def melody(
    length_s: float, rate_hz: int = 16_000, *, bpm: float = 120, seed: int = 0
) -> np.ndarray:
    """Plucked notes on the beat, float32 ``[T]``."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(length_s * rate_hz)) / rate_hz
    sound = np.zeros(len(time_s))
    for begin in np.arange(0, length_s, 60 / bpm):
        hz = 220 * 2 ** (rng.integers(0, 13) / 12)
        held = slice(int(begin * rate_hz), int((begin + 1) * rate_hz))
        since = time_s[held] - begin
        for harmonic in range(1, 5):
            tone = np.exp(-5 * since) * np.sin(2 * np.pi * hz * harmonic * since)
            sound[held] += 0.2 / harmonic * tone
    return sound.astype(np.float32)


def test_files_are_small_and_named() -> None:
    sizes = [(tagger.FOLDER / name).stat().st_size for name in ("model.safetensors", "config.json")]
    assert sum(sizes) <= 1_500_000
    assert "tagger" in tagger.NAME


def test_listing_metrics_stays_light() -> None:
    code = (
        "import sys, tunesmith.metrics\n"
        "from tunesmith.registry import plugins\n"
        "assert plugins('metrics')['tagger'].spec['better'] == 'higher'\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("length_s", [1.0, 5.3])
def test_any_rate_and_length(model: tagger.Tagger, rate_hz: int, length_s: float) -> None:
    audio = Audio(melody(length_s, rate_hz)[None], rate_hz)
    rows = model.embed(audio)
    assert rows.shape == (round(length_s), tagger.WIDTH) and rows.dtype == np.float64
    assert np.isfinite(rows).all()
    tags = model.tags(audio)
    assert 55 <= tags.tempo_bpm <= 204 and 0 < tags.tempo_probability <= 1 + 1e-6
    assert np.isfinite(model.familiarity(audio))


def test_minutes(model: tagger.Tagger) -> None:
    audio = Audio(melody(75.0)[None], 16_000)
    assert model.embed(audio).shape == (75, tagger.WIDTH)
    assert model.embed(audio, window_s=2.5).shape == (30, tagger.WIDTH)
    assert model.tags(audio).best("style") in model.classes["style"]


@pytest.mark.parametrize("samples", [1, 100, 4_000])
def test_shorter_than_a_window(model: tagger.Tagger, samples: int) -> None:
    audio = Audio(np.full((1, samples), 0.1, np.float32), 16_000)
    assert model.embed(audio).shape == (1, tagger.WIDTH)
    assert np.isfinite(model.embed(audio)).all()


def test_chances_sum_to_one(model: tagger.Tagger) -> None:
    tags = model.tags(Audio(melody(23.0)[None], 16_000))
    assert set(tags.probabilities) == set(model.classes)
    for head, chances in tags.probabilities.items():
        assert list(chances) == model.classes[head]
        assert sum(chances.values()) == pytest.approx(1, abs=1e-6)
        assert tags.best(head) == max(chances, key=chances.__getitem__)


def test_repeatable(model: tagger.Tagger) -> None:
    audio = Audio(melody(6.0)[None], 16_000)
    assert np.array_equal(model.embed(audio), model.embed(audio))
    assert model.tags(audio) == model.tags(audio)
    assert model.familiarity(audio) == model.familiarity(audio)


def test_a_batch_is_its_rows(model: tagger.Tagger) -> None:
    both = torch.from_numpy(np.stack([melody(4.0, seed=0), 0.1 * melody(4.0, bpm=90, seed=1)]))
    with torch.inference_mode():
        together = model.network(tagger.normalised(tagger.mel_power(both)))
        for index, one in enumerate(both):
            alone = model.network(tagger.normalised(tagger.mel_power(one[None])))
            for head, logits in alone.items():
                assert torch.allclose(logits[0], together[head][index], atol=1e-3), head


def test_stereo_is_averaged_and_level_does_not_matter(model: tagger.Tagger) -> None:
    mono = melody(5.0)
    one = model.embed(Audio(mono[None], 16_000))
    both = model.embed(Audio(np.stack([1.5 * mono, 0.5 * mono]), 16_000))
    soft = model.embed(Audio(0.1 * mono[None], 16_000))
    assert np.allclose(one, both, atol=1e-3) and np.allclose(one, soft, atol=1e-3)


def test_silence(model: tagger.Tagger) -> None:
    audio = Audio(np.zeros((2, 44_100 * 3), np.float32), 44_100)
    assert model.embed(audio).shape == (3, tagger.WIDTH)
    assert np.isfinite(model.embed(audio)).all()
    assert model.familiarity(audio) < model.config["familiarity"]["threshold"]
    assert sum(model.tags(audio).probabilities["style"].values()) == pytest.approx(1)


@pytest.mark.parametrize("samples", [np.zeros((1, 0), np.float32), np.full((1, 99), np.nan)])
def test_refuses_what_is_no_sound(model: tagger.Tagger, samples: np.ndarray) -> None:
    with pytest.raises(UserError, match="no samples, or NaN"):
        model.tags(Audio(samples, 16_000))


def test_noise_moves_the_embedding_away(model: tagger.Tagger) -> None:
    sounds = [melody(8.0, bpm=80 + 10 * seed, seed=seed) for seed in range(6)]
    noise = np.random.default_rng(0).standard_normal(len(sounds[0])).astype(np.float32)
    clean = np.concatenate([model.embed(Audio(s[None], 16_000)) for s in sounds])
    fads, kads = [0.0], [0.0]
    for level in (0.001, 0.01, 0.03, 0.1):
        bad = [model.embed(Audio((s + level * noise)[None], 16_000)) for s in sounds]
        fads.append(fad.distance(clean, np.concatenate(bad)))
        kads.append(kad.compute(clean, np.concatenate(bad), permutations=0).value)
    assert np.all(np.diff(fads) > 0) and np.all(np.diff(kads[1:]) > 0)


def test_tempo_from_classes() -> None:
    chances = np.zeros(len(tagger.TEMPOS_BPM))
    chances[[30, 31]] = 0.5
    between = np.sqrt(tagger.TEMPOS_BPM[30] * tagger.TEMPOS_BPM[31])
    assert tagger.tempo_bpm(chances) == pytest.approx(between)


def test_another_tempo_shifts_the_autocorrelation() -> None:
    mels = [
        tagger.normalised(tagger.mel_power(torch.from_numpy(melody(10.0, bpm=b)[None])))
        for b in (100, 120)
    ]
    slow, fast = (tagger.autocorrelation(mel).sum(1)[0].numpy() for mel in mels)
    step = np.log(4.5 / 0.15) / 299
    shift = round(np.log(1.2) / step)
    likeness = [float(fast[60:180] @ slow[60 + s : 180 + s]) for s in range(40)]
    assert abs(int(np.argmax(likeness)) - shift) <= 2


def test_compute_counts_what_is_heard(model: tagger.Tagger) -> None:
    sounds = [Audio(melody(3.0, seed=s)[None], 16_000) for s in range(2)]
    heard = [model.tags(sound).best("style") for sound in sounds]
    other = next(name for name in model.classes["style"] if name != heard[1])
    result = tagger.compute(sounds, [{"style": heard[0]}, {"style": other}])
    assert result.value == 0.5 and result.interval is not None
    assert result.interval[0] < 0.5 < result.interval[1]
    with pytest.raises(UserError, match="does not know the style"):
        tagger.compute(sounds, [{"style": "polka"}, {}])
    with pytest.raises(UserError, match="as many"):
        tagger.compute(sounds, [{"style": heard[0]}])
