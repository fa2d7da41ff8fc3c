"""Speech evaluated: zero-shot beside adapted, bounds beside similarity, words, pitch and pace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contract.speecht5 import VOICE, save_speecht5
from tests.tiny import write_data
from tunesmith.config import load_config
from tunesmith.evaluation import spoken
from tunesmith.evaluation.evaluate import Wishes, evaluate
from tunesmith.evaluation.findings import Evaluation, Finding, Subject
from tunesmith.evaluation.open import base_of, opened, voice_of
from tunesmith.evaluation.subjects import Wanted, wanted
from tunesmith.families.speecht5.bundle import SpeechT5Bundle
from tunesmith.report.compare import verdict_of
from tunesmith.training.recognise import Letters, open_recogniser, unit_of
from tunesmith.training.run import train
from tunesmith.types import Audio


class Ear:
    """Hears how the power is spread over eight bands."""

    label, key, window_s, dimension, small = "bands", "bands", 10.0, 8, True

    def embed(self, audio: Audio) -> np.ndarray:
        power = np.abs(np.fft.rfft(audio.samples[0])) ** 2 + 1e-9
        return np.log([[float(part.sum()) for part in np.array_split(power, 8)]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SpeechT5 that was told whose voice its data are of."""
    folder = tmp_path_factory.mktemp("spoken")
    patch = pytest.MonkeyPatch()
    patch.setattr(SpeechT5Bundle, "hear_speaker", lambda self, sounds: torch.tensor(VOICE))
    settings = {
        "base": str(save_speecht5(folder / "base")),
        "method": {"name": "lora", "rank": 4},
        "data": str(write_data(folder / "data", (0.4, 0.8, 0.5, 0.7, 0.6, 0.8), valid=3)),
        "out": str(folder / "mine"),
        "train.lr": 1e-2,
        "train.steps": 2,
        "train.batch_size": 2,
        "preview.every": 0,
        "watch": False,
    }
    train(load_config(settings=settings))
    patch.undo()
    return folder / "mine"


def test_a_run_is_compared_with_the_base_that_has_its_voice(run: Path):
    base = base_of(run)
    assert base.voice_of == str(run.resolve())
    assert voice_of(base)["speaker"] == pytest.approx(VOICE)
    bundle, _ = opened(base.plain(), None, "cpu")
    assert bundle.voice.tolist() == pytest.approx(VOICE)  # type: ignore[attr-defined]
    first, second = wanted([str(run)])
    assert first.kind == "base" and first.name.endswith("(zero-shot)")
    assert second.against == first.key
    plain, zero_shot, _ = wanted([base.name, str(run)])
    assert plain.base is not None and plain.base.voice_of == ""
    assert zero_shot.base == base


def test_everything_that_is_measured_of_speech_is_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spoken, "default_ear", lambda: "bands")
    monkeypatch.setattr(spoken, "has_mos", lambda: False)
    monkeypatch.setattr(spoken, "open_embedder", lambda name, device: Ear())
    wishes = Wishes(embeddings=("pocket",), takes=3, general_takes=0, workers=1, losses=False)
    found = evaluate([run], out=tmp_path / "out", wishes=wishes)
    base, mine = found.subjects
    for key in (base, mine):
        similarity = found.of(key, "speaker")
        assert similarity is not None and similarity.value is not None
        assert {"same_speaker", "different_speakers", "through_codec"} & set(similarity.details)
        for metric in ("phone_error", "pitch", "pitch_range", "rate"):
            one = found.of(key, metric)
            assert one is not None and (one.value is not None or one.missing), metric
    told = found.of(mine, "speaker")
    assert told is not None
    assert told.details["zero_shot"] == found.of(base, "speaker").value  # type: ignore[union-attr]
    # A take ends by itself, and is given the time to.
    assert found.seconds == pytest.approx(2.0, abs=0.01)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())


def heard(value: float, wrong: float, key: str) -> list[Finding]:
    return [
        Finding("speaker", key, value, "higher", details={"same_speaker": 0.9}),
        Finding("phone_error", key, wrong, "lower"),
    ]


@pytest.mark.parametrize(
    ("value", "wrong", "word"),
    [(0.8, 0.2, "better"), (0.5, 0.1, "worse"), (0.7, 0.6, "worse"), (0.6, 0.2, "no change")],
)
def test_below_zero_shot_is_called_worse(value: float, wrong: float, word: str):
    subjects = {
        "base": Subject("base", "base"),
        "mine": Subject("run", "mine", path="mine", against="base"),
    }
    findings = (*heard(0.6, 0.2, "base"), *heard(value, wrong, "mine"))
    evaluation = Evaluation(subjects, "", (), (), 1.0, findings)
    verdict = verdict_of(evaluation, "mine")
    assert verdict.word == word
    assert "zero-shot" in verdict.headline


def test_sentences_without_a_recording_have_no_phone_error(tmp_path: Path):
    from tunesmith.data.load import load_dataset
    from tunesmith.evaluation.subjects import Reference

    data = write_data(tmp_path / "data", (0.5, 0.5, 0.5), rate_hz=16_000)
    clips = tuple(load_dataset(data))
    subject = Wanted("a", "base", "a")
    (found,) = spoken.voices(
        [subject],
        {"a": [str(clips[0].path)]},
        ["nobody said that"],
        Reference(str(data), None, clips),
        phones=True,
    )
    assert found.value is None and "no prompt" in found.missing


def test_what_writes_down_says_what_it_counts():
    class Says:
        label = "says"

        def transcribe(self, audio: Audio) -> str:
            return "It's 7, you."

    letters = Letters(Says())  # type: ignore[arg-type]
    assert letters.phones(Audio(np.zeros((1, 8), np.float32), 8)) == list("it's7you")
    assert unit_of(letters) == "letter"
    assert unit_of(open_recogniser()) == "phone"
