"""The tagger's training on made-up log-mels: it resumes, and batches follow from the seed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mido", reason="the composer's extra is not installed")

from pretrain import tagger as training
from pretrain.compose import compose
from tunesmith.metrics import tagger


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard of six clips for each split, five seconds each, and log-mels."""
    monkeypatch.setattr(training, "BATCH", 4)
    rng = np.random.default_rng(0)

    def mels(count: int) -> np.ndarray:
        return rng.normal(-4, 1, (count, tagger.BANDS, 313)).astype(np.float16)

    for name, first in (("train-0000", 0), ("judge-0000", 6_000_000), ("valid-0000", 1_000_000)):
        np.save(tmp_path / f"{name}.npy", np.zeros((6, 4), np.int16))
        np.save(tmp_path / f"mel-{name}.npy", mels(6))
        np.save(tmp_path / f"coded-{name}.npy", mels(6 if name.startswith("valid") else 2))
        labels = [compose(seed).labels for seed in range(first, first + 6)]
        rows = [{"labels": asdict(one)} for one in labels]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in training.SPLITS:
        np.save(tmp_path / f"outliers-{split}.npy", mels(3))
    return tmp_path


def test_a_batch_follows_from_seed_and_step(kept: Path) -> None:
    data = training.Data(kept, kept, "embedding")
    assert (data.plain, data.count, len(data.mels)) == (6, 8, 11)
    assert data.shards == ["train-0000"]
    # The judge learns from clips that nothing else hears.
    assert training.Data(kept, kept, "judge").shards == ["judge-0000"]
    first, again, other = (data.batch(0, step) for step in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[2], again[2])
    assert not torch.equal(first[2], other[2])
    made, strength = training.varied(first[0], 0, 3)
    assert torch.equal(made, training.varied(first[0], 0, 3)[0])
    assert made.shape == first[0].shape and torch.isfinite(made).all() and (made >= 0).all()
    assert strength.min() >= 0 and strength.max() <= 1


def test_training_resumes_to_the_same_weights(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EVALUATE_EVERY", 1000)
    for stop in ("whole", "parts"):
        work = kept / stop
        (work / "tagger").mkdir(parents=True)
        for path in kept.glob("*-*.npy"):
            (work / "tagger" / path.name).symlink_to(path)
    training.train(kept, kept / "whole", "embedding", 3, 0)
    # A run that is stopped after its first step has the schedule of the whole.
    saved = training.checkpoint.save
    monkeypatch.setattr(training, "SAVE_EVERY_S", -1.0)

    class Stopped(Exception):
        pass

    def save_and_stop(*args: object) -> None:
        saved(*args)
        raise Stopped

    monkeypatch.setattr(training.checkpoint, "save", save_and_stop)
    with pytest.raises(Stopped):
        training.train(kept, kept / "parts", "embedding", 3, 0)
    monkeypatch.setattr(training.checkpoint, "save", saved)
    training.train(kept, kept / "parts", "embedding", 3, 0)
    weights = [training.Learner(0), training.Learner(1)]
    for learner, name in zip(weights, ("whole", "parts"), strict=True):
        training.checkpoint.load(kept / name / "tagger" / "embedding.safetensors", learner)
    for a, b in zip(weights[0].parameters(), weights[1].parameters(), strict=True):
        assert torch.equal(a, b)
    out = kept / "out"
    training.export(kept, kept / "whole", "embedding", 0, out, "both")
    made = tagger.load(out)
    assert made.config["training"]["steps"] == 3
    assert np.isfinite(made.config["familiarity"]["threshold"])
