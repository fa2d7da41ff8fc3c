"""`prepare --voice` end to end, with voices made by rule."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from voices import RATE_HZ, pause, phrases, put

from tunesmith.captioners import Told
from tunesmith.cli.prepare import report
from tunesmith.data import check, load_dataset, prepare
from tunesmith.data import voice as voices_module
from tunesmith.data.screen import check_keep
from tunesmith.embeddings import resemblyzer
from tunesmith.errors import UserError

needs_networks = pytest.mark.skipif(
    any(find_spec(one) is None for one in ("silero_vad", "onnxruntime", "speechmos")),
    reason="silero-vad, onnxruntime or speechmos is not installed",
)
OURS = {"voice": True, "consent": "a test's own voice", "workers": 0}


def rejected(dest: Path) -> list[dict]:
    return [json.loads(line) for line in (dest / "rejected.jsonl").read_text().splitlines()]


class Parrot:
    """A recogniser that says what it was told to, clip after clip."""

    source = "asr"
    label = "parrot"

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.fingerprint = json.dumps(lines)
        self.asked = 0

    def caption(self, clips):
        found = self.lines[self.asked : self.asked + len(clips)]
        self.asked += len(clips)
        return [Told(line, 0.8) for line in found]


def with_parrot(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    class Recogniser(Parrot):
        def __init__(self, name: str, language: str) -> None:
            super().__init__(*lines)

    monkeypatch.setattr(voices_module, "Recogniser", Recogniser)


def test_consent_is_asked_for_first(tmp_path: Path):
    put(tmp_path / "in" / "a.wav", pause(3.0), "words")
    for consent in (None, "", "  "):
        with pytest.raises(UserError, match="need the consent") as caught:
            prepare(tmp_path / "in", tmp_path / "out", voice=True, consent=consent)
        assert "--consent" in caught.value.mend
    for setting in ("consent", "asr", "language", "encoder"):
        with pytest.raises(UserError, match=f"--{setting} is for recordings of a voice"):
            prepare(tmp_path / "in", tmp_path / "out", **{setting: "x"})
    for setting in ("caption", "captioner"):
        with pytest.raises(UserError, match="does not tell what is said"):
            prepare(tmp_path / "in", tmp_path / "out", **OURS, **{setting: "x"})


def test_faults_of_voices_are_named_for_voices_only():
    assert "noise" not in check_keep(["all"])
    assert {"noise", "music", "clipping"} < set(check_keep(["all"], voice=True))
    with pytest.raises(UserError, match="looked for in voices only"):
        check_keep(["music"])
    with pytest.raises(UserError, match="no fault called"):
        check_keep(["musik"], voice=True)


@needs_networks
def test_no_text_anywhere_is_said_at_once(tmp_path: Path):
    put(tmp_path / "in" / "a.wav", phrases([2.0]))
    with pytest.raises(UserError, match="none of 1 recordings says what is spoken") as caught:
        prepare(tmp_path / "in", tmp_path / "out", **OURS)
    assert "--asr" in caught.value.mend and "--keep transcript" in caught.value.mend
    assert not (tmp_path / "out").exists()


@needs_networks
def test_a_voice_becomes_clips_with_what_is_said(tmp_path: Path):
    for number in range(3):
        put(tmp_path / "in" / f"{number}.wav", phrases([2.0, 1.5], seed=number), f"line {number}")
    put(tmp_path / "in" / "long.wav", phrases([6.0, 5.0, 4.0], seed=7), "much is said here")
    put(tmp_path / "in" / "mute.wav", phrases([2.0], seed=8))
    put(tmp_path / "in" / "empty.wav", pause(3.0, floor=0.01), "nobody says this")
    summary = prepare(tmp_path / "in", tmp_path / "out", language="en", **OURS)
    clips = {clip.recording: clip for clip in load_dataset(tmp_path / "out")}
    assert {name: clip.caption for name, clip in clips.items()} == {
        f"{number}.wav": f"line {number}" for number in range(3)
    }
    assert clips["0.wav"].caption_source == "sidecar"
    assert clips["0.wav"].extra["language"] == "en"
    assert clips["0.wav"].start_s == pytest.approx(0.42, abs=0.1)
    assert clips["0.wav"].duration_s == pytest.approx(4.2, abs=0.3)
    rows = rejected(tmp_path / "out")
    reasons = {row["file"]: (row["fault"], row["reason"]) for row in rows}
    assert reasons["empty.wav"][0] == "no_speech"
    assert reasons["mute.wav"][0] == "transcript" and "no transcript" in reasons["mute.wav"][1]
    assert reasons["long.wav"][0] == "transcript" and "which part" in reasons["long.wav"][1]
    assert reasons.keys() == {"empty.wav", "mute.wav", "long.wav"}
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    told = described["voice"]
    assert told["consent"] == OURS["consent"] and told["clips"] == 3
    assert told["texts"] == {"sidecar": 3} and told["refused"]["no_speech"] == 1
    measured = json.loads((tmp_path / "out" / "measures.jsonl").read_text().splitlines()[0])
    assert measured["voice"]["snr_db"] > 25 and measured["voice"]["background_mos"] > 2.5
    lines = report(summary, tmp_path / "out", None)
    assert any(line.startswith("voice: too little: 0.2 minutes") for line in lines)
    assert any("clean enough" in line for line in lines)
    assert any("--method voice" in line for line in lines)
    verdict = check(tmp_path / "out", "voice").verdict
    assert any(sentence.startswith("Clean enough") for sentence in verdict.sentences)
    assert any("never said" in sentence for sentence in verdict.sentences)
    again = prepare(tmp_path / "in", tmp_path / "out", language="en", **OURS)
    assert again.unchanged


@needs_networks
def test_noise_music_and_rooms_are_named(tmp_path: Path):
    clean = phrases([1.0, 1.5, 1.2], gap_s=0.4)
    time_s = np.arange(len(clean)) / RATE_HZ
    rng = np.random.default_rng(0)
    tail = rng.standard_normal(RATE_HZ) * 10 ** (-3 * np.arange(RATE_HZ) / RATE_HZ)
    tail[0] = np.sqrt(np.sum(tail[1:] ** 2))
    level = float(np.sqrt(np.mean(clean**2)))
    made = {
        "clean": clean,
        "noise": clean + 0.3 * level * rng.standard_normal(len(clean)),
        "music": clean
        + 0.1
        * level
        * sum(np.sin(2 * np.pi * hz * time_s) for hz in (440, 554.4, 659.3, 880, 1318.5, 1760))
        * np.repeat(rng.uniform(0.6, 1, len(clean) // 8000 + 1), 8000)[: len(clean)],
        "reverberation": 0.5 * np.convolve(clean, tail / np.sqrt(np.sum(tail**2)))[: len(clean)],
        "clipping": np.clip(6 * clean, -0.5, 0.5),
    }
    for name, sound in made.items():
        put(tmp_path / "in" / f"{name}.wav", sound.astype(np.float32), "words")
    keep = ["near_duplicate", "other_speaker"]
    prepare(tmp_path / "in", tmp_path / "out", **OURS, keep=keep)
    assert {clip.recording for clip in load_dataset(tmp_path / "out")} == {"clean.wav"}
    for row in rejected(tmp_path / "out"):
        assert row["figure"] is not None and row["unit"]
    found = {row["file"].removesuffix(".wav"): row["fault"] for row in rejected(tmp_path / "out")}
    assert found.pop("reverberation") in ("reverberation", "noise")
    assert found == {name: name for name in ("noise", "music", "clipping")}
    prepare(tmp_path / "in", tmp_path / "all", **OURS, keep=["all"], valid_share=0.0)
    assert len(load_dataset(tmp_path / "all")) == len(made)


@needs_networks
@pytest.mark.skipif(not resemblyzer.available(), reason="resemblyzer's weights are not installed")
def test_another_speaker_is_listed(tmp_path: Path):
    for number in range(8):
        put(tmp_path / "in" / f"{number}.wav", phrases([2.5], seed=number), "words")
    put(tmp_path / "in" / "x.wav", phrases([2.5], seed=3, pitch_hz=220.0, size=1.25), "words")
    prepare(tmp_path / "in", tmp_path / "out", **OURS, encoder="resemblyzer")
    (row,) = rejected(tmp_path / "out")
    assert (row["file"], row["fault"]) == ("x.wav", "other_speaker") and row["figure"] > 2.5
    prepare(tmp_path / "in", tmp_path / "out", **OURS, keep=["other_speaker"])
    assert not rejected(tmp_path / "out")


@needs_networks
def test_a_recogniser_places_a_text_and_is_held_against_it(tmp_path: Path, monkeypatch):
    put(tmp_path / "in" / "a.wav", phrases([6.0, 5.0, 4.0]), "The first part. Then the second one.")
    put(tmp_path / "in" / "b.wav", phrases([2.0], seed=1), "What is written here")
    put(tmp_path / "in" / "c.wav", phrases([2.0], seed=2))
    put(tmp_path / "in" / "d.wav", phrases([2.0], seed=3))
    with_parrot(
        monkeypatch,
        "the first part",
        "than the second one",
        "is never said at all",
        "only heard",
        "",
    )
    prepare(tmp_path / "in", tmp_path / "out", **OURS, asr="parrot", keep=["other_speaker"])
    clips = sorted(load_dataset(tmp_path / "out"), key=lambda clip: (clip.recording, clip.start_s))
    assert [(clip.recording, clip.caption, clip.caption_source) for clip in clips] == [
        ("a.wav", "The first part.", "sidecar"),
        ("a.wav", "Then the second one.", "sidecar"),
        ("c.wav", "only heard", "asr"),
    ]
    rows = {row["file"]: row for row in rejected(tmp_path / "out")}
    assert rows["b.wav"]["fault"] == "transcript" and rows["b.wav"]["figure"] > 30
    assert "is never said at all" in rows["b.wav"]["reason"]
    assert "understood nothing" in rows["d.wav"]["reason"]
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["voice"]["asr"] == "parrot"
    assert described["voice"]["word_error_rate"] == pytest.approx(1 / 7, abs=1e-3)


@needs_networks
def test_music_knows_nothing_of_voices(tmp_path: Path):
    """The records and the description of a data set of music hold no word of a voice."""
    time_s = np.arange(12 * RATE_HZ) / RATE_HZ
    sound = 0.2 * np.sin(2 * np.pi * 220 * time_s) * np.exp(-4 * (time_s % 0.5))
    put(tmp_path / "in" / "a.wav", sound.astype(np.float32), "a tone")
    prepare(tmp_path / "in", tmp_path / "out", min_s=2.0, max_s=5.0, workers=0, keep=["all"])
    for path in (tmp_path / "out").rglob("*.json*"):
        assert '"voice"' not in path.read_text(), path.name


@needs_networks
def test_a_trigger_stands_before_the_text_and_is_not_held_against_it(tmp_path: Path, monkeypatch):
    put(tmp_path / "in" / "a.wav", phrases([2.0], seed=1), "What is written here")
    with_parrot(monkeypatch, "what is written here")
    prepare(tmp_path / "in", tmp_path / "out", **OURS, asr="parrot", trigger="ohwx")
    (clip,) = load_dataset(tmp_path / "out")
    assert clip.caption == "ohwx, What is written here"
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["voice"]["word_error_rate"] == 0.0
