"""Copies among takes, as files, with a codec and an ear small enough to see through."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from tunesmith.data.encode import cache_folder
from tunesmith.errors import UserError
from tunesmith.evaluation import memorised as evaluated
from tunesmith.evaluation.findings import Memorisation
from tunesmith.evaluation.memorised import memorised, memorised_run
from tunesmith.types import Audio, Clip

RATE, FRAME, FRAMES = 1600, 32, 60


class TwoTones:
    """A codec whose codes are the two loudest of fifteen tones in each frame."""

    sample_rate_hz, channels, max_s, frame_rate_hz, codec_hash = RATE, 1, 4.0, 50.0, "two-tones"

    def __init__(self) -> None:
        self.encoded = 0

    def encode_audio(self, audio: Audio) -> Tensor:
        self.encoded += 1
        mono = audio.samples[0]
        frames = mono[: len(mono) // FRAME * FRAME].reshape(-1, FRAME)
        loud = np.abs(np.fft.rfft(frames, axis=1))[:, 1:16]
        return torch.from_numpy(np.ascontiguousarray(np.argsort(-loud, axis=1)[:, :2].T))

    def decode_audio(self, codes: Tensor) -> Audio:
        t = np.arange(FRAME) / FRAME * 2 * np.pi
        tones = np.sin((codes.numpy()[..., None] + 1) * t)
        return Audio((0.5 * tones[0] + 0.25 * tones[1]).reshape(1, -1).astype(np.float32), RATE)


class Latents(TwoTones):
    codec_hash = "latents"

    def encode_audio(self, audio: Audio) -> Tensor:
        return super().encode_audio(audio).float()

    def decode_audio(self, codes: Tensor) -> Audio:
        return super().decode_audio(codes.long())


class Ear:
    """Mean spectra of fifths of a second."""

    label, key, window_s, dimension, small = "spectra", "spectra", 0.2, 17, True

    def __init__(self) -> None:
        self.heard = 0

    def embed(self, audio: Audio) -> np.ndarray:
        self.heard += 1
        size = int(self.window_s * audio.sample_rate_hz)
        count = max(1, audio.samples.shape[1] // size)
        parts = audio.samples[0, : count * size].reshape(count, -1, FRAME)
        return np.abs(np.fft.rfft(parts, axis=2)).mean(axis=1).astype(np.float64)


class Folder:
    """Recordings of random tones, and takes of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.rng, self.codec, self.ear = (
            root,
            np.random.default_rng(0),
            TwoTones(),
            Ear(),
        )
        self.codes = [self.random() for _ in range(12)]
        self.train = [self.write(f"train-{i}", codes) for i, codes in enumerate(self.codes)]
        self.unheard = [self.write(f"unheard-{i}", self.random()) for i in range(30)]

    def random(self) -> np.ndarray:
        return self.rng.permuted(np.tile(np.arange(15), (FRAMES, 1)), axis=1)[:, :2].T.copy()

    def write(self, name: str, codes: np.ndarray, level: float = 1.0) -> Path:
        path = self.root / f"{name}.wav"
        samples = self.codec.decode_audio(torch.from_numpy(codes)).samples[0] * level
        noise = self.rng.normal(0, 1e-3, samples.shape)
        soundfile.write(path, samples + noise, RATE, subtype="PCM_16")
        return path

    def takes(self, copies: int, others: int, level: float = 1.0) -> list[Path]:
        kind = f"{copies}-{others}-{level}"
        return [
            *(self.write(f"copy-{kind}-{i}", self.codes[i], level) for i in range(copies)),
            *(self.write(f"other-{kind}-{i}", self.random()) for i in range(others)),
        ]

    def memorised(self, takes: list[Path], **more) -> Memorisation:
        prompts = [f"prompt {i}" for i in range(len(takes))]
        seeds = list(range(100, 100 + len(takes)))
        given = {"embedder": self.ear, "codec": self.codec} | more
        return memorised(takes, prompts, seeds, self.train, self.unheard, **given)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return Folder(tmp_path)


def clips(paths: list[Path], split: Literal["train", "valid"] = "train") -> list[Clip]:
    return [
        Clip(
            path=path,
            caption="",
            split=split,
            recording=path.name,
            start_s=0.0,
            duration_s=1.2,
            sha256=path.name,
            caption_source="none",
            caption_confidence=0.0,
        )
        for path in paths
    ]


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_copies_are_told_worst_first(folder: Folder, level: float) -> None:
    found = folder.memorised(folder.takes(8, 12, level))
    assert found.flagged
    assert found.copies == 8
    assert found.takes == 20
    assert found.p_value < 0.01
    assert found.embedding == "spectra"
    assert len(found.matches) == evaluated.SHOWN
    assert [one.flagged for one in found.matches] == [True] * 8 + [False] * 2
    for match in found.matches[:8]:
        index = int(Path(match.take).stem.rpartition("-")[2])
        assert Path(match.clip).name == f"train-{index}.wav"
        assert (match.prompt, match.seed) == (f"prompt {index}", 100 + index)
        assert match.shared is not None and match.usual_shared is not None
        assert match.shared > 0.95 > match.usual_shared
    json.dumps(asdict(found), allow_nan=False)


def test_takes_of_its_own_are_no_copies(folder: Folder) -> None:
    found = folder.memorised(folder.takes(0, 30))
    assert not found.flagged
    assert found.copies <= 1
    assert len(found.matches) == evaluated.SHOWN


def test_a_shifted_copy_is_found_by_ear(folder: Folder) -> None:
    takes = folder.takes(6, 6)
    for path in takes[:6]:
        samples, _ = soundfile.read(path)
        soundfile.write(path, samples[round(0.11 * RATE) + FRAME // 2 :], RATE, subtype="PCM_16")
    found = folder.memorised(takes)
    assert {Path(one.take).stem[:4] for one in found.matches if one.flagged} == {"copy"}
    assert found.copies >= 5


@pytest.mark.parametrize("codec", [None, Latents()])
def test_without_codes_the_ear_alone_decides(folder: Folder, codec: TwoTones | None) -> None:
    found = folder.memorised(folder.takes(8, 12), codec=codec)
    assert found.flagged
    assert found.matches[0].shared is None
    assert found.matches[0].distance < found.matches[0].usual


def test_nothing_is_heard_twice(folder: Folder) -> None:
    takes = folder.takes(2, 3)
    first = folder.memorised(takes)
    heard, encoded = folder.ear.heard, folder.codec.encoded
    assert heard > 0 and encoded > 0
    assert folder.memorised(takes) == first
    assert (folder.ear.heard, folder.codec.encoded) == (heard, encoded)
    torn = next((cache_folder() / "memorisation").rglob("*.safetensors"))
    torn.write_bytes(b"half")
    assert folder.memorised(takes) == first


def test_a_run_gets_a_number_of_its_own(folder: Folder) -> None:
    takes, base = folder.takes(8, 12), folder.takes(0, 20)
    # The first held-out clip is a training clip under another name, and counts for nothing.
    unheard = [folder.write("leaked", folder.codes[0]), *folder.unheard]
    found, finding = memorised_run(
        "mine", takes, base, clips(folder.train), clips([*unheard, folder.train[1]], "valid"),
        ["x"] * 20, list(range(20)), folder.ear, lambda: folder.codec,
    )  # fmt: skip
    assert found is not None and found.flagged
    assert (finding.metric, finding.subject, finding.better) == ("memorisation", "mine", "lower")
    assert finding.value == found.copies / 20
    assert (finding.n, finding.n_reference, finding.embedding) == (20, 30, "spectra")
    assert finding.p_value == found.p_value
    assert finding.interval is not None and finding.interval[0] > 0.1
    assert finding.details["leaked"] == ["leaked.wav"]
    assert finding.details["most_shared_codes"] > 0.95
    assert any("30 unheard clips" in one for one in finding.warnings)
    assert any("copies of training clips" in one for one in finding.warnings)
    json.dumps(finding.plain(), allow_nan=False)


def test_what_cannot_be_told_is_missing(folder: Folder) -> None:
    takes = folder.takes(0, 3)
    common = (["x"] * 3, [1, 2, 3], folder.ear, folder.codec)
    found, finding = memorised_run("mine", takes, [], [], clips(folder.unheard), *common)
    assert found is None and finding.value is None
    assert finding.missing == "the clips that it was trained on are not there"
    few = clips(folder.unheard[:9], "valid")
    found, finding = memorised_run("mine", takes, [], clips(folder.train), few, *common)
    assert found is None
    assert finding.missing.startswith("9 unheard clips are too few, 10 are the least")


def test_a_file_that_is_not_there_is_named(folder: Folder) -> None:
    with pytest.raises(UserError, match=r"nowhere\.wav"):
        folder.memorised([*folder.takes(0, 2), folder.root / "nowhere.wav"])
    with pytest.raises(UserError, match="a prompt"):
        memorised(folder.takes(0, 2), ["x"], None, folder.train, folder.unheard)
