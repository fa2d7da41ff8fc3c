"""Weights chosen by ear: the speaker is heard first, the best-scored step is kept, and resuming is exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contract.speecht5 import VOICE, save_speecht5
from tests.tiny import write_data
from tunesmith.config import load_config
from tunesmith.errors import ConfigError, Stopped, UserError
from tunesmith.families.speecht5.bundle import SpeechT5Bundle
from tunesmith.formats.adapter import read_card
from tunesmith.report.run import report_on_run
from tunesmith.training import judging
from tunesmith.training.log import read_metrics
from tunesmith.training.run import train
from tunesmith.types import Audio


class Ear:
    """Hears how the power is spread over eight bands."""

    label, key, window_s, dimension, small = "bands", "bands", 10.0, 8, True

    def embed(self, audio: Audio) -> np.ndarray:
        power = np.abs(np.fft.rfft(audio.samples[0])) ** 2 + 1e-9
        return np.log([[float(part.sum()) for part in np.array_split(power, 8)]])


class Clock:
    """Hears a phone each tenth of a second."""

    label = "clock"

    def phones(self, audio: Audio) -> list[str]:
        return ["a"] * (audio.samples.shape[1] * 10 // audio.sample_rate_hz)


@pytest.fixture
def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Settings of a short run on a tiny base that hears speakers."""
    base = save_speecht5(tmp_path / "base")
    data = write_data(tmp_path / "data", (0.4, 0.8, 0.5, 0.7, 0.6, 0.8))
    heard: list[int] = []

    def hear(self: SpeechT5Bundle, sounds: Any) -> torch.Tensor:
        heard.append(len(sounds))
        return torch.tensor(VOICE)

    monkeypatch.setattr(SpeechT5Bundle, "hear_speaker", hear)
    monkeypatch.setattr(judging, "open_encoder", lambda name: Ear())
    monkeypatch.setattr(judging, "open_recogniser", lambda asr: Clock())

    def make(**changes: Any) -> dict[str, Any]:
        plain = {
            "base": str(base),
            "method": {"name": "lora", "rank": 4},
            "data": str(data),
            "out": str(tmp_path / "run"),
            "train.lr": 1e-2,
            "train.steps": 6,
            "train.batch_size": 2,
            "train.eval_every": 2,
            "train.checkpoint_every": 2,
            "train.select": "voice",
            "train.caption_dropout": 0.0,
            "preview.every": 0,
            "voice.takes": 2,
            "watch": False,
        }
        return plain | {name.replace("__", "."): value for name, value in changes.items()}

    make.heard = heard  # type: ignore[attr-defined]
    return make


def test_the_speaker_of_the_training_recordings_is_the_conditioning(speaking: Any):
    result = train(load_config(settings=speaking()))
    card = read_card(result.folder)
    assert card["conditioning"]["speaker"] == pytest.approx(VOICE)
    assert speaking.heard == [4]  # the training side alone, once
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["speaker_heard"] is True
    assert facts["judge"] == {
        "ear": "bands",
        "recogniser": "clock",
        "unit": "phone",
        "takes": 2,
    }


def test_the_step_with_the_best_score_is_kept(speaking: Any):
    seen: list[tuple[str, Mapping[str, Any]]] = []
    result = train(
        load_config(settings=speaking()), on_event=lambda kind, values: seen.append((kind, values))
    )
    rows = [row for row in read_metrics(result.folder / "metrics.jsonl") if row["kind"] == "judged"]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert [values["step"] for kind, values in seen if kind == "judged"] == [0, 2, 4, 6]
    best = max(rows, key=lambda row: row["score"])
    assert result.used_step == best["step"]
    judged = read_card(result.folder)["metrics"]["judged"]
    assert judged["base"]["score"] == rows[0]["score"]
    assert judged["adapted"]["score"] == best["score"]
    (line,) = judging.figures_in_words(result.state, result.used_step)
    assert line.startswith("similarity ") and f"(step {best['step']})" in line
    report_on_run(result.folder)
    told = json.loads((result.folder / "report.json").read_text())
    assert told["metrics"]["similarity_while_training"]["n"] == 2
    assert "zero-shot" in told["evidence"][0]
    assert "similarity of a voice" in (result.folder / "README.md").read_text()


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(speaking: Any, tmp_path: Path):
    whole = train(load_config(settings=speaking()))
    settings = speaking(out=str(tmp_path / "torn"))

    class Stop:
        """A flag that is raised once the third step has been trained."""

        number = 0

        def __call__(self) -> int:
            return self.number

        def check(self, message: str) -> None:
            if self.number:
                raise Stopped(self.number, message)

    stop: Any = Stop()

    def watch(kind: str, values: Mapping[str, Any]) -> None:
        if kind == "train" and values["step"] == 3:
            stop.number = 2

    with pytest.raises(Stopped):
        train(load_config(settings=settings), stop=stop, on_event=watch)
    speaking.heard.clear()
    file = tmp_path / "torn" / "config.yaml"
    loaded = load_config(file, {"out": settings["out"]})
    resumed = train(loaded, resume=True)
    assert speaking.heard == []  # it is the vector that it was
    assert resumed.used_step == whole.used_step
    assert json.dumps(read_card(whole.folder)["metrics"]) == json.dumps(
        read_card(resumed.folder)["metrics"]
    )
    for file in sorted((whole.folder / "adapter").rglob("*.safetensors")):
        twin = resumed.folder / file.relative_to(whole.folder)
        assert file.read_bytes() == twin.read_bytes()


def test_data_that_say_their_speaker_are_believed(speaking: Any, tmp_path: Path):
    folder = tmp_path / "data" / "train"
    rows = ["file_name,text,speaker"]
    rows += [f'{file.name},some words,"{VOICE}"' for file in sorted(folder.glob("*.wav"))]
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    result = train(load_config(settings=speaking()))
    assert speaking.heard == []
    assert "speaker_heard" not in json.loads((result.folder / "run.json").read_text()) or (
        json.loads((result.folder / "run.json").read_text())["speaker_heard"] is False
    )


def test_music_is_not_judged_as_a_voice(
    settings: Callable[..., dict[str, Any]],
):
    with pytest.raises(UserError, match="does not speak a text"):
        train(load_config(settings=settings(train__select="voice")))


def test_a_voice_without_held_out_sentences_cannot_be_judged(speaking: Any, tmp_path: Path):
    for file in (tmp_path / "data" / "valid").glob("*.txt"):
        file.unlink()
    with pytest.raises(UserError, match="cannot be judged"):
        train(load_config(settings=speaking()))


def test_the_recipe_asks_for_consent_and_for_a_base_that_speaks(speaking: Any, tiny_base: Path):
    plain = {key: value for key, value in speaking().items() if not key.startswith("train.")}
    del plain["method"]
    plain |= {"method.rank": 4, "train.steps": 2, "train.batch_size": 2}
    with pytest.raises(UserError, match="nobody says that its owner agreed"):
        train(load_config(settings=plain, recipe="voice"))
    loaded = load_config(settings=plain | {"voice.consent": "mine"}, recipe="voice")
    assert loaded.config.train.select == "voice" and loaded.config.train.caption_dropout == 0
    assert "vocoder" in loaded.method_config.roles
    assert read_card(train(loaded).folder)["consent"] == "mine"
    with pytest.raises(ConfigError, match="needs a base that"):
        load_config(settings=plain | {"base": str(tiny_base)}, recipe="voice")
