"""A stage of pre-training that was stopped goes on to the very same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

pytest.importorskip("mido", reason="the composer's extra is not installed")

from pretrain import checkpoint, codec, decoder, lm
from pretrain.codec_model import build_codec
from pretrain.compose import compose


class Stopped(Exception):
    pass


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Three clips of noise and their codes for each split, and an untrained codec."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    (tmp_path / "codes").mkdir()
    for split, first in (("train", 0), ("valid", 1_000_000)):
        pieces = [compose(seed) for seed in range(first, first + 3)]
        noise = rng.normal(0, 2000, (3, 160_000)).astype(np.int16)
        np.save(tmp_path / "clips" / f"{split}-0000.npy", noise)
        codes = rng.integers(0, 512, (3, 4, 500)).astype(np.int16)
        np.save(tmp_path / "codes" / f"{split}-0000.npy", codes)
        rows = [{"captions": p.captions, "labels": asdict(p.labels)} for p in pieces]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "clips" / f"{split}-0000.jsonl").write_text(text)
    return tmp_path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def whole_and_parts(
    work: Path, name: str, train: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a stage saves when it runs through, and when it is stopped after its first step."""
    train(work)
    whole = work / f"{name}.safetensors"
    found = tensors(whole)
    whole.unlink()
    (work / "logs" / f"{name}.jsonl").unlink(missing_ok=True)
    saved = checkpoint.save

    def save_and_stop(*args: object) -> None:
        saved(*args)  # pyright: ignore[reportArgumentType]
        raise Stopped

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Stopped):
        train(work)
    monkeypatch.setattr(checkpoint, "save", saved)
    train(work)
    return found, tensors(whole)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_language_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(lm, "BATCH_TOKENS", 1000)
    checkpoint.save(work / "codec.safetensors", build_codec(0), None, {"step": 0})

    def train(folder: Path) -> None:
        lm.train(folder, 3, 1e6, 0, None)

    assert same(*whole_and_parts(work, "lm", train, monkeypatch))


def test_the_codec_from_waveforms_to_codebooks(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(codec, "BATCH", 2)
    monkeypatch.setattr(codec, "FIT_BATCHES", 1)

    def train(folder: Path) -> None:
        codec.train(folder, 3, 1e6, 0)

    assert same(*whole_and_parts(work, "codec", train, monkeypatch))


def test_the_decoder_alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(decoder, "BATCH", 2)
    checkpoint.save(work / "codec.safetensors", build_codec(0), None, {"step": 0})

    def train(folder: Path) -> None:
        decoder.train(folder, 3, 1e6, 0)

    assert same(*whole_and_parts(work, "decoder", train, monkeypatch))
