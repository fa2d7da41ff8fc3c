"""The recogniser of phones that ships, the networks' files, and the mels that they take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import load_file, save_file
from transformers import SpeechT5FeatureExtractor

from tunesmith.analysis import speech_mels, speech_nets
from tunesmith.analysis.phones import FILE, PhoneRecogniser
from tunesmith.errors import UserError
from tunesmith.metrics.phone_error import edits
from tunesmith.types import Audio


def save(path: Path, network: Any, kind: str, **config: Any) -> Path:
    whole = {"kind": kind, "network": network.config, **config}
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(weights, path, metadata={"config": json.dumps(whole)})
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser of three phones that has learnt nothing."""
    torch.manual_seed(0)
    network = speech_nets.Recogniser(3, width=16, depth=1, kernel=3)
    path = tmp_path_factory.mktemp("phones") / "own.safetensors"
    return save(path, network, "recogniser", phones=["a", "b", "c"])


def noise(seconds: float, rate_hz: int = 16_000, channels: int = 1) -> Audio:
    draw = np.random.default_rng(0)
    samples = draw.normal(0, 0.1, (channels, round(seconds * rate_hz)))
    return Audio(samples.astype(np.float32), rate_hz)


def test_mels_are_the_librarys_to_the_float():
    library = SpeechT5FeatureExtractor()
    for seconds in (0.04, 0.5, 1.2345):
        wave = noise(seconds).samples[0]
        wave[200:400] = 0.0
        wanted = library._extract_mel_features(wave)
        made = speech_mels.log_mels(torch.from_numpy(wave)[None], [len(wave)])[0]
        assert made.numpy() == pytest.approx(wanted, abs=1e-4)


def test_mels_of_a_row_do_not_depend_on_what_stands_beside_it():
    long, short = (noise(s).samples[0] for s in (1.0, 0.3))
    rows = torch.zeros(2, len(long))
    rows[0], rows[1, : len(short)] = torch.from_numpy(long), torch.from_numpy(short)
    both = speech_mels.log_mels(rows, [len(long), len(short)])
    alone = speech_mels.log_mels(torch.from_numpy(short)[None], [len(short)])[0]
    assert torch.allclose(both[1], alone, atol=1e-5)
    with pytest.raises(ValueError, match="too short"):
        speech_mels.log_mels(rows, [len(long), 512])


def test_what_ships_opens_once_and_says_which_it_is():
    ear = PhoneRecogniser.load()
    assert ear is PhoneRecogniser.load(FILE)
    assert ear.label.startswith("phones@") and len(ear.inventory) > 80
    assert {"ə", "ɹ", "t"} <= set(ear.inventory)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_silence_and_crumbs_have_no_phones(rate_hz: int):
    ear = PhoneRecogniser.load()
    assert ear.phones(Audio(np.zeros((2, rate_hz), np.float32), rate_hz)) == []
    assert ear.phones(Audio(np.full((1, rate_hz), 3e-5, np.float32), rate_hz)) == []
    assert ear.phones(noise(0.03, rate_hz)) == []
    assert ear.phones(Audio(np.zeros((1, 0), np.float32), rate_hz)) == []


def test_what_is_heard_is_the_same_every_time_at_any_level(own: Path):
    ear = PhoneRecogniser.load(own)
    sound = noise(1.0)
    heard = ear.phones(sound)
    assert heard and set(heard) <= {"a", "b", "c"}
    assert ear.phones(sound) == heard
    assert ear.phones(Audio(np.repeat(sound.samples, 2, axis=0), 16_000)) == heard
    assert ear.phones(Audio(sound.samples / 8, 16_000)) == heard
    with pytest.raises(UserError, match="NaN"):
        ear.phones(Audio(np.full((1, 16_000), np.nan, np.float32), 16_000))


def test_other_files_are_refused(own: Path, tmp_path: Path):
    voice = save(tmp_path / "x.safetensors", speech_nets.XVector(8, 8, 8), "xvector")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(own.read_bytes()[:-9])
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(own), bare)
    less = load_file(own)
    less.pop("norm.weight")
    config = {"kind": "recogniser", "network": speech_nets.load(own)[0].config, "phones": ["a"]}
    few = tmp_path / "few.safetensors"
    save_file(less, few, metadata={"config": json.dumps(config)})
    for path, why in (
        (voice, "holds a xvector, not a recogniser"),
        (torn, "does not load"),
        (bare, "does not load"),
        (few, "1 tensors are missing or too many: norm.weight"),
        (tmp_path / "none.safetensors", "no such weights"),
    ):
        with pytest.raises(UserError, match=why):
            PhoneRecogniser.load(path)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_it_hears_what_a_voice_says_that_it_never_heard(rate_hz: int):
    from pretrain.voice.speak import speak
    from pretrain.voice.speakers import speakers

    ear, wrong, said = PhoneRecogniser.load(), 0, 0
    for text in (
        "the quick brown fox jumps over the lazy dog.",
        "there are many houses in the town.",
    ):
        spoken = speak(text, speakers("heldvoice")[0])
        mono = spoken.sound.astype(np.float32) / 32768
        sound = Audio(soxr.resample(mono, 16_000, rate_hz)[None], rate_hz)
        wrong += edits(spoken.phones, ear.phones(sound))
        said += len(spoken.phones)
    assert wrong / said < 0.25
